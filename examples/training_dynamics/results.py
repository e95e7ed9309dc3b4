"""What a finished (or running) training shows: small tables and one figure a model.

python -m examples.training_dynamics.results --run DIR --tables docs/training-dynamics \\
    --figures docs/figures
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas

from examples.training_dynamics.figures import draw
from examples.training_dynamics.models import KINDS
from fastdim.attention import correlate
from fastdim.diagnose import compare_profiles, phases, profile_shape
from fastdim.errors import InputError
from fastdim.track_result import Track

METRICS = ("id_twonn", "anisotropy", "mean_cosine", "norm_ratio")
FILTERS = ("all", "no_outliers")
STATISTICS = ("categorical", "max_weight", "entropy", "first_key", "sink_rate", "key_bias_std")
PHASED = ("id_twonn", "anisotropy", "mean_cosine")


def main() -> None:
    """Read a run, write its tables and figures, print where shapes hold at the last step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    given = parser.parse_args()
    summarize(given.run, given.tables, given.figures)


def summarize(run: Path, tables: Path, figures: Path) -> dict[str, pandas.DataFrame]:
    """Write geometry, attention and losses of each kind, and of both together phases, shapes,
    correlations and differences; returns the latter. Raises InputError where nothing was measured.
    """
    tables.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in KINDS if list(run.glob(f"{kind}/attention/*.csv"))]
    if not kinds:
        raise InputError(f"{run} holds no measurement of a training")
    found: dict[str, list[pandas.DataFrame]] = {"phases": [], "shapes": [], "correlations": []}
    tracks = {}
    for kind in kinds:
        track, heads, losses = read(run / kind)
        tracks[kind] = track
        geometry = slim(track)
        layers = heads[heads["head"].isna() & heads["statistic"].isin(STATISTICS)]
        columns = ["step", "block", "statistic", "value", "lower", "upper"]
        short(geometry).to_csv(tables / f"geometry-{kind}.csv", index=False)
        short(layers[columns]).to_csv(tables / f"attention-{kind}.csv", index=False)
        short(losses).to_csv(tables / f"losses-{kind}.csv", index=False)
        draw(geometry, layers, losses, figures / f"training-{kind}.svg", kind)
        found["phases"].append(phase_rows(track, kind))
        found["shapes"].append(shape_rows(track, kind))
        found["correlations"].append(correlation_rows(track.table, heads, kind))
    if len(tracks) == len(KINDS):
        found["differences"] = [difference_rows(tracks)]
    together = {name: pandas.concat(frames) for name, frames in found.items()}
    for name, frame in together.items():
        short(frame).to_csv(tables / f"{name}.csv", index=False)
    return together


def read(folder: Path) -> tuple[Track, pandas.DataFrame, pandas.DataFrame]:
    """Geometry, attention of all heads, and losses, of the steps that all three have."""
    track = Track.load(folder / "geometry")
    parts = []
    for path in sorted((folder / "attention").glob("step*.csv")):
        part = pandas.read_csv(path).astype({"stack": "object"}).fillna({"stack": ""})
        part.insert(2, "step", int(path.stem.removeprefix("step")))
        parts.append(part)
    heads = pandas.concat(parts, ignore_index=True)
    steps = {run.sample["step"] for run in track.runs if run.complete} & set(heads["step"])
    track = Track([run for run in track.runs if run.sample["step"] in steps])
    if (folder / "losses.csv").exists():
        losses = pandas.read_csv(folder / "losses.csv")
    else:  # still training
        import torch

        losses = pandas.DataFrame(torch.load(folder / "state.pt", weights_only=True)["losses"])
    return track, heads[heads["step"].isin(steps)], losses


def slim(track: Track) -> pandas.DataFrame:
    """The metrics of the figure, a row a (step, site, filter, metric)."""
    table = track.table
    table = table[table["metric"].isin(METRICS) & table["filter"].isin(FILTERS)].copy()
    table["site"] = [
        site if site != "block" else f"block {block}"
        for site, block in zip(table["site"], table["block"], strict=True)
    ]
    columns = ["step", "layer", "site", "filter", "metric", "value", "lower", "upper", "n_rows"]
    return table[columns]


def short(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Numbers with four digits: more than their intervals tell."""
    out = frame.copy()
    for name in out.columns:
        if pandas.api.types.is_float_dtype(out[name]):
            out[name] = [v if pandas.isna(v) else float(f"{v:.4g}") for v in out[name]]
    return out


def phase_rows(track: Track, kind: str) -> pandas.DataFrame:
    """The phases of every site: names, moves, turns; values at the first, lowest, highest, last."""
    rows: list[dict[str, Any]] = []
    for metric in PHASED:
        for name in FILTERS:
            for layer in phases(track, metric, name).layers:
                curve = layer.curve
                low, high = int(curve.values.argmin()), int(curve.values.argmax())
                moves = "; ".join(
                    f"{p.name} {p.start}-{p.stop}: {p.size.value:.3g} "
                    f"({p.size.lower:.3g} to {p.size.upper:.3g})"
                    for p in layer.phases
                )
                turns = "; ".join(
                    f"{point.step} ({point.lower} to {point.upper})"
                    for point in layer.change_points
                )
                rows.append({
                    "model": kind, "metric": metric, "filter": name, "site": layer.label,
                    "verdict": layer.verdict, "first": curve.values[0],
                    "lowest": curve.values[low], "at": int(curve.positions[low]),
                    "highest": curve.values[high], "at_step": int(curve.positions[high]),
                    "last": curve.values[-1], "moves": moves, "turns": turns,
                })  # fmt: skip
    return pandas.DataFrame(rows)


def shape_rows(track: Track, kind: str) -> pandas.DataFrame:
    """Shape over the blocks at every measured step, under every filter."""
    rows = []
    for run in track.runs:
        one = Track([run])
        for metric in ("anisotropy", "id_twonn"):
            for name in run.definition.filters:
                shape = profile_shape(one, metric, name)
                rows.append({
                    "model": kind, "step": run.sample["step"], "metric": metric, "filter": name,
                    "shape": shape.shape, "p_flat": shape.p_flat,
                    "peak": None if shape.peak is None else shape.peak.value,
                    "first": shape.curve.values[0], "lowest": shape.curve.values.min(),
                    "highest": shape.curve.values.max(), "last": shape.curve.values[-1],
                })  # fmt: skip
    return pandas.DataFrame(rows)


def difference_rows(tracks: dict[str, Track]) -> pandas.DataFrame:
    """Decoder less encoder over the blocks at every step of both, all depths tested together."""
    by_step = [{run.sample["step"]: run for run in tracks[kind].runs} for kind in KINDS]
    rows = []
    for step in sorted(by_step[0].keys() & by_step[1].keys()):
        decoder, encoder = (Track([runs[step]]) for runs in by_step)
        for metric in ("anisotropy", "id_twonn"):
            for name in FILTERS:
                found = compare_profiles(encoder, decoder, metric, name)
                told = found.significant
                rows.append({
                    "step": step, "metric": metric, "filter": name,
                    "least": found.difference.min(), "most": found.difference.max(),
                    "depths": len(told), "above": int((told & (found.difference > 0)).sum()),
                    "below": int((told & (found.difference < 0)).sum()),
                })  # fmt: skip
    return pandas.DataFrame(rows)


def correlation_rows(
    table: pandas.DataFrame, heads: pandas.DataFrame, kind: str
) -> pandas.DataFrame:
    """Correlation of attention with anisotropy: over steps by block, over blocks at the end."""
    frames = []
    last = heads[heads["step"] == heads["step"].max()]
    for statistic in ("categorical", "max_weight", "entropy", "first_key"):
        for name in FILTERS:
            for over, part in (("steps", heads), ("layers", last)):
                found = correlate(part, table, statistic, "anisotropy", name, over=over)
                frames.append(found.assign(over=over, statistic=statistic, filter=name, model=kind))
    together = pandas.concat(frames)
    columns = ["model", "over", "block", "revision", "statistic", "filter", "correlation",
               "lower", "upper", "n", "n_effective"]  # fmt: skip
    return together[columns]


if __name__ == "__main__":
    main()
