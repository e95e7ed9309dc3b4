"""Training phases of each layer: collapse, expansion, compression, with change points and sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdim.arrays import one_of, whole_number
from fastdim.diagnose.curves import Curve, build, check_sites, label_of, rows_of, rows_of_one
from fastdim.diagnose.moves import Moves, Piece, find_moves, split
from fastdim.diagnose.shape import Interval, check_smallest
from fastdim.errors import InputError
from fastdim.estimate import check_confidence
from fastdim.sweeps.result import Sweep

if TYPE_CHECKING:
    import pandas

SMALLEST = 0.05
# Early checkpoints that are needed to see a first phase, which is over after about 1,000 steps of
# training (Li et al., arXiv 2509.23024), or the first tenth of a short run.
EARLY_STEP, EARLY_SHARE, EARLY_COUNT = 1000, 0.1, 4


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which a metric moves one way.

    name: "collapse" (a fall before any rise), "expansion" (a rise), "compression" (a fall after a
    rise). start, stop: steps of the checkpoints where it begins and ends. size: of the whole move:
    relative (0.1 is 10 % more), for shares and cosines absolute; its interval holds for all moves
    of the layer together. p: adjusted for all pairs of checkpoints.
    """

    name: str
    start: int
    stop: int
    size: Interval
    p: float


@dataclass(frozen=True)
class ChangePoint:
    """Where one phase turns into the next: the step of a checkpoint, and the first and last one
    that may as well be the extreme.
    """

    step: int
    lower: int
    upper: int


@dataclass(frozen=True, eq=False, repr=False)
class LayerPhases:
    """Phases of one layer; none where no two checkpoints differ.

    explained: False where the differences form no sequence of rises and falls.
    """

    label: str
    layer: int
    phases: tuple[Phase, ...]
    change_points: tuple[ChangePoint, ...]
    p_constant: float
    explained: bool
    curve: Curve

    @property
    def verdict(self) -> str:
        """The names of the phases in their order; "none"; or "unexplained"."""
        if not self.explained:
            return "unexplained"
        return ", ".join(phase.name for phase in self.phases) or "none"

    @property
    def rises_then_falls(self) -> bool:
        """Whether it is expansion, then compression, and nothing else."""
        return self.explained and [p.name for p in self.phases] == ["expansion", "compression"]

    def __repr__(self) -> str:
        return f"LayerPhases({self.label}: {self.verdict})"


@dataclass(frozen=True, eq=False, repr=False)
class TrainingPhases:
    """Phases of every layer. steps: of the checkpoints with a value in some layer. failed: what has
    none, with its reason. warnings: what the series cannot show.
    """

    metric: str
    filter: str
    steps: tuple[int, ...]
    layers: tuple[LayerPhases, ...]
    failed: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    confidence: float
    smallest: float

    @property
    def verdicts(self) -> dict[str, list[str]]:
        """Verdict -> the layers that have it: a model has one word only if all share it."""
        found: dict[str, list[str]] = {}
        for layer in self.layers:
            found.setdefault(layer.verdict, []).append(layer.label)
        return found

    def __repr__(self) -> str:
        return f"TrainingPhases({self.metric}, {len(self.steps)} checkpoints, {self.verdicts})"

    def __str__(self) -> str:
        lines = [f"{self.metric} ({self.filter}) over {len(self.steps)} checkpoints:"]
        for verdict, names in self.verdicts.items():
            lines.append(f"  {verdict}: {', '.join(names)}")
        if self.failed:
            label, reason = self.failed[0]
            lines.append(f"  {len(self.failed)} values are missing, the first {label}: {reason}")
        lines += [f"  warning: {text}" for text in self.warnings]
        return "\n".join(lines)


def phases(
    table: Sweep | pandas.DataFrame,
    metric: str = "id_twonn",
    filter: str = "all",
    *,
    model: str | None = None,
    steps: Mapping[str, int] | None = None,
    sites: Sequence[str] = ("embedding", "block", "final_norm"),
    smallest: float = SMALLEST,
    confidence: float = 0.95,
    family: str = "layer",
    seed: int = 0,
) -> TrainingPhases:
    """Training phases of a metric, layer by layer, by tests between all pairs of checkpoints.

    table: runs of one model at several revisions, as `profile_shape` takes it. steps: step of each
    revision; None takes those of a `Track`, else reads them from names like "step1000",
    "checkpoint-500" or "stage1-step10-tokens".
    smallest: a move that counts, absolute for shares and cosines, else relative. family: error of
    5 % (1 - `confidence`) for each "layer" by itself, or for "all" layers together (Bonferroni).

    The phases are the fewest monotone pieces that contradict no difference; their names are those
    of Li et al. (arXiv 2509.23024). `warnings` says when early steps are too sparse for a collapse.

    Raises InputError on fewer than 3 checkpoints, a revision without a step, two with the same, one
    that was measured twice, checkpoints that read different tokens, or unknown names.
    """
    check_confidence(confidence)
    check_smallest(smallest)
    one_of("family", family, ("layer", "all"))
    check_sites(sites)
    if not (steps is None or isinstance(steps, Mapping)):
        raise InputError(f"steps must be a mapping of revisions to steps, got {steps!r}")
    rows, documents = rows_of(table, metric, filter)
    rows = [row for row in rows_of_one(rows, "model", model) if row["site"] in sites]
    models = {row["model"] for row in rows}
    _same_tokens(table, models)
    revisions = list(dict.fromkeys(str(row["revision"]) for row in rows))
    if len(revisions) < 3:
        names = ", ".join(name or "no revision" for name in revisions) or "none"
        raise InputError(
            f"phases need at least 3 checkpoints, and the table has {len(revisions)} ({names}): "
            "give more revisions, log-spaced from the first steps on"
        )
    known = steps_of(revisions, _tracked(table, models) if steps is None else steps)
    by_layer: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_layer.setdefault(int(row["layer"]), []).append(row)
    level = confidence if family == "layer" else 1.0 - (1.0 - confidence) / len(by_layer)
    found, failed = [], []
    for layer, inside in sorted(by_layer.items()):
        ordered = sorted(inside, key=lambda row: known[str(row["revision"])])
        label = label_of(ordered[0])
        in_order = [str(row["revision"]) for row in ordered]
        twice = next((name for name, after in pairwise(in_order) if name == after), None)
        if twice is not None:
            raise InputError(
                f"the table has {label} of {twice!r} twice: it holds two trainings of one model "
                "name; give one of them"
            )
        usable = [row for row in ordered if row["status"] == "ok" and math.isfinite(row["value"])]
        for row in ordered:
            if row not in usable:
                failed.append((f"{label} at {row['revision']}", str(row["reason"])))
        if len(usable) < 3:
            failed.append((label, f"{len(usable)} checkpoints have a value, and 3 are needed"))
            continue
        places = [known[str(row["revision"])] for row in usable]
        curve = build(
            usable, documents, metric, filter,
            labels=[str(row["revision"]) for row in usable],
            positions=[float(place) for place in places],
            what="checkpoints", least=3,
        )  # fmt: skip
        found.append(layer_phases(label, layer, curve, smallest, level, seed))
    # A checkpoint that failed shows no phase, early or late.
    measured = {step for layer in found for step in layer.curve.positions}
    ordered_steps = tuple(sorted(step for step in known.values() if step in measured))
    return TrainingPhases(
        metric, filter, ordered_steps, tuple(found), tuple(failed),
        tuple(_warnings(ordered_steps) if found else ()), confidence, smallest,
    )  # fmt: skip


def layer_phases(
    label: str, layer: int, curve: Curve, smallest: float, confidence: float, seed: int
) -> LayerPhases:
    """The phases of one curve over checkpoints, whose positions are steps."""
    moves = find_moves(curve, smallest, confidence, seed)
    pieces = split(moves.signs, curve.z)
    named: list[Phase] = []
    points: list[ChangePoint] = []
    for number, piece in enumerate(pieces or ()):
        risen = any(earlier.direction > 0 for earlier in (pieces or ())[:number])
        fall = "compression" if risen else "collapse"
        name = "expansion" if piece.direction > 0 else fall
        named.append(_phase(name, piece, curve, moves))
        if number:
            points.append(_turn((pieces or ())[number - 1], piece, curve, moves))
    return LayerPhases(
        label, layer, tuple(named), tuple(points), moves.p_flat, pieces is not None, curve
    )


def _phase(name: str, piece: Piece, curve: Curve, moves: Moves) -> Phase:
    start, stop = piece.start, piece.stop
    change = curve.z[stop] - curve.z[start]
    error = abs(change / moves.t[start, stop]) if moves.t[start, stop] else 0.0
    half = moves.critical * error
    ends = [change, change - half, change + half]
    if curve.relative:
        size = Interval(*(math.expm1(end) for end in ends))
    else:
        # The move of z, brought to the scale of the metric along the chord between both ends.
        chord = (curve.values[stop] - curve.values[start]) / change if change else 0.0
        size = Interval(*(float(end * chord) for end in ends))
    inside = moves.t[start : stop + 1, start : stop + 1] * piece.direction
    p = moves.p_value(float(inside.max()))
    return Phase(name, int(curve.positions[start]), int(curve.positions[stop]), size, p)


def _turn(before: Piece, after: Piece, curve: Curve, moves: Moves) -> ChangePoint:
    """The extreme between two pieces, and the stretch around it that is not told from it."""
    turn = before.stop
    t = moves.t + moves.t.T
    alike = np.abs(t[turn]) <= moves.critical
    alike[turn] = True
    low = high = turn
    for place in range(turn, before.start - 1, -1):
        low = place if alike[place] else low
    for place in range(turn, after.stop + 1):
        high = place if alike[place] else high
    steps = curve.positions
    return ChangePoint(int(steps[turn]), int(steps[low]), int(steps[high]))


def step_of(revision: str) -> int | None:
    """The training step in the name of a checkpoint, or None: "step1000", "checkpoint-500"."""
    match = re.search(r"(?:step|checkpoint|ckpt|iter)[-_ ]?(\d+)", revision, re.IGNORECASE)
    if match is None:
        match = re.fullmatch(r"\D{0,2}(\d+)", revision)
    return None if match is None else int(match[1])


def _tracked(table: Any, models: set[Any]) -> dict[str, int] | None:
    """Steps that the runs of a model in a track know, by revision; None for other tables."""
    if not (isinstance(table, Sweep) and all("step" in run.sample for run in table.runs)):
        return None
    runs = [run for run in table.runs if run.sample["model"] in models]
    return {run.sample["revision"]: int(run.sample["step"]) for run in runs}


def steps_of(revisions: Sequence[str], given: Mapping[str, int] | None) -> dict[str, int]:
    """Step of each revision, as given or from its name.

    Raises InputError for one without a step, and for two of the same.
    """
    known: dict[str, int] = {}
    for revision in dict.fromkeys(revisions):
        step = step_of(revision) if given is None else given.get(revision)
        if step is not None:
            step = whole_number("steps", step, 0)
        if step is None:
            where = (
                "its name has none, as step1000 or checkpoint-500 have"
                if given is None
                else "steps= has none for it"
            )
            raise InputError(
                f"the checkpoint {revision!r} has no step number ({where}): give one step for each "
                "checkpoint with steps= (--steps)"
            )
        twin = next((name for name, other in known.items() if other == step), None)
        if twin is not None:
            raise InputError(f"{twin!r} and {revision!r} are both of step {step}")
        known[revision] = step
    return known


def _warnings(steps: Sequence[int]) -> list[str]:
    # Of the shortest runs as many steps as it takes: no schedule has more.
    limit = max(EARLY_COUNT, min(EARLY_STEP, int(EARLY_SHARE * steps[-1])))
    early = [step for step in steps if step <= limit]
    if len(early) >= EARLY_COUNT:
        return []
    return [
        f"only {len(early)} of {len(steps)} checkpoints lie in the first {limit} steps: a first "
        "phase (collapse) there cannot be seen; log-spaced steps from 1 on would show it"
    ]


def _same_tokens(table: Any, models: set[str]) -> None:
    """Raise InputError where a Sweep's runs of these models are known to have read other tokens."""
    if not isinstance(table, Sweep):
        return
    runs = [run for run in table.runs if run.sample["model"] in models]
    digests = {run.sample.get("tokens_sha256") for run in runs} - {None}
    if len(digests) > 1:
        raise InputError(
            "the checkpoints read different tokens, so their difference is not training's alone: "
            "run them with the same texts and options (a tokenizer with another vocabulary makes "
            "other tokens)"
        )
