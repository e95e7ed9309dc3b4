"""What a sweep looks like: the page, its JSON twin, profiles.png and the table on the terminal.

    tidy table -> data.read_sample -> panels.panels_of -> svg.draw -> page.render -> report.html
                                                       -> figure.plot_profiles    -> profiles.png
                                   -> findings.findings_of (rules) -> page, twin  -> report.json
                                   -> terminal.print_table

Everything here reads aggregates only, and needs neither torch nor the activations.
"""

from __future__ import annotations

from fastdim.report.figure import plot_profiles
from fastdim.report.findings import Finding, findings_of
from fastdim.report.page import render
from fastdim.report.terminal import print_legend, print_table
from fastdim.report.twin import read_twin
from fastdim.report.write import write_report

__all__ = [
    "Finding",
    "findings_of",
    "plot_profiles",
    "print_legend",
    "print_table",
    "read_twin",
    "render",
    "write_report",
]
