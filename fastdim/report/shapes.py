"""Verdicts on the shape of profiles for the page: by metric and token filter, with the claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastdim.diagnose.robust import RobustShape, robust_shape
from fastdim.diagnose.shape import SMALLEST, ProfileShape
from fastdim.errors import InputError
from fastdim.metrics import METRICS
from fastdim.report import words
from fastdim.report.tables import scroll
from fastdim.report.words import escape
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.result import Sweep

SHAPED = ("id_twonn", "anisotropy", "mean_cosine", "effective_rank")
# What the paper says of the anisotropy over the layers (Razzhigaev et al., arXiv 2311.05928).
CLAIMS = {
    "decoder": ("The anisotropy of a decoder is bell-shaped over the layers", ("bell",)),
    "encoder": ("The anisotropy of an encoder is flat over the layers", ("flat",)),
}
CLAIM_FILTERS = ("all", "no_outliers")


@dataclass(frozen=True)
class ModelShapes:
    """Verdicts on one model at one revision (one stack of it), and why others are missing.

    shapes: by metric. untested: (metric, reason).
    """

    model: str
    revision: str
    stack: str
    architecture: str
    shapes: dict[str, RobustShape] = field(default_factory=dict)
    untested: tuple[tuple[str, str], ...] = ()

    def claim(self) -> str:
        """Whether what is claimed of such a model holds, for all tokens and without outliers."""
        kind = self.architecture or self.stack
        found = self.shapes.get("anisotropy")
        if kind not in CLAIMS or found is None:
            return ""
        text, wanted = CLAIMS[kind]
        told = []
        for name in CLAIM_FILTERS:
            shape = found.by_filter.get(name)
            if shape is not None:
                verdict = "holds" if shape.shape in wanted else f"does not hold ({shape.shape})"
                told.append(f"{FILTERS[name].title}: {verdict}")
        return f"{text} (claim of Razzhigaev et al., 2023): {'; '.join(told)}."

    def to_json(self) -> dict[str, Any]:
        """For the twin of the page."""
        return {
            "model": self.model,
            "revision": self.revision,
            "stack": self.stack,
            "claim": self.claim(),
            "untested": [{"metric": name, "reason": reason} for name, reason in self.untested],
            "verdicts": [
                {
                    "metric": metric, "filter": name, "shape": shape.shape, "p_flat": shape.p_flat,
                    "p_monotone": shape.p_monotone, "peak": shape.peak, "width": shape.width,
                    "against_first": shape.against_first, "against_last": shape.against_last,
                    "smallest": shape.smallest, "basis": shape.basis, "reason": shape.reason,
                }
                for metric, found in self.shapes.items()
                for name, shape in found.by_filter.items()
            ],
        }  # fmt: skip


def shapes_of(sweep: Any) -> list[ModelShapes]:
    """Verdicts on every model of a Sweep (its last revision), from what documents add.

    Empty for what is no Sweep, such as a table alone: its errors would not be those of documents.
    """
    if not isinstance(sweep, Sweep):
        return []
    last: dict[str, Any] = {}
    for run in sweep.runs:
        known = last.get(run.sample["model"])
        order = words.natural_key(run.sample["revision"])
        if known is None or order >= words.natural_key(known.sample["revision"]):
            last[run.sample["model"]] = run
    found = []
    for run in last.values():
        if "all" not in run.definition.filters:
            continue  # nothing to hold the other filters against
        stacks = dict.fromkeys(site["stack"] for site in run.sample["sites"])
        for stack in stacks:
            found.append(_model(sweep, run, str(stack)))
    return found


def _model(sweep: Sweep, run: Any, stack: str) -> ModelShapes:
    model, revision = run.sample["model"], run.sample["revision"]
    shapes: dict[str, RobustShape] = {}
    untested: list[tuple[str, str]] = []
    for metric in SHAPED:
        try:
            shapes[metric] = robust_shape(
                sweep, metric, model=model, revision=revision, stack=stack
            )
        except InputError as error:
            untested.append((metric, str(error).replace(metric, "the metric")))
    architecture = str(run.sample.get("architecture", ""))
    return ModelShapes(model, revision, stack, architecture, shapes, tuple(untested))


def section(found: Sequence[ModelShapes], names: dict[str, str]) -> str:
    """The section of the page; "" where there is nothing to say. names: of models for readers."""
    if not found:
        return ""
    parts = [
        '<section id="shapes"><h2>Shapes over the depth</h2><p>The shape of a curve over the '
        "blocks is the result of a test: every pair of blocks is compared, with one chance of 5 % "
        f"for all pairs together, and a difference below {SMALLEST:g} (cosines and shares) or "
        f"{100 * SMALLEST:g} % (the rest) does not count. Errors are those of other documents. "
        "“Flat” means that no difference that counts was found, not that there is none.</p>"
    ]
    for item in found:
        name = names.get(item.model, item.model) + (f", {item.stack}" if item.stack else "")
        parts.append(f"<h3>{escape(name)}</h3>")
        if claim := item.claim():
            parts.append(f'<p class="claim">{escape(claim)}</p>')
        if item.shapes:
            parts.append(_table(item, name))
        flips = [
            f"<li>{escape(_title(metric))}: {escape(str(flip))}</li>"
            for metric, robust in item.shapes.items()
            for flip in robust.flips
        ]
        if flips:
            parts.append(
                "<details><summary>Where a token filter changes the shape, and by which rows"
                f"</summary><ul>{''.join(flips)}</ul></details>"
            )
        for reason in dict.fromkeys(reason for _, reason in item.untested):
            metrics = ", ".join(_title(m) for m, r in item.untested if r == reason)
            parts.append(f'<p class="note">Not tested: {escape(metrics)}: {escape(reason)}.</p>')
    return "".join(parts) + "</section>"


def _title(metric: str) -> str:
    return METRICS[metric].title


def _table(item: ModelShapes, name: str) -> str:
    filters = list(dict.fromkeys(f for robust in item.shapes.values() for f in robust.by_filter))
    head = "".join(f'<th scope="col">{escape(words.filter_title(f))}</th>' for f in filters)
    rows = []
    for metric, robust in item.shapes.items():
        cells = "".join(f'<td class="v">{_cell(robust.by_filter[f])}</td>' for f in filters)
        rows.append(f'<tr><th scope="row">{escape(_title(metric))}</th>{cells}</tr>')
    table = (
        f'<table><caption>{escape(name)}</caption><thead><tr><th scope="col">metric</th>{head}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    return scroll(table, f"Shapes: {name}")


def _cell(shape: ProfileShape) -> str:
    text = f"<b>{shape.shape.replace('-', ' ')}</b>"
    if shape.peak is not None and shape.width is not None:
        kind = "trough" if shape.shape == "valley" else "peak"
        text += (
            f"<small>{kind} at {shape.peak.value:.2f} of the depth</small>"
            f"<small>width {shape.width.value:.2f}</small>"
        )
    return text + (
        f"<small>p (flat) {shape.p_flat:.2g}</small>"
        f"<small>p (monotone) {shape.p_monotone:.2g}</small>"
    )
