"""A service for the supervisor's tests: children and settings as JSON in its arguments, each event a JSON line on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from shiftboss.errors import ConfigError
from shiftboss.supervisor import Blueprint, ChildSpec, Reloadable, Restart, Supervisor, SupervisorSettings

BROKEN_WHEN = os.environ.get("BROKEN_WHEN", "")


class JsonLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {"event": getattr(record, "event", None), "level": record.levelname, "message": record.getMessage(), **fields}
        os.write(2, (json.dumps(line, default=str) + "\n").encode())


def spec(fields: dict[str, Any]) -> ChildSpec:
    fields = {**fields, "argv": tuple(fields["argv"]), "links": tuple(fields.get("links", ()))}
    return ChildSpec(**{**fields, "restart": Restart(fields.get("restart", "permanent"))})


def understand(_present: bytes, checked: bytes) -> Blueprint:
    """What the check has read says itself what is to be done."""
    plan = json.loads(checked)
    if plan["refuse"]:
        raise ConfigError(plan["refuse"])
    return Blueprint(
        specs=tuple(map(spec, plan["specs"])),
        supervisor=SupervisorSettings(**plan["supervisor"]),
        replace=frozenset(plan["replace"]),
        settings=checked,
        changes=tuple(plan["changes"]),
    )


def applied(settings: bytes) -> None:
    logging.getLogger("service").info("applied", extra={"fields": {"version": json.loads(settings)["version"]}})


def flush_log() -> bool:
    """Fails in the supervisor's own loop once the file is there, as code does that has an error."""
    if BROKEN_WHEN and Path(BROKEN_WHEN).exists():
        raise RuntimeError("broken on purpose")
    return True


def main() -> int:
    specs_json, settings_json, check_json, control_path = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG, handlers=[JsonLines()])
    supervisor = Supervisor(
        [spec(fields) for fields in json.loads(specs_json)],
        SupervisorSettings(**json.loads(settings_json)),
        reloadable=Reloadable(b"{}", spec(json.loads(check_json)), understand, applied) if check_json else None,
        control_path=Path(control_path) if control_path else None,
        flush_log=flush_log,
    )
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
