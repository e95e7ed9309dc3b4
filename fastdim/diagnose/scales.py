"""The intrinsic dimension of every layer at several scales, from activations that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdim.arrays import as_rows, whole_number
from fastdim.errors import FastdimError, InputError, StoreError
from fastdim.estimators.gride import gride_scales
from fastdim.extract.store import Store
from fastdim.sweeps.record import RunRecord
from fastdim.sweeps.schema import to_frame

if TYPE_CHECKING:
    import pandas

LARGEST = 8


def id_scales(
    folder: str | Path,
    *,
    largest: int = LARGEST,
    sites: Sequence[str] = ("block",),
    queries: int | None = 2000,
    threads: int | None = None,
) -> pandas.DataFrame:
    """A table of `id_gride_1`, `id_gride_2`, ...: Gride(n1, 2 n1) of every layer, all tokens.

    folder: a run with its activations (not --no-keep-activations). largest: the last n1, a power of
    two. sites: kinds of places. queries: rows looked at, against all; None for every one. The
    columns are those of `Sweep.table`, so `profile_shape` and `robust_shape(scales=)` take it;
    standard errors are Gride's own, layers independent. A layer that
    fails has rows with its reason.

    Raises InputError on a bad `largest`, unknown sites, or a layer that the run has not measured
    under the filter "all"; StoreError without activations.
    """
    whole_number("largest", largest, 1)
    folder = Path(folder)
    record = RunRecord.read(folder)
    try:
        store = Store.open(folder / "activations")
    except StoreError as error:
        raise StoreError(
            f"{folder} has no activations to look at other scales of ({error}); run the sweep "
            "again with --keep-activations"
        ) from error
    store.threads = threads
    # Of all tokens, as the scales are: another filter has other counts of rows.
    base = {
        row["layer"]: row
        for row in record.rows()
        if row["metric"] == "id_twonn" and row["filter"] == "all"
    }
    rows: list[dict[str, Any]] = []
    for site in store.sites:
        if site.site not in sites:
            continue
        if site.layer not in base:
            raise InputError(
                f"{folder} has no row of {site.label} under the filter all: let the sweep finish, "
                "with that filter"
            )
        orders = [1 << power for power in range(int(largest).bit_length())]
        blank = {**base[site.layer], "filter": "all", "backend": "", "seconds": 0.0}
        try:
            matrix = as_rows(store.rows(site.layer), name=site.label)
            seed = record.definition.seed
            curve = gride_scales(matrix, largest, queries=queries, seed=seed, threads=threads)
        except StoreError:
            raise
        except FastdimError as error:
            nothing = dict.fromkeys(("value", "lower", "upper", "stderr"), float("nan"))
            failed = {"status": "failed", "reason": str(error), "method": ""}
            rows += [{**blank, **nothing, **failed, "metric": f"id_gride_{n}"} for n in orders]
            continue
        for order, found in zip(orders, curve.estimates, strict=True):
            measured = {
                name: getattr(found, name) for name in ("value", "lower", "upper", "stderr")
            }
            measured |= {"n_distinct": found.n_distinct, "n_queries": found.n_queries}
            measured |= {"method": found.method, "status": "ok", "reason": ""}
            rows.append({**blank, **measured, "metric": f"id_gride_{order}"})
    if not rows:
        raise InputError(f"{folder} has no sites {', '.join(sites)}")
    frame: pandas.DataFrame = to_frame(rows)
    return frame
