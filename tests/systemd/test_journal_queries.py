"""docs/operations/LOGS.md: every query on the page, run after a day in which everything happened that is asked for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.systemd.machine import run, until
from tests.systemd.unit import HANDLERS, Unit

PAGE = (Path(__file__).parents[2] / "docs" / "operations" / "LOGS.md").read_text()
TASK_ON_THE_PAGE = "01970c2e-5b1a-7cc3-9f6e-2d8a4b1c0e55"
CODE = """
@task(type="mail:send", queue="mail", max_attempts=2, backoff=Constant(0.05))
def send(attempt: Attempt) -> None:
    print("greeting of attempt", attempt.number)
    raise ValueError("mailbox full")

@task(type="report:build", queue="reports", max_attempts=1)
def build() -> None:
    raise RuntimeError("no paper")

@task(type="flood")
def flood() -> None:
    for number in range(3_000):
        print("drop", number)
    note("flooded")
"""


def queries() -> dict[str, list[str]]:
    """Question -> its commands."""
    parts = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    blocks = {question: re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for question, text in parts}
    return {question: "".join(found).splitlines() for question, found in blocks.items()}


@dataclass(frozen=True)
class Day:
    """What happened, and what it is called here."""

    mail: str
    held: str

    def ask(self, question: str, task: str = "") -> list[str]:
        """What the commands under this heading print."""
        return [self._run(command.replace(TASK_ON_THE_PAGE, task or self.mail)) for command in queries()[question]]

    def _run(self, command: str) -> str:
        following = " -f" in command
        words = [*(("timeout", "2") if following else ()), *command.split(), "--no-pager"]
        done = run(*words)
        assert done.code == (124 if following else 0), f"{command}\n{done.err}"
        assert "-- No entries --" not in done.out, command
        return done.out


def journald() -> int:
    return int(run("systemctl", "show", "--property=MainPID", "--value", "systemd-journald").ok().out)


@pytest.fixture(scope="module")
def day(installed: None) -> Iterator[Day]:
    run("journalctl", "--rotate", "--vacuum-size=1").ok()  # what other tests have left there is no part of this day
    with Unit("production") as unit:
        unit.write_code(HANDLERS + CODE)
        unit.configure(executors=1, shutdown_timeout="1s", cancel_grace="200ms")
        unit.start()
        mail = unit.enqueue("mail:send", "--queue=mail")
        unit.enqueue("report:build", "--queue=reports")
        unit.saw("task.dead_letter", 2)
        held = _crash_under_a_task(unit)
        _reload_badly_and_well(unit)
        _flood_a_stalled_journald(unit)
        _trip_the_rate_limit()
        unit.enqueue("hold", "seconds=60")
        unit.noted("S 1", 2)
        unit.systemctl("stop").ok()
        run("journalctl", "--sync").ok()
        yield Day(mail, held)


def _crash_under_a_task(unit: Unit) -> str:
    held = unit.enqueue("hold", "seconds=1.5")
    unit.noted("S 1")
    os.kill(unit.actors()["executor-1"], signal.SIGSEGV)  # faulthandler writes its stacks
    unit.noted("E 2")
    unit.completed(held)
    return held


def _reload_badly_and_well(unit: Unit) -> None:
    unit.write_code("import not_there_today\n")
    assert unit.systemctl("reload").code != 0
    unit.write_code(HANDLERS + CODE)
    unit.configure(executors=1, shutdown_timeout="1s", cancel_grace="200ms", claim_interval="700ms")
    unit.systemctl("reload").ok()


def _flood_a_stalled_journald(unit: Unit) -> None:
    os.kill(journald(), signal.SIGSTOP)
    try:
        unit.enqueue("flood")
        unit.noted("flooded")
    finally:
        os.kill(journald(), signal.SIGCONT)
    unit.saw("journal.dropped")


def _trip_the_rate_limit() -> None:
    """journald says "Suppressed" with the first line after the interval."""
    limits = ("--property=LogRateLimitIntervalSec=1s", "--property=LogRateLimitBurst=10")
    script = "for n in $(seq 100); do echo $n; done; read -t 1.5 < <(:) || exec 3<> <(:); read -t 1.5 -u 3; echo again"
    run("systemd-run", "--quiet", "--wait", "--collect", *limits, "bash", "-c", script).ok()


# Question -> for each of its commands what must and what must not be in the answer.
ANSWERS: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "What is it doing now?": [(("service.stopped",), ("not_there_today",))],
    "What happened to this task?": [
        (
            ("greeting of attempt 1", "task.failed", "greeting of attempt 2", "task.dead_letter", "Traceback", "mailbox full"),
            ("no paper", "service.", "task.crashed"),
        )
    ],
    "What did its second attempt print?": [(("greeting of attempt 2",), ("attempt 1", "mailbox full"))],
    "What went wrong in one queue?": [
        (("task.dead_letter", "mailbox full"), ("no paper", "task.failed", "greeting")),
        (("task.failed", "task.dead_letter"), ("no paper", "greeting")),
    ],
    "Which tasks need a person?": [(("mail:send", "report:build"), ("task.failed",))],
    "What crashed today?": [(("executor-1", "SIGSEGV"), ("claimer ended",))],
    "What ran when the executor died?": [
        (("HELD", "SIGSEGV"), ()),
        (("HELD", "crashed: executor-1"), ("mail:send",)),
        (("actor.ready", "actor.crashed", "HELD"), ("service.ready",)),
        (("Fatal Python error",), ("service.ready",)),
    ],
    "Why did it stop?": [(("service.stopping", "SIGTERM", "service.stopped"), ("task.",)), (("Deactivated", "Stopped"), ())],
    "Why was the reload refused?": [(("not_there_today",), ("claim_interval",))],
    "What did the last reloads change?": [(("claim_interval",), ("not_there_today",))],
    "Which attempts were cut off by a stop?": [(("cancelling",), ()), (("task.interrupted",), ("mail:send",))],
    "Was anything left out?": [(("log lines dropped",), ("drop 1",)), (("Suppressed",), ())],
    "Which events, queues and types are there?": [
        (("service.ready", "journal.dropped"), ()),
        (("mail", "reports", "default"), ()),
        (("mail:send", "report:build"), ()),
    ],
    "How do I send it to an aggregator?": [(('"SHIFTBOSS_EVENT":"service.ready"',), ()), (('"TASK_ID"',), ('"LOGGER"',))],
}
IN_A_NAMESPACE = "Where are the lines of a service with a journal of its own?"


def test_every_question_of_the_page_is_asked_here() -> None:
    assert {*ANSWERS, IN_A_NAMESPACE} == set(queries())
    assert all(len(ANSWERS[question]) == len(commands) for question, commands in queries().items() if question in ANSWERS)


@pytest.mark.parametrize("question", ANSWERS)
def test_the_query_answers(day: Day, question: str) -> None:
    for (there, absent), answer in zip(ANSWERS[question], day.ask(question), strict=True):
        for text in there:
            assert text.replace("HELD", day.held) in answer, answer[-4_000:]
        for text in absent:
            assert text not in answer, answer[-4_000:]


def test_the_story_of_a_task_tells_of_the_process_that_died_under_it(day: Day) -> None:
    (story,) = day.ask("What happened to this task?", day.held)
    assert all(event in story for event in ("attempts.lost", "task.crashed"))


def test_what_is_exported_is_json_and_goes_on_where_it_ended(day: Day) -> None:
    command = queries()["How do I send it to an aggregator?"][0].replace("/var/tmp/shiftboss.cursor", "/var/tmp/again.cursor")
    entries = [json.loads(line) for line in run(*command.split()).ok().out.splitlines()]
    assert len(entries) > 20
    of_tasks = [entry for entry in entries if entry.get("TASK_TYPE") == "mail:send"]
    assert len({entry["WORKER_ID"] for entry in of_tasks}) == 1  # the handler's lines and the claimer's
    assert {entry["SHIFTBOSS_PROCESS"] for entry in of_tasks} == {"executor-1", "claimer"}
    again = subprocess.run([*command.split(), "--quiet"], capture_output=True, text=True, check=True).stdout
    assert again == ""


def test_a_journal_of_its_own_is_found_by_its_namespace_alone(unit: Unit) -> None:
    unit.drop_in("[Service]\nLogNamespace=shiftboss\n")
    unit.start()
    (command,) = queries()[IN_A_NAMESPACE]
    words = [*command.replace("shiftboss@production", unit.service).split(), "--no-pager"]
    until("it is there", lambda: "service.ready" in run(*words).out)
    plain = [word for word in words if not word.startswith("--namespace")]
    assert "service.ready" not in run(*plain).out
