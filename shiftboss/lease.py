"""How long a worker may trust its own leases, and a leader its term: pure, on the monotonic clock.

A lease bounds waiting; the fencing token bounds writing. Trust is anchored *before* the request was sent, so a slow
round trip never stretches it.
"""

from __future__ import annotations

import msgspec


class TrustWindow(msgspec.Struct, frozen=True):
    """From when, on the monotonic clock, and for how long a renewal may be believed.

    Attributes:
        sent_at_s: monotonic seconds at which the renewal that succeeded was sent.
        ttl_s: how long the other side promised to wait from the moment it stored the renewal.
    """

    sent_at_s: float
    ttl_s: float

    def trusted(self, now_s: float) -> bool:
        """Whether the promise still holds at monotonic `now_s`."""
        return now_s < self.sent_at_s + self.ttl_s


class LeaderLease(msgspec.Struct, frozen=True):
    """The right to run maintenance: every leader-only write carries the term.

    Attributes:
        worker_id: the holder.
        term: rises by one at every change of holder; never reused.
    """

    worker_id: str
    term: int
