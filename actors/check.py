"""The throw-away process of a reload: reads the configuration afresh and imports the code it names, where nothing can break.

It never says that it is ready. How long it may take is up to the supervisor, which dumps and kills one that hangs in an import.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from shiftboss.actors.handlers import load_handlers, raised_by_them
from shiftboss.actors.messages import Died, LinkDown, Linked
from shiftboss.actors.process import ProcessActor
from shiftboss.config import load_again, settings_to_json
from shiftboss.control import Checked, Drain, Resume, Stop
from shiftboss.errors import ConfigError

log = logging.getLogger("shiftboss.check")
_MAX_ERROR_CHARS: Final = 16_000  # a control message holds 64 KiB


class Check(ProcessActor):
    """Answers `Checked` and ends."""

    def begin(self) -> None:
        self.process.tell_parent(self._checked())
        self.process.end(0)

    def receive(self, message: Any) -> None:
        match message:
            case Stop():
                self.process.end(0)
            case Linked() | LinkDown() | Died() | Drain() | Resume():
                pass
            case _:
                raise TypeError(f"a check does not know {message!r}")

    def _checked(self) -> Checked:
        if not self.process.source:
            return Checked(error="it was not started by `shiftboss start`: where its settings came from is not known; restart it")
        try:
            settings = load_again(self.process.source).settings
        except ConfigError as error:
            return Checked(error=str(error)[:_MAX_ERROR_CHARS])
        try:
            load_handlers(settings)
        except Exception as error:  # user code is imported here: it may raise anything
            log.error("the code of the new configuration cannot be used: %s", error, exc_info=raised_by_them(error))
            return Checked(error=str(error)[:_MAX_ERROR_CHARS])
        return Checked(settings=settings_to_json(settings))
