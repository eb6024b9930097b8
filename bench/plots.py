"""Pictures of a report as SVG files, where matplotlib is installed (the extra `bench`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import Report
from bench.stats import Spread

Point = tuple[float, float]


def draw(report: Report, folder: Path) -> str:
    """Write what there is to draw into a folder; a line that says where, or why not."""
    bars = {
        f"drain-{database}": {name: drain.per_second for name, drain in figures.drain.loads.items()}
        for database, figures in report.databases.items()
        if figures.drain
    }
    bars["peers"] = {f"{peer.name}, {peer.store}": peer.per_second for peer in report.peers or () if peer.per_second is not None}
    wanted = {name: rates for name, rates in bars.items() if rates}
    if not wanted:
        return "nothing to draw"
    if not is_installed():
        return not_installed()
    for name, rates in wanted.items():
        bar_chart(rates, "no-op tasks a second", _fresh(folder) / f"{name}.svg")
    return f"drawn in {folder}"


def is_installed() -> bool:
    """Whether pictures can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def not_installed() -> str:
    """What to say when they cannot."""
    return "no pictures: matplotlib is not installed (pip install -e '.[bench]')"


def bar_chart(rates: Mapping[str, Spread], unit: str, path: Path) -> None:
    """One bar for each, the largest first, with a line from the lowest to the highest run."""
    figure, axes = _axes(height=0.6 + 0.35 * len(rates))
    ordered = sorted(rates.items(), key=lambda item: item[1].median)
    medians = [one.median for _, one in ordered]
    reach = [[one.median - one.low for _, one in ordered], [one.high - one.median for _, one in ordered]]
    axes.barh([name for name, _ in ordered], medians, xerr=reach, color="#4477aa", ecolor="#222222", height=0.7)
    axes.set_xlabel(unit)
    _save(figure, path)


def line_chart(lines: Mapping[str, Sequence[Point]], across: str, unit: str, path: Path) -> None:
    """One line for each, from 0."""
    figure, axes = _axes(height=3.5)
    for name, points in lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    _save(figure, path)


def _axes(height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, format="svg")
    plt.close(figure)


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
