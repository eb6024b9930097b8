"""Mutants of the real code: rules of the protocol broken one by one, each to be caught by the cheapest gate that can.

`python -m tests.model.mutants [WORD]` copies the package into a temporary folder, changes the copy, runs the gate on it and
prints mutant, gate, seconds. It fails when a mutant survives, when a gate fails on the unchanged copy, or when the text to
change is not there any more. The checkout itself is never touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = ("shiftboss", "tests", "pyproject.toml")
AT_ONCE: Final = 2
GATE_S: Final = 300.0
# A mutant that cannot be loaded proves nothing about the gate.
NOT_A_MUTANT: Final = ("SyntaxError", "ImportError", "syntax error", "no such column", "errors during collection", "no tests ran")

SQLITE: Final = "shiftboss/store/sqlite/"
POSTGRES: Final = "shiftboss/store/postgres/"
RULES: Final = "tests/model/test_rules.py"
CLAIM: Final = "tests/store/test_postgres_claim.py"
WAYS: Final = "tests/store/test_postgres_ways.py"
RANGES: Final = "tests/store/test_postgres_claim_ranges.py"
LEADER: Final = "tests/store/test_store_leader.py"
VERDICTS: Final = "tests/store/test_store_verdicts.py"
FORGETTING: Final = "tests/store/test_store_without_history.py"
HISTORIES: Final = "tests/model/test_histories.py"

Change = tuple[str, str, str]  # file, exact text, new text


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken rule on one database (or `pure`: on none); `only` narrows the gate down (pytest's -k)."""

    name: str
    backend: str
    gate: str
    changes: tuple[Change, ...]
    only: str = ""

    @property
    def chosen(self) -> tuple[str, ...]:
        """The gate as pytest's arguments."""
        backend = self.backend if self.gate in (RULES, LEADER, FORGETTING) else ""
        words = " and ".join(word for word in (backend, self.only) if word)
        return (self.gate, *(("-k", words) if words else ()))


def _pair(name: str, gate: str, sqlite: Change, postgres: Change, only: str = "") -> tuple[Mutant, Mutant]:
    return Mutant(name, "sqlite", gate, (sqlite,), only), Mutant(name, "postgres", gate, (postgres,), only)


def _pure(name: str, change: Change, only: str) -> Mutant:
    return Mutant(name, "pure", HISTORIES, (change,), only)


_LAST_DUE = "last_due = greatest(r.last_due, excluded.last_due), claims = r.claims + 1\n\n-- name: claim_chosen"
_NO_ROW = "WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = r.worker_id)"
_HELD_SQLITE = "CROSS JOIN tasks AS t ON t.id = i.value\nWHERE t.status IN ('claimed', 'running');"
_FENCE_SQLITE = "for place in _places_decoder.decode(text) if self._ended[place].fence == fence]"
_LEASED_SQLITE = "WHERE t.status IN ('claimed', 'running')\nGROUP BY t.type, t.fence;"
_ENDED_POSTGRES = (
    "  FROM given JOIN tasks t ON t.id BETWEEN given.id AND given.id\n"
    "  WHERE t.fence = given.fence AND t.status || '' IN ('claimed', 'running')\n"
    "  ORDER BY given.id FOR UPDATE OF t\n), priced"
)
_COMPLETED_POSTGRES = (
    "WHERE t.id BETWEEN given.id AND given.id AND t.fence = given.fence AND t.status || '' IN ('claimed', 'running')\n"
    "  RETURNING t.id, t.type"
)
_FORGOTTEN_POSTGRES = _COMPLETED_POSTGRES.replace("t.id, t.type", "t.id, t.fence")
_STORED_POSTGRES = "    applied, claims = _stored(link, request, in_order, now)\n"

MUTANTS: Final = (
    *_pair(
        "an end does not look at the fence",
        RULES,
        (
            SQLITE + "successes.py",
            _FENCE_SQLITE,
            _FENCE_SQLITE.replace(" if self._ended[place].fence == fence", ""),
        ),
        (POSTGRES + "queries.sql", _COMPLETED_POSTGRES, _COMPLETED_POSTGRES.replace(" AND t.fence = given.fence", "")),
    ),
    *_pair(
        "a failure does not look at the fence",
        RULES,
        (SQLITE + "exchange.py", "row is not None and row.fence == ended.fence", "row is not None"),
        (POSTGRES + "queries.sql", _ENDED_POSTGRES, _ENDED_POSTGRES.replace("t.fence = given.fence AND ", "")),
    ),
    Mutant(
        "a success does not look at the status",
        "sqlite",
        RULES,
        ((SQLITE + "queries.sql", _LEASED_SQLITE, "GROUP BY t.type, t.fence;"),),
    ),
    *_pair(
        "an end does not look at the status",
        RULES,
        (SQLITE + "queries.sql", _HELD_SQLITE, "CROSS JOIN tasks AS t ON t.id = i.value;"),
        (POSTGRES + "queries.sql", _ENDED_POSTGRES, _ENDED_POSTGRES.replace(" AND t.status || '' IN ('claimed', 'running')", "")),
    ),
    Mutant(
        "recover does not look at the worker's row",
        "sqlite",
        RULES,
        (
            (
                SQLITE + "queries.sql",
                "  AND (t.worker_id IS NULL OR NOT EXISTS (SELECT 1 FROM workers AS w WHERE w.id = t.worker_id))\n",
                "",
            ),
        ),
    ),
    Mutant(  # a first look says whether there is anything to recover: only beside a worker that is dead does this one show
        "recover does not look at the worker's row",
        "postgres",
        LEADER,
        (
            (
                POSTGRES + "queries.sql",
                "ON {in_range}\n  " + _NO_ROW + "\n)",
                "ON {in_range}\n)",
            ),
        ),
        "expired_worker",
    ),
    *(
        Mutant(name, "postgres", RANGES, ((POSTGRES + "queries.sql", old, new),))
        for name, old, new in (
            (
                "a claim of something older is not in its range",
                "first_due = least(r.first_due, excluded.first_due), " + _LAST_DUE,
                _LAST_DUE,
            ),
            (
                "a claim of something newer is not in its range",
                _LAST_DUE,
                _LAST_DUE.replace("last_due = greatest(r.last_due, excluded.last_due), ", ""),
            ),
            ("claims are not counted", "claims = r.claims + 1\n\n-- name: claim_chosen", "claims = 1\n\n-- name: claim_chosen"),
            (
                "an empty range is removed under a claim",
                "first_due > last_due FOR UPDATE SKIP LOCKED",
                "first_due > last_due",
            ),
            (
                "a range is made shorter under a claim",
                "AND r.claims = seen.claims AND r.first_due <",
                "AND r.first_due <",
            ),
            ("a frozen worker's range is forgotten under its claim", "\n  AND r.claims = seen.claims;", ";"),
            (
                "the ranges of the living are forgotten",
                _NO_ROW + "\n    AND NOT EXISTS (SELECT 1 FROM tasks",
                "WHERE NOT EXISTS (SELECT 1 FROM tasks",
            ),
        )
    ),
    *_pair(
        "attempts are not charged",
        RULES,
        (SQLITE + "claim.py", '"charge": int(running)', '"charge": 0'),
        (
            POSTGRES + "queries.sql",
            "  attempts = t.attempts + CASE WHEN placed.place <= CAST(:running AS integer) THEN 1 ELSE 0 END,\n",
            "",
        ),
    ),
    *_pair(
        "refunds without a cap",
        RULES,
        (
            SQLITE + "settle.py",
            "held.charged - 1, held.refunds + 1, next_retry_at",
            "held.charged - 1, held.refunds, next_retry_at",
        ),
        (POSTGRES + "queries.sql", "t.refunds + CASE WHEN judged.refund THEN 1 ELSE 0 END", "t.refunds"),
    ),
    *_pair(
        "the verdict by the fence alone",
        RULES,
        (
            SQLITE + "exchange.py",
            "stored[batch[index].task_id, batch[index].fence] == batch[index].outcome",
            "stored[batch[index].task_id, batch[index].fence]",
        ),
        (POSTGRES + "exchange.py", "stored.get(key) == item.outcome", "key in stored"),
    ),
    Mutant(
        "the verdict from a snapshot before the write",
        "postgres",
        CLAIM,
        (
            (
                POSTGRES + "exchange.py",
                _STORED_POSTGRES,
                "    before = _stored_before(link, [_KEY(item) for item in in_order])\n" + _STORED_POSTGRES,
            ),
            (POSTGRES + "exchange.py", "(link, request.ended, applied)\n", "(link, request.ended, applied, before)\n"),
            (POSTGRES + "exchange.py", "applied: Mapping[Key, TaskState]) -> list[Verdict]:", "applied, before):"),
            (
                POSTGRES + "exchange.py",
                "_stored_before(link, [key for key in sorted(refused) if is_uuid(key[0])])",
                "before",
            ),
        ),
        "meets_its_own",
    ),
    *_pair(
        "renewed by the worker's name alone",
        LEADER,
        (
            SQLITE + "queries.sql",
            "WHERE name = 'main' AND worker_id = :worker_id AND term = :term AND expires_at > :now;\n\n-- name: end_other_terms",
            "WHERE name = 'main' AND worker_id = :worker_id AND expires_at > :now;\n\n-- name: end_other_terms",
        ),
        (
            POSTGRES + "queries.sql",
            "AND term = :term\n  AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp())\nRETURNING true;",
            "AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp())\nRETURNING true;",
        ),
    ),
    Mutant(
        "SKIP LOCKED removed",
        "postgres",
        CLAIM,
        ((POSTGRES + "queries.sql", "LIMIT lane.most FOR UPDATE SKIP LOCKED", "LIMIT lane.most FOR UPDATE"),),
        "second_claimer",
    ),
    *_pair(
        "a heartbeat renews every worker",
        RULES,
        (SQLITE + "queries.sql", "timeout_s = :timeout_s WHERE id = :id;", "timeout_s = :timeout_s;"),
        (
            POSTGRES + "queries.sql",
            "timeout_s = :timeout_s\nWHERE id = :worker_id RETURNING",
            "timeout_s = :timeout_s\nRETURNING",
        ),
    ),
    *_pair(
        "a retry resets the fence",
        RULES,
        (
            SQLITE + "queries.sql",
            "SET status = 'pending', attempts = 0, refunds = 0,",
            "SET status = 'pending', attempts = 0, fence = 0, refunds = 0,",
        ),
        (
            POSTGRES + "queries.sql",
            "SET status = 'pending', attempts = 0, refunds = 0,",
            "SET status = 'pending', attempts = 0, fence = 0, refunds = 0,",
        ),
    ),
    *_pair(
        "an enqueue that is sent again is stored again",
        RULES,
        (
            SQLITE + "queries.sql",
            "WHERE NOT EXISTS (SELECT 1 FROM task_history AS h WHERE h.id = json_extract(value, '$[0]'))\n",
            "WHERE true\n",
        ),
        (
            POSTGRES + "queries.sql",
            "NOT (EXISTS (\n    SELECT 1 FROM task_history h WHERE h.id = given.id",
            "NOT (EXISTS (\n    SELECT 1 FROM task_history h WHERE false",
        ),
    ),
    Mutant(
        "an enqueue does not look into the history again",
        "postgres",
        WAYS,
        ((POSTGRES + "enqueue.py", "if not {row[0] for row in ended}.isdisjoint(stored):", "if not ids:"),),
        "just_being_committed",
    ),
    Mutant(  # on SQLite what may end is decided in one place, with and without a history
        "an end without a history does not look at the fence",
        "postgres",
        RULES,
        ((POSTGRES + "queries.sql", _FORGOTTEN_POSTGRES, _FORGOTTEN_POSTGRES.replace(" AND t.fence = given.fence", "")),),
    ),
    Mutant(
        "what some of a batch may do all of it does",
        "sqlite",
        VERDICTS,
        ((SQLITE + "successes.py", "if count == len(self._ended):", "if count:"),),
    ),
    *_pair(
        "an end that is sent again finds no trace",
        RULES,
        (SQLITE + "queries.sql", "AND instr(c.leases, i.value)", "AND false"),
        (POSTGRES + "queries.sql", "c.fences[array_position(c.ids, g.id)] = g.fence", "false"),
    ),
    *_pair(
        "an enqueue that is sent again finds no trace",
        FORGETTING,
        (SQLITE + "queries.sql", "      AND instr(c.leases, json_extract(value, '$[0]'))\n", "      AND false\n"),
        (POSTGRES + "queries.sql", "given.id = ANY (c.ids) OFFSET 0))\n  ON CONFLICT", "false))\n  ON CONFLICT"),
    ),
    *_pair(
        "the claim keeps the fence",
        RULES,
        (SQLITE + "queries.sql", "fence = fence + 1, attempts = attempts + :charge", "attempts = attempts + :charge"),
        (POSTGRES + "queries.sql", "  fence = t.fence + 1,\n", ""),
    ),
    *_pair(
        "recover forgets the last attempt",
        RULES,
        (
            SQLITE + "settle.py",
            'was lost"\n    if held.charged < held.limit:',
            'was lost"\n    if held.charged <= held.limit:',
        ),
        (POSTGRES + "queries.sql", "ELSE attempt < max_attempts END AS back", "ELSE attempt <= max_attempts END AS back"),
    ),
    Mutant(
        "recover does not look at the term",
        "sqlite",
        RULES,
        (
            (
                SQLITE + "leader.py",
                "fetchone() is not None\n\n\n# ---- the dead",
                "fetchone() is None or True\n\n\n# ---- the dead",
            ),
        ),
    ),
    Mutant(  # nor does this one but between that look and the recovery
        "recover does not look at the term",
        "postgres",
        CLAIM,
        (
            (
                POSTGRES + "upkeep.py",
                "            if not self._holds(connection, lease, now):\n                return Recovered()\n",
                "",
            ),
        ),
        "lost_after_the_look",
    ),
    Mutant(
        "the term is read without a lock",
        "postgres",
        CLAIM,
        (
            (
                POSTGRES + "queries.sql",
                "AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp()) FOR SHARE;",
                "AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp());",
            ),
        ),
        "new_leader_waits",
    ),
    *_pair(
        "a start that is sent again is charged again",
        RULES,
        (SQLITE + "queries.sql", "WHERE id = ?1 AND fence = ?2 AND status = 'claimed';", "WHERE id = ?1 AND fence = ?2;"),
        (POSTGRES + "queries.sql", "AND t.status || '' = 'claimed'\n", "\n"),
    ),
    *_pair(
        "a wish to stop is forgotten when the attempt ends",
        RULES,
        (SQLITE + "settle.py", "if held.cancel_requested and move.state", "if not held.type and move.state"),
        (POSTGRES + "queries.sql", " OR (back AND cancel_requested) THEN", " THEN"),
    ),
    *_pair(
        "an end of a prefetched task is not charged",
        RULES,
        (SQLITE + "settle.py", "self.attempts + (not self.started)", "self.attempts"),
        (
            POSTGRES + "queries.sql",
            "t.attempts + CASE WHEN t.status = 'claimed' THEN 1 ELSE 0 END AS attempt,\n         coalesce",
            "t.attempts AS attempt,\n         coalesce",
        ),
    ),
    *_pair(
        "a row that cannot be stored takes its batch with it",
        RULES,
        (
            SQLITE + "exchange.py",
            "= _apply_singly(connection, request, now)",
            "= _apply_singly(connection, msgspec.structs.replace(request, ended=request.ended[:1]), now)",
        ),
        (
            POSTGRES + "exchange.py",
            "    return _row_by_row(link, request, ended, now)",
            "    return _row_by_row(link, request, ended[:1], now)",
        ),
    ),
    _pure(
        "a limited queue is asked for twice",
        ("shiftboss/actors/planning.py", "room = 0 if lane.queue in limited else min(", "room = min("),
        "no_due_task",
    ),
    _pure(
        "a barren lane hides those below it",
        ("shiftboss/actors/lanebook.py", "self._barren |= asked - got", "self._barren |= set()"),
        "no_due_task",
    ),
    _pure(
        "what came back before a mark is never looked for",
        ("shiftboss/actors/lanebook.py", "            self._lower_marks()\n", "            pass\n"),
        "no_due_task",
    ),
    Mutant(
        "what has just ended is taken for a stray",
        "pure",
        "tests/actors/test_claimer_flights.py",
        (
            (
                "shiftboss/actors/sweeps.py",
                "for one in self._strays(owned) if (one.task_id, one.fence) not in known]",
                "for one in owned]",
            ),
        ),
        "taken_for_a_stray",
    ),
    Mutant(
        "what a full ledger counts is folded by halves",
        "postgres",
        "tests/store/test_store_ledgers.py",
        ((POSTGRES + "queries.sql", "SELECT :into, type, sum(n) FROM folded", "SELECT :into, type, max(n) FROM folded"),),
    ),
    _pure(
        "one restart more than allowed",
        ("shiftboss/supervisor/restart.py", "len(self.restarts) > self.intensity", "len(self.restarts) > self.intensity + 1"),
        "no_child",
    ),
    _pure(
        "a child is started only to be killed",
        (
            "shiftboss/supervisor/plan.py",
            "return RestartAfter(delay_s) if now_s + delay_s < plan.drainer_end_s else Leave()",
            "return RestartAfter(delay_s)",
        ),
        "of_the_tree",
    ),
    _pure(
        "a stop waits for the database for ever",
        (
            "shiftboss/actors/stop_plan.py",
            "        if now_s >= self.gone_at_s + LAST_TRY_S:\n            return StopStep.END\n",
            "",
        ),
        "claimer_stops",
    ),
    _pure(
        "a retirement waits for its successor for ever",
        ("shiftboss/actors/retire_plan.py", "if relieved or now_s >= self.begin_by_s else", "if relieved else"),
        "retires",
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one gate on one copy."""

    passed: bool
    seconds: float
    output: str


def texts(mutant: Mutant, root: Path = ROOT) -> dict[str, str]:
    """The changed files' new contents.

    Raises:
        LookupError: a text to change is not there exactly once.
    """
    changed: dict[str, str] = {}
    for file, old, new in mutant.changes:
        text = changed.get(file) or (root / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise LookupError(f"{mutant.name} ({mutant.backend}): {file} has {text.count(old)} times {old!r}; change the mutant")
        changed[file] = text.replace(old, new)
    return changed


def copy_package(folder: Path) -> Path:
    """A copy of what the gates need; links become files."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run_gate(folder: Path, gate: Sequence[str]) -> Run:
    """Run pytest on the copy in `folder`, with the copy's package."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", *gate],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "SHIFTBOSS_MODEL": "mutant", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=GATE_S,
    )
    output = done.stdout + done.stderr
    if done.returncode not in (0, 1) or any(word in output for word in NOT_A_MUTANT):
        raise RuntimeError(f"{' '.join(gate)} did not run as it should:\n{output[-4000:]}")
    return Run(done.returncode == 0, time.monotonic() - began_s, output)


def try_mutant(mutant: Mutant) -> Run:
    """The gate on a copy with the change."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = copy_package(Path(name))
        for file, text in texts(mutant).items():
            (folder / file).write_text(text, encoding="utf-8")
        return run_gate(folder, mutant.chosen)


def try_unchanged(gates: Iterable[tuple[str, ...]]) -> list[str]:
    """Gates that fail on an unchanged copy."""
    failing = []
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = copy_package(Path(name))
        for gate in gates:
            run = run_gate(folder, gate)
            print(f"{'passes' if run.passed else 'FAILS ':9} {run.seconds:6.1f} s  unchanged  {' '.join(gate)}", flush=True)
            failing += [] if run.passed else [" ".join(gate)]
    return failing


def main(words: Sequence[str]) -> int:
    """Run all mutants, or those that have every word in their name; 1 when one survives or a gate is broken by itself."""
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.name} {mutant.backend}" for word in words)]
    failing = try_unchanged(dict.fromkeys(mutant.chosen for mutant in chosen))
    survivors = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, run in zip(chosen, pool.map(try_mutant, chosen), strict=True):
            verdict = "SURVIVES" if run.passed else "caught"
            print(f"{verdict:9} {run.seconds:6.1f} s  {mutant.name} ({mutant.backend})  {' '.join(mutant.chosen)}", flush=True)
            survivors += [mutant.name] if run.passed else []
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors or failing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
