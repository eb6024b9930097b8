"""A service for the supervisor's tests: children and settings as JSON in its arguments, each event a JSON line on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from shiftboss.supervisor import ChildSpec, Restart, Supervisor, SupervisorSettings


class JsonLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {"event": getattr(record, "event", None), "level": record.levelname, "message": record.getMessage(), **fields}
        os.write(2, (json.dumps(line, default=str) + "\n").encode())


def main() -> int:
    specs_json, settings_json = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG, handlers=[JsonLines()])
    specs = []
    for fields in json.loads(specs_json):
        fields["argv"], fields["links"] = tuple(fields["argv"]), tuple(fields.get("links", ()))
        fields["restart"] = Restart(fields.get("restart", "permanent"))
        specs.append(ChildSpec(**fields))
    return Supervisor(specs, SupervisorSettings(**json.loads(settings_json))).run()


if __name__ == "__main__":
    sys.exit(main())
