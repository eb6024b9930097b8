"""What is to be done later, by the monotonic clock: a few dozen at most, so a plain dict."""

from __future__ import annotations

from collections.abc import Callable

from shiftboss.clock import Clock

TimerKey = tuple[str, str]  # whose ("" for the service's own), what


class Timers:
    """One timer a key; setting it again moves it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: dict[TimerKey, tuple[float, Callable[[], None]]] = {}

    def set(self, owner: str, what: str, delay_s: float, action: Callable[[], None]) -> None:
        """Run `action` once, in `delay_s` seconds."""
        self._timers[(owner, what)] = (self._clock.monotonic_s() + delay_s, action)

    def is_set(self, owner: str, what: str) -> bool:
        return (owner, what) in self._timers

    def cancel(self, owner: str, what: str) -> None:
        """No error when it is not set: it may just have run."""
        self._timers.pop((owner, what), None)

    def cancel_all(self, owner: str) -> None:
        for key in [key for key in self._timers if key[0] == owner]:
            del self._timers[key]

    def next_s(self) -> float | None:
        """When the earliest is due, on the monotonic clock."""
        return min((due_s for due_s, _ in self._timers.values()), default=None)

    def run_due(self) -> None:
        """Run those that are due now, the earliest first; one that is set or cancelled meanwhile is respected."""
        now_s = self._clock.monotonic_s()
        due = sorted((due_s, key) for key, (due_s, _) in self._timers.items() if due_s <= now_s)
        for due_s, key in due:
            timer = self._timers.get(key)
            if timer is not None and timer[0] == due_s:
                del self._timers[key]
                timer[1]()
