"""The style sheet of the page. Two palettes after Okabe and Ito (2008), for light and for dark.

Lines of different filters differ in dash as well as in colour. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

# One (light, dark) pair a filter, in display order; further filters go on in the list.
COLORS = (
    ("#1f1f1f", "#f0f0f0"),
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff9a4d"),
    ("#008f6b", "#2fd0a3"),
    ("#b0478c", "#e79cc8"),
    ("#8a6d00", "#f0d642"),
    ("#5a5a9e", "#a9a9f0"),
    ("#7a4a2b", "#d0a080"),
)
DASHES = ("", "5 3", "", "1.5 3", "7 2 2 2", "3 2", "9 3", "2 2")

# Ends and middle of the ramp for revisions, first to last, as (red, green, blue).
RAMP_LIGHT = ((150, 200, 215), (60, 110, 180), (60, 10, 90))
RAMP_DARK = ((70, 85, 140), (60, 170, 160), (250, 225, 90))

BASE = """
:root{--bg:#fdfdfb;--ink:#1d1d1b;--soft:#5c5c57;--line:#dcdcd4;--rule:#e9e9e2;--tint:#f4f4ee;
--accent:#0b5a8a;--bad:#a02020;--badbg:#fbf0ee;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#161718;--ink:#e8e6e1;--soft:#a5a39c;--line:#3a3c3e;
--rule:#2a2c2e;--tint:#1f2123;--accent:#7cc0ea;--bad:#ff9c92;--badbg:#2b1c1b}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:17px/1.55 Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,serif}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
h1{font-size:30px;line-height:1.2;font-weight:600;margin:0 0 6px;letter-spacing:-.01em;
overflow-wrap:anywhere}
h2{font-size:21px;font-weight:600;margin:44px 0 10px;
padding-top:14px;border-top:1px solid var(--ink)}
h3{font-size:18px;font-weight:600;margin:0 0 4px}
p{margin:0 0 12px;max-width:70ch}
.lede{font-size:19px;line-height:1.5;max-width:66ch;overflow-wrap:anywhere}
.meta,nav,.key,figcaption,summary,table,.note,.site{font-family:system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif}
.meta,.note{font-size:13.5px;line-height:1.5;color:var(--soft)}
nav{font-size:14px;line-height:1.9;margin:16px 0 0}
nav a{margin-right:14px;white-space:nowrap}
a{color:var(--accent);text-decoration-thickness:1px;text-underline-offset:2px}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:2px}
.skip{position:absolute;left:-9999px}.skip:focus{left:12px;
top:8px;background:var(--bg);padding:4px 8px}
ul.find{margin:0 0 14px;padding:0;list-style:none;max-width:74ch}
ul.find li{padding:7px 0 8px;border-top:1px solid var(--rule)}
ul.find li:first-child{border-top:0}
ul.facts{margin:0 0 14px;padding:0 0 0 18px;max-width:74ch}ul.facts li{margin-bottom:4px;
overflow-wrap:anywhere}
.columns{display:grid;gap:0 44px;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
.bad{background:var(--badbg);border-left:3px solid var(--bad);padding:12px 16px;margin:24px 0}
.bad h2{border:0;margin:0 0 6px;padding:0;font-size:18px;color:var(--bad)}
.key{display:flex;flex-wrap:wrap;gap:4px 22px;font-size:13.5px;margin:10px 0 6px;padding:0;
list-style:none;align-items:baseline}
.key svg{width:34px;height:10px;margin-right:7px;overflow:visible}
.key b{font-weight:600}
article{padding:26px 0 20px;border-bottom:1px solid var(--rule)}
article.one{display:grid;grid-template-columns:minmax(0,5fr) minmax(0,8fr);gap:4px 36px}
article.one .folds{grid-column:1/-1}
.panels{display:grid;gap:12px 28px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr))}
article.one .panels{display:block}
figure{margin:6px 0 0;min-width:0}
figcaption{font-size:13.5px;font-weight:600;overflow-wrap:anywhere;margin-bottom:2px}
svg.panel{display:block;width:100%;height:auto;max-width:580px}
.panel text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-size:11px;fill:var(--soft);font-variant-numeric:tabular-nums}
.ax path{stroke:var(--rule);fill:none;shape-rendering:crispEdges}
.ax .zero,.ax .tick{stroke:var(--soft)}
.ax .v{text-anchor:end;dominant-baseline:central}
.ax .h{text-anchor:middle}.ax .c{font-size:10.5px}
.panel .n{font-size:11px;font-weight:600;dominant-baseline:central;fill:var(--c)}
.lead{stroke:var(--c);stroke-width:.8;fill:none;opacity:.7}
.l,.d,.e{fill:none;stroke:var(--c);stroke-linejoin:round;stroke-linecap:round}
.l{stroke-width:1.7}.d{stroke-width:6}.e{stroke-width:1.4;opacity:.55}
.b{fill:var(--c);opacity:.17;stroke:none}
.hov rect{fill:transparent}.hov rect:hover{fill:var(--ink);fill-opacity:.07}
details{margin:6px 0}
summary{cursor:pointer;font-size:14px;color:var(--accent);padding:3px 0;width:fit-content}
details>*:not(summary){margin-left:14px}
.formula{font-family:"STIX Two Text","Cambria Math",Cambria,Georgia,serif;font-size:17px;
overflow-wrap:anywhere}
.scroll{overflow-x:auto;width:fit-content;max-width:100%;max-height:75vh;
border:1px solid var(--rule);margin:6px 0 12px}
table{border-collapse:collapse;font-size:13px;line-height:1.35;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:6px 10px;color:var(--soft)}
th,td{padding:3px 10px;text-align:right;white-space:nowrap;vertical-align:top}
thead th{position:sticky;top:0;background:var(--tint);font-weight:600;text-align:right}
th:first-child,td.t,th.t{text-align:left}
tbody th{font-weight:400;position:sticky;left:0;background:var(--bg)}
tbody tr:nth-child(2n) td,tbody tr:nth-child(2n) th{background:var(--tint)}
td small{color:var(--soft);font-size:11.5px;margin-left:5px}
td.v small{display:block;margin:0}
td.wrap,th.wrap{white-space:normal;text-align:left;min-width:24em}
td.x{color:var(--bad)}
.wide thead th{white-space:normal;vertical-align:bottom}.wide td{padding-left:8px}
table.def td,table.def th{text-align:left;white-space:normal;overflow-wrap:anywhere;position:static}
table.def th{overflow-wrap:break-word}
code,.tok{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:12px}
.tok{background:var(--tint);border:1px solid var(--line);border-radius:3px;padding:0 3px}
.chip{display:inline-block;min-width:15.5em;margin:0 8px 2px 0;white-space:nowrap}
.chip i{font-style:normal;color:var(--soft)}
footer{padding-top:24px;padding-bottom:60px;margin-top:40px}
@media (max-width:820px){article.one{display:block}article.one .panels{margin-top:10px}}
@media (max-width:520px){body{font-size:16px}main,header,footer{padding:0 16px}
header{padding-top:26px}h1{font-size:24px}.lede{font-size:17px}
.panel text,.panel .n{font-size:12.5px}
.panel .c{font-size:11.5px}
details>*:not(summary){margin-left:0}}
@media print{:root{--bg:#fff;--ink:#000;--soft:#444;--line:#bbb;--rule:#ddd;--tint:#f5f5f5;
--accent:#000;--bad:#800;--badbg:#fff;color-scheme:light}body{font-size:10pt;
line-height:1.4}.lede{font-size:11pt}h1{font-size:18pt}h2{margin-top:22px}article{padding:12px 0}
.panels,.columns{grid-template-columns:1fr 1fr;gap:4px 18px}.key,.key+article{break-before:avoid}
header,main,footer{max-width:none;padding:0}nav,.skip{display:none}
article,figure,ul.find li{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{max-height:none;overflow:visible;border:0}details:not([open]){display:none}
.b{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def _mix(ramp: tuple[tuple[int, int, int], ...], part: float) -> str:
    """Colour at `part` in [0, 1] of a ramp with equal steps between its colours."""
    place = part * (len(ramp) - 1)
    low = min(int(place), len(ramp) - 2)
    weight = place - low
    mixed = (round(a + (b - a) * weight) for a, b in zip(ramp[low], ramp[low + 1], strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def ramp_color(index: int, total: int, dark: bool = False) -> str:
    """Colour of revision `index` of `total` as "#rrggbb"."""
    return _mix(RAMP_DARK if dark else RAMP_LIGHT, index / max(total - 1, 1))


def style_sheet(revisions: int) -> str:
    """The whole style sheet; `revisions` is the largest number of lines in one ramp (or 0)."""
    light = [f".f{i}{{--c:{pair[0]}}}" for i, pair in enumerate(COLORS)]
    dark = [f".f{i}{{--c:{pair[1]}}}" for i, pair in enumerate(COLORS)]
    dashes = [f".f{i} .l{{stroke-dasharray:{dash}}}" for i, dash in enumerate(DASHES) if dash]
    light += [f".r{i}{{--c:{ramp_color(i, revisions)}}}" for i in range(revisions)]
    dark += [f".r{i}{{--c:{ramp_color(i, revisions, True)}}}" for i in range(revisions)]
    thin = [".s[class*=' r'] .l{stroke-width:1.2}.s[class*=' r'] .d{stroke-width:4}"]
    thin += [".s[class*=' r']:hover .l{stroke-width:3.5}"]
    return (
        BASE
        + "".join(light + dashes + (thin if revisions else []))
        + f"@media screen and (prefers-color-scheme:dark){{{''.join(dark)}}}"
    )
