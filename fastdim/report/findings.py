"""Sentences that the page draws from the numbers, each by a stated rule.

A rule fires only when its condition holds for the measured values and, where intervals are
known, when these do not overlap. A rule says nothing about the shape of a curve: that needs a
test of its own. Every rule's text stands in `RULES` and is printed on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastdim.report import words
from fastdim.report.data import Cell, Run, Sample, Site, site_ranges
from fastdim.report.panels import MANY_REVISIONS

HIGH_ANISOTROPY = 0.5
CARRIED = 0.5
KEPT = 0.8
FEW_ROWS = 0.05
SAME_ID = 0.1
LARGE_NORM = 5.0
COMMON_DIRECTION = 0.5
REPEATED = 0.95

RULES = {
    "few_rows": (
        f"At the site where the anisotropy of all tokens is highest: it is at least "
        f"{HIGH_ANISOTROPY} there, falls to at most {CARRIED} of itself without outlier rows, the "
        f"outlier rows are at most {100 * FEW_ROWS:g} % of the rows, and the two intervals do not "
        "overlap. The same test is then made at every other site."
    ),
    "not_few_rows": (
        f"At the site where the anisotropy of all tokens is highest: it is at least "
        f"{HIGH_ANISOTROPY} there and keeps at least {KEPT} of itself without outlier rows."
    ),
    "first_position": (
        "At each site where the rule on few rows holds: without special tokens and first "
        f"positions the anisotropy keeps at least {KEPT} of itself (not enough) or falls to at "
        f"most {CARRIED} of itself (enough)."
    ),
    "id_outliers": (
        f"Where the rule on few rows holds: leaving out outlier rows moves the intrinsic dimension "
        f"by at most {100 * SAME_ID:g} % at every site (hardly moves) or by more (moves)."
    ),
    "id_range": (
        "The lowest and highest intrinsic dimension over the sites, if their intervals do not "
        "overlap; otherwise it is said that they do."
    ),
    "repeated_rows": f"Sites where fewer than {100 * REPEATED:g} % of the rows are distinct.",
    "norms": (
        f"The site with the largest ratio of largest to median norm, if it is at least "
        f"{LARGE_NORM:g}."
    ),
    "common_direction": (
        f"Sites where the mean cosine of all tokens, with its interval, is above "
        f"{COMMON_DIRECTION}."
    ),
    "first_to_last": (
        f"For a model with more than {MANY_REVISIONS} revisions: sites where the intrinsic "
        "dimension of the last revision is above or below that of the first, intervals disjoint."
    ),
}


@dataclass(frozen=True)
class Finding:
    """One sentence, the rule that gave it and the run it is about."""

    rule: str
    model: str
    revision: str
    text: str


def apart(a: Cell, b: Cell) -> bool:
    """True if the values differ and, where both have intervals, these do not overlap."""
    if a.has_interval and b.has_interval:
        return a.upper < b.lower or b.upper < a.lower
    return a.value != b.value


def _known(run: Run, filter_name: str, metric: str) -> list[tuple[Site, Cell]]:
    cells = ((site, run.cell(site.layer, filter_name, metric)) for site in run.sites)
    return [(s, c) for s, c in cells if c is not None and math.isfinite(c.value)]


def _at(site: Site) -> str:
    return f"the {site.label}" if site.kind in words.SITE_TITLES else site.label


def _shown(cell: Cell) -> str:
    value, bounds = words.interval(cell.value, cell.lower, cell.upper)
    return f"{value} ({bounds})" if bounds else value


def carried_by_few(run: Run, site: Site) -> bool:
    """The rule "few_rows" at one site, without the threshold on the share of high sites."""
    full = run.cell(site.layer, "all", "anisotropy")
    rest = run.cell(site.layer, "no_outliers", "anisotropy")
    if full is None or rest is None:
        return False
    removed = full.n_rows - rest.n_rows
    return (
        full.value >= HIGH_ANISOTROPY
        and rest.value <= CARRIED * full.value
        and 0 < removed <= FEW_ROWS * full.n_rows
        and apart(full, rest)
    )


def _peak(run: Run) -> tuple[Site, Cell, Cell] | None:
    known = _known(run, "all", "anisotropy")
    if not known:
        return None
    site, full = max(known, key=lambda item: item[1].value)
    rest = run.cell(site.layer, "no_outliers", "anisotropy")
    return None if rest is None else (site, full, rest)


def few_rows(run: Run) -> list[tuple[str, str]]:
    """Is the highest anisotropy carried by a few rows?"""
    peak = _peak(run)
    if peak is None or peak[1].value < HIGH_ANISOTROPY:
        return []
    site, full, rest = peak
    removed = int(full.n_rows - rest.n_rows) if rest.n_rows <= full.n_rows else 0
    start = f"With all tokens the anisotropy is highest at {_at(site)} ({words.number(full.value)})"
    if carried_by_few(run, site):
        text = (
            f"{start}; without {words.plural(removed, 'outlier row')} "
            f"({words.share(removed, full.n_rows)} of the rows) it is {words.number(rest.value)} "
            "there: a few rows carry it."
        )
        where = [s for s in run.sites if carried_by_few(run, s)]
        if len(where) > 1:
            text += f" The same holds at {len(where)} of {len(run.sites)} sites: "
            text += f"{site_ranges(where)}."
        return [("few_rows", text)]
    if rest.value >= KEPT * full.value:
        without = (
            f"without {words.plural(removed, 'outlier row')} ({words.share(removed, full.n_rows)})"
            if removed
            else "no row there is an outlier, and without outliers"
        )
        tail = "it is not the work of a few rows of large norm."
        return [
            ("not_few_rows", f"{start}; {without} it is {words.number(rest.value)} there: {tail}")
        ]
    return []


def first_position(run: Run) -> list[tuple[str, str]]:
    """Is it enough to leave out special tokens and position 0?"""
    peak = _peak(run)
    if peak is None or not carried_by_few(run, peak[0]):
        return []
    enough: list[Site] = []
    too_little: list[Site] = []
    for site in run.sites:
        full = run.cell(site.layer, "all", "anisotropy")
        part = run.cell(site.layer, "no_special", "anisotropy")
        if full is None or part is None or not carried_by_few(run, site):
            continue
        if part.value >= KEPT * full.value:
            too_little.append(site)
        elif part.value <= CARRIED * full.value:
            enough.append(site)
    told = "Leaving out only special tokens and first positions"
    parts = []
    for sites, verdict in ((enough, "is enough"), (too_little, "is not enough")):
        if sites:
            parts.append(
                f"{verdict} at {words.plural(len(sites), 'such site')} ({site_ranges(sites)})"
            )
    if not parts:
        return []
    part = run.cell(peak[0].layer, "no_special", "anisotropy")
    tail = "" if part is None else f"; at {_at(peak[0])} it gives {words.number(part.value)}"
    return [("first_position", f"{told} {words.listing(parts)}{tail}.")]


def id_outliers(run: Run) -> list[tuple[str, str]]:
    """Does the intrinsic dimension move with the rows that carry the anisotropy?"""
    peak = _peak(run)
    if peak is None or not carried_by_few(run, peak[0]):
        return []
    changes = []
    for site, full in _known(run, "all", "id_twonn"):
        rest = run.cell(site.layer, "no_outliers", "id_twonn")
        if rest is not None and full.value > 0 and math.isfinite(rest.value):
            changes.append((abs(rest.value / full.value - 1.0), site, full, rest))
    if not changes:
        return []
    change, site, full, rest = max(changes, key=lambda item: item[0])
    values = f"{words.number(full.value)} to {words.number(rest.value)} at {_at(site)}"
    if change <= SAME_ID:
        text = (
            "The intrinsic dimension hardly moves when the same rows are left out: by at most "
            f"{words.share(change, 1.0)} ({values})."
        )
    else:
        text = (
            "The intrinsic dimension moves too when the same rows are left out, most from "
            f"{values} ({words.share(change, 1.0)})."
        )
    return [("id_outliers", text)]


def id_range(run: Run) -> list[tuple[str, str]]:
    """Lowest and highest intrinsic dimension over the sites."""
    known = _known(run, "all", "id_twonn")
    if len(known) < 2:
        return []
    low = min(known, key=lambda item: item[1].value)
    high = max(known, key=lambda item: item[1].value)
    if apart(low[1], high[1]):
        text = (
            f"The intrinsic dimension (all tokens) is lowest at {_at(low[0])}, "
            f"{_shown(low[1])}, and highest at {_at(high[0])}, {_shown(high[1])}."
        )
    else:
        text = (
            f"The intrinsic dimension (all tokens) lies between {words.number(low[1].value)} and "
            f"{words.number(high[1].value)} at all sites; the intervals of the lowest and the "
            "highest overlap."
        )
    return [("id_range", text)]


def repeated_rows(run: Run) -> list[tuple[str, str]]:
    """Where equal rows are many, the dimension is that of the distinct ones."""
    found = [
        (site, cell)
        for site, cell in _known(run, "all", "id_twonn")
        if cell.n_rows > 0 and cell.n_distinct < REPEATED * cell.n_rows
    ]
    if not found:
        return []
    site, cell = min(found, key=lambda item: item[1].n_distinct / item[1].n_rows)
    text = (
        f"At {_at(site)} only {words.count(cell.n_distinct)} of {words.count(cell.n_rows)} rows "
        "are distinct; the intrinsic dimension there is that of the distinct rows."
    )
    others = [s for s, _ in found if s is not site]
    if others:
        text += f" Repeated rows are frequent also at: {site_ranges(others)}."
    return [("repeated_rows", text)]


def norms(run: Run) -> list[tuple[str, str]]:
    """The largest row beside the usual one."""
    known = _known(run, "all", "norm_ratio")
    if not known:
        return []
    site, cell = max(known, key=lambda item: item[1].value)
    if cell.value < LARGE_NORM:
        return []
    text = f"The largest row is {words.number(cell.value)} times the median norm at {_at(site)}"
    top = run.extras.get((site.layer, "all"), {}).get("top_rows") or []
    if top:
        first = sum(1 for row in top if row.get("position") == 0)
        part = math.fsum(float(row["share"]) for row in top)
        text += (
            f"; the {len(top)} rows that spread most along the strongest direction hold "
            f"{words.share(part, 1.0)} of its spread (s₁²) there, {first} of them at "
            "position\u00a00, the first token of a document"
        )
    return [("norms", text + ".")]


def common_direction(run: Run) -> list[tuple[str, str]]:
    """Where all rows point roughly the same way."""
    known = _known(run, "all", "mean_cosine")
    found = [
        (site, cell)
        for site, cell in known
        if (cell.lower if cell.has_interval else cell.value) > COMMON_DIRECTION
    ]
    if not found:
        return []
    site, cell = max(found, key=lambda item: item[1].value)
    return [
        (
            "common_direction",
            f"Rows share a common direction: the mean cosine of two tokens is above "
            f"{COMMON_DIRECTION} at {len(found)} of {len(known)} sites "
            f"({site_ranges([s for s, _ in found])}), at most {words.number(cell.value)} at "
            f"{_at(site)}.",
        )
    ]


RUN_RULES: tuple[Callable[[Run], list[tuple[str, str]]], ...] = (
    few_rows, first_position, id_outliers, id_range, repeated_rows, norms, common_direction,
)  # fmt: skip


def first_to_last(first: Run, last: Run) -> list[tuple[str, str]]:
    """Sites whose intrinsic dimension differs between two revisions."""
    rises: list[Site] = []
    falls: list[Site] = []
    compared = 0
    for site, old in _known(first, "all", "id_twonn"):
        new = last.cell(site.layer, "all", "id_twonn")
        if new is None or not math.isfinite(new.value):
            continue
        compared += 1
        if apart(old, new):
            (rises if new.value > old.value else falls).append(site)
    if not compared:
        return []
    parts = []
    for sites, verb in ((rises, "higher"), (falls, "lower")):
        if sites:
            parts.append(f"{verb} at {len(sites)} of {compared} sites ({site_ranges(sites)})")
    told = words.listing(parts) if parts else f"not measurably different at any of {compared} sites"
    return [
        (
            "first_to_last",
            f"From {first.revision} to {last.revision} the intrinsic dimension (all tokens) is "
            f"{told}.",
        )
    ]


def findings_of(sample: Sample) -> list[Finding]:
    """All findings; of a model with many revisions only the last one is described by itself."""
    found: list[Finding] = []
    for model in sample.models:
        runs = sample.revisions(model)
        if len(runs) > MANY_REVISIONS:
            for rule, text in first_to_last(runs[0], runs[-1]):
                found.append(Finding(rule, model, "", text))
            runs = runs[-1:]
        for run in runs:
            for check in RUN_RULES:
                found += [Finding(rule, model, run.revision, text) for rule, text in check(run)]
    return found
