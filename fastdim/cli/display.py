"""What the command line shows while a run works: the plan, bars with rates, the split of time."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from fastdim.sweeps.plan import Plan, size
from fastdim.sweeps.progress import Progress


def wide(console: Console, table: Table) -> None:
    """A file has no width: nothing is folded there."""
    if not console.is_terminal:
        console.width = Measurement.get(console, console.options.update(max_width=10_000), table)[1]


def duration(seconds: float) -> str:
    """Seconds in words: "4.2 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 site", "1,200 documents"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def plan_text(plan: Plan) -> str:
    """The plan in a few lines."""
    widths = sorted(set(plan.columns))
    columns = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    total = plan.forward_seconds + plan.analysis_seconds
    forward = f"forward {duration(plan.forward_seconds)}, " if plan.parameters else ""
    # Matrices from elsewhere have rows alone; what a row is, only their maker knows.
    documents = f" tokens of {counted(plan.n_documents, 'document')}" if plan.n_documents else ""
    sites = (
        counted(plan.n_sites, "site")
        if plan.n_documents
        else counted(plan.n_sites, "matrix", "matrices")
    )
    return (
        f"{plan.model}\n"
        f"  rows      {plan.n_rows:,}{documents}, {columns} columns, {sites}\n"
        f"  analysis  {counted(plan.n_pieces, 'piece')}: {sites} x filters"
        f" {', '.join(plan.filters)}; {plan.n_queries:,} queries each\n"
        f"  disk      {size(plan.disk_bytes)} ({plan.store_dtype})\n"
        f"  memory    about {size(plan.memory_bytes)} at its peak, beside Python's libraries\n"
        f"  time      about {duration(total)} ({forward}analysis"
        f" {duration(plan.analysis_seconds)}), from this machine's speed"
    )


def split_text(seconds: dict[str, float]) -> str:
    """The split of time: stage, seconds, share."""
    total = sum(seconds.values())
    parts = [
        f"{stage} {duration(spent)} ({spent / total:.0%})" if total else stage
        for stage, spent in seconds.items()
    ]
    return f"time: {duration(total)} = " + " + ".join(parts)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "")
        return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="progress.data.speed")


class Terminal(Progress):
    """Plan and bars on a console; where that is no terminal, the plan alone."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def plan(self, plan: Any) -> None:
        self.console.print(plan_text(plan), highlight=False, markup=False, soft_wrap=True)

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.finish()
        if not self.console.is_terminal:
            return
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Rate(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._bars.start()
        self._task = self._bars.add_task(stage, total=total or None, completed=done, unit=unit)

    def advance(self, amount: int = 1) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, amount)

    def finish(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._task = None
