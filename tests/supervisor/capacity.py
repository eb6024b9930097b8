"""How many executors a service had in service, read from its events."""

from __future__ import annotations

from service_harness import Line, Service


def in_service(lines: list[Line]) -> list[int]:
    """How many executors were ready and not on their way out, after each line."""
    ready, counts = set[tuple[str, int]](), []
    for line in lines:
        actor = (line.get("actor", ""), line.get("incarnation", 0))
        match line.get("event"):
            case "actor.ready" if actor[0].startswith("executor"):
                ready.add(actor)
            case "actor.retiring" | "actor.stopped" | "actor.crashed" | "actor.killed":
                ready.discard(actor)
            case _:
                continue
        counts.append(len(ready))
    return counts


def lowest(service: Service) -> int:
    """The fewest executors in service since the service as a whole was ready, up to its stop."""
    start = service.lines.index(service.seen(event="service.ready")[0])
    stops = [service.lines.index(line) for line in service.seen(event="service.stopping")]
    counts = in_service(service.lines[: stops[0] if stops else None])
    before = len(in_service(service.lines[:start]))
    return min(counts[before - 1 :])
