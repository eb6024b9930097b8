"""What the demo shows: colours and a moving bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from examples.pysurvey.processes import Process
from examples.pysurvey.proof import Check, TypeFigures, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH: Final = 100
_ABOUT: Final = {
    "supervisor": "starts, watches and restarts the others",
    "heartbeat": "tells the database that this worker lives",
    "gateway": "/health and /metrics",
    "executor": "runs handlers: threads and an event loop",
    "claimer": "claims tasks and stores their outcomes",
    "leader": "recovers, prunes, counts",
}


class Screen:
    """Where everything is printed."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = _WIDTH

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def line(self, text: str, style: str = "") -> None:
        """One line; on a terminal a long one is folded, and goes on under its own beginning."""
        if self.console.is_terminal:
            words = text.lstrip(" ")
            self.console.print(Padding(Text(words, style=style), (0, 0, 0, 2 + len(text) - len(words)), expand=False))
        else:
            self.console.print(Text(f"  {text}", style=style), soft_wrap=True)

    def tree(self, processes: Sequence[Process]) -> None:
        """The processes as parents and children, with their memory."""
        ids = {process.pid for process in processes}
        root = Tree("", hide_root=True, guide_style="dim")
        for process in processes:
            if process.parent not in ids:
                self._branch(root, process, processes)
        self.console.print(Padding(root, (0, 0, 0, 2), expand=False))
        total_mib = sum(process.memory_kib for process in processes) / 1024
        self.line(f"{len(processes)} processes, {total_mib:.0f} MiB of memory together", "dim")

    def _branch(self, above: Tree, process: Process, processes: Sequence[Process]) -> None:
        ids = {one.pid for one in processes}
        about = _ABOUT.get(process.name.partition("-")[0], "")
        size = f"{process.memory_kib / 1024:5.1f} MiB"
        indent = 12 if process.parent in ids else 16  # children stand four columns further right
        label = f"[bold cyan]{escape(process.name):<{indent}}[/] pid {process.pid:<8}{size}   [dim]{about}[/]"
        branch = above.add(label)
        for child in processes:
            if child.parent == process.pid:
                self._branch(branch, child, processes)

    @contextmanager
    def bar(self, total: int) -> Iterator[Bar]:
        """A progress bar that stays visible below what is printed meanwhile."""
        if not self.console.is_terminal:
            yield Bar(self, total, None)
            return
        columns = (TextColumn("  tasks"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, refresh_per_second=8) as progress:
            yield Bar(self, total, progress)

    def figures(self, figures: Sequence[TypeFigures]) -> None:
        """The closing table."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("  type")
        for title in ("completed", "dead letters", "attempts", "run p50", "run p99", "waited p50", "waited p99"):
            table.add_column(title, justify="right")
        for one in figures:
            times = [percentile(values, share) for values in (one.durations, one.waits) for share in (0.5, 0.99)]
            counts = (f"{one.completed:,}", f"{one.dead_letters:,}", f"{one.attempts:,}")
            table.add_row(f"  [cyan]{escape(one.type)}[/]", *counts, *(_time(value) for value in times))
        self.console.print(table)

    def dead_letters(self, letters: Sequence[tuple[str, int, str]], folder: Path, most: int) -> None:
        """A few of them, each with its error: half of those that were put into `folder`, the rest from the installation."""
        ours = [letter for letter in letters if letter[0].startswith(str(folder))]
        found = [letter for letter in letters if letter not in ours]
        shown = ours[: max(most // 2, most - len(found))] + found[: most - most // 2]
        for path, attempts, error in shown:
            after = f"after {attempts} attempts" if attempts > 1 else "at once"
            self.line(f"{_short(path)} ({after})", "yellow")
            self.line(f"  {_short_error(error, path)}", "dim")
        if len(letters) > len(shown):
            self.line(f"… and {len(letters) - len(shown):,} more", "dim")

    def checks(self, checks: Sequence[Check]) -> None:
        for check in checks:
            mark = "[green]✓[/]" if check.kept else "[bold red]✗[/]"
            self.console.print(f"  {mark} {escape(check.text)}")


class Bar:
    """How many tasks have ended: a moving bar, or a line at each tenth."""

    def __init__(self, screen: Screen, total: int, progress: Progress | None) -> None:
        self._screen, self._total, self._progress = screen, total, progress
        self._row = None if progress is None else progress.add_task("tasks", total=total)
        self._told = 0

    def show(self, ended: int) -> Self:
        if self._progress is not None and self._row is not None:
            self._progress.update(self._row, completed=ended)
        elif ended * 10 // max(1, self._total) > self._told:
            self._told = ended * 10 // max(1, self._total)
            self._screen.line(f"{ended:>7,} of {self._total:,} tasks have ended")
        return self


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="cyan")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-3:])


def _short_error(error: str, path: str) -> str:
    return error.replace(path, Path(path).name)
