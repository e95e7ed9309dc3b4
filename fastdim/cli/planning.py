"""`fastdim plan`: what a sweep takes on many GPUs, before anything is started."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from fastdim.cli import OK
from fastdim.cli.display import duration
from fastdim.plan_scale import (
    MODEL_SHARE,
    ScalePlan,
    amount,
    check_tokens,
    machines_for,
    model_shape,
    scale_plan,
)
from fastdim.sweeps.filters import resolve_filters
from fastdim.sweeps.plan import size


def plan(options: argparse.Namespace) -> int:
    """Run the command."""
    tokens = check_tokens(options.tokens)
    filters = tuple(item.name for item in resolve_filters(options.filters, tokens=True))
    machines = machines_for(
        options.gpus,
        options.card,
        options.cores_per_gpu,
        options.core_gflops and options.core_gflops * 1e9,
        options.network * 1e9,
        options.disk * 1e9,
    )
    found = scale_plan(
        model_shape(options.model, options.revision, options.trust_remote_code),
        tokens,
        machines,
        context=options.context,
        queries=None if options.exact else options.queries,
        pairs=int(tokens * (tokens - 1) / 2) if options.exact else options.pairs,
        filters=filters,
        dtype=options.dtype,
    )
    if options.json:
        extra = {"analysis_seconds": found.analysis_seconds, "seconds": found.seconds}
        print(json.dumps(asdict(found) | extra, indent=1))
    else:
        print(plan_lines(found, options.card if options.gpus else ""))
    return OK


def plan_lines(plan: ScalePlan, card: str) -> str:
    """The plan in words; card: "" for the CPU of this machine."""
    shape, machines, site = plan.shape, plan.machines, plan.site
    where = (
        f"{machines.gpus:,} {card.upper()}, one rank each, {machines.cores.count} cores beside it"
        if card
        else f"{machines.cores.count} CPU cores of this machine"
    )
    stated = f"a stated rate x {MODEL_SHARE:g}" if card else "measured here"
    rest = f"sums {duration(site.sums)}, forms {duration(site.forms)}, pairs {duration(site.pairs)}"
    return "\n".join(
        [
            f"{shape.name} on {where}",
            f"  model     {amount(shape.parameters)} parameters, {shape.blocks} blocks of"
            f" {shape.width:,} columns, about {shape.sites} sites",
            f"  rows      {amount(plan.tokens)} tokens a site, {amount(plan.queries)} queries",
            f"  forward   {amount(plan.forward_operations)} operations at"
            f" {machines.forward_flops:.2g}/s a rank ({stated}): {duration(plan.forward_seconds)}",
            f"  disk      {size(plan.disk_bytes)} a rank,"
            f" {size(plan.disk_bytes * machines.gpus)} in all;"
            f" written and read once: {duration(plan.disk_seconds)}",
            f"  search    {amount(plan.search_operations)} operations of pairs, most left out by"
            " bounds",
            f"  network   {size(plan.network_bytes)} into each rank: "
            f"{duration(plan.network_seconds)} while it searches",
            f"  memory    {size(plan.memory_bytes)} a rank at its peak",
            f"  a site    {duration(site.seconds)}: search {duration(site.search)}, {rest},"
            f" on one core: eigenvectors {duration(site.eigen)}, rows {duration(site.rows)}",
            f"  time      {duration(plan.seconds)} = forward {duration(plan.forward_seconds)}"
            f" + disk {duration(plan.disk_seconds)} + analysis {duration(plan.analysis_seconds)}",
        ]
    )
