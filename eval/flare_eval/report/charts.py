"""Small charts as SVG text: distributions, DSC against volume, memory over time, curves; crisp, no library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from flare_eval.efficiency.costs import peak
from flare_eval.report.cost_tables import GPU_LIMIT_MIB
from flare_eval.results import RunCost, Sample

# A page may set the variables, for instance for a dark background; alone, a chart is dark on white.
STYLE = """
.chart text { font: 12px system-ui, sans-serif; fill: var(--muted, #56606e); }
.chart .name { fill: var(--ink, #1d2733); font-weight: 600; }
.chart .grid { stroke: var(--line, #d9dee5); }
.chart .limit { stroke: var(--muted, #56606e); stroke-dasharray: 2 3; }
.chart .s0 { --c: var(--s0, #0b62b5); } .chart .s1 { --c: var(--s1, #d9730d); }
.chart .s2 { --c: var(--s2, #3f9fb5); } .chart .s3 { --c: var(--s3, #a08000); }
.chart .dot { fill: var(--c); } .chart .box { fill: var(--c); fill-opacity: .14; stroke: var(--c); }
.chart .mid { stroke: var(--c); stroke-width: 3; } .chart .span { stroke: var(--c); }
.chart .curve { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
.chart .dashed { stroke-dasharray: 6 3; }
"""
_WIDTH = 420
_SERIES = 4
_MAX_POINTS = 300
_MAX_DOTS = 30
# The golden ratio's multiples spread over 0 to 1 evenly without looking regular.
_GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Chart:
    """A drawing of `width` by `height` units with what it shows in words; `body` is the SVG inside."""

    title: str
    width: int
    height: int
    body: str

    @property
    def inline(self) -> str:
        """The SVG element for an HTML page that has `STYLE`."""
        return self._element("", "")

    @property
    def standalone(self) -> str:
        """The SVG as a file of its own."""
        return self._element(
            ' xmlns="http://www.w3.org/2000/svg" style="background: #fff"', _tag("style", STYLE.replace("\n", " "))
        )

    def _element(self, more: str, style: str) -> str:
        box = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        label = escape(self.title)
        return f'<svg class="chart" role="img" aria-label="{label}" {box}{more}>{style}{self.body}</svg>'


def strip_chart(title: str, values: Mapping[str, Sequence[float]]) -> Chart:
    """Draw values from 0 to 1 by name: every one as a dot, quartiles as a box, the median as a bar."""
    left, right, row, top = 8, _WIDTH - 8, 70, 26
    bottom = top + row * len(values)
    parts = [_text(left, 16, title, "start", "name")]
    for tick in np.linspace(0, 1, 6):
        x = left + 6 + tick * (right - left - 12)
        parts += [_line(x, top + 8, x, bottom, "grid"), _text(x, bottom + 16, f"{tick:g}")]
    for index, (name, numbers) in enumerate(values.items()):
        y = top + row * index
        low, *quartiles, high = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1])
        xs = [left + 6 + value * (right - left - 12) for value in (low, *quartiles, high)]
        label = f"{_short(name, 30)}: median {quartiles[1]:.3f}, n = {len(numbers)}"
        dots = [
            _tag("circle", cx=left + 6 + value * (right - left - 12), cy=y + 30 + 28 * (n * _GOLDEN % 1), r=2.6)
            for n, value in enumerate(numbers)
        ]
        box = [
            _tag("g", *dots, class_="dot", fill_opacity=_opacity(len(numbers))),
            _line(xs[0], y + 44, xs[4], y + 44, "span"),
            _tag("rect", x=xs[1], y=y + 32, width=max(xs[3] - xs[1], 1), height=24, class_="box"),
            _line(xs[2], y + 29, xs[2], y + 59, "mid"),
        ]
        parts += [_tag("g", *box, class_=_series(index)), _text(left, y + 22, label, "start", "backed")]
    return Chart(title, _WIDTH, bottom + 24, "".join(parts))


def scatter_charts(points: Mapping[str, Sequence[tuple[float, float]]]) -> list[Chart]:
    """Draw DSC against volume in ml, one chart a name, all on the same logarithmic axis; volumes of 0 are left out."""
    shown = {name: [(volume, dsc) for volume, dsc in pairs if volume > 0] for name, pairs in points.items()}
    powers = [math.log10(volume) for pairs in shown.values() for volume, _ in pairs] or [0.0]
    first = math.floor(min(powers))
    last = max(math.ceil(max(powers)), first + 1)
    return [_scatter_chart(name, pairs, first, last, _series(n)) for n, (name, pairs) in enumerate(shown.items())]


def _scatter_chart(name: str, pairs: Sequence[tuple[float, float]], first: int, last: int, series: str) -> Chart:
    left, right, top, bottom = 34, _WIDTH - 24, 30, 210

    def place(power: float, dsc: float) -> tuple[float, float]:
        return left + (power - first) / (last - first) * (right - left), bottom - dsc * (bottom - top)

    title = f"{_short(name, 30)}: DSC against lesion volume"
    parts = [_text(8, 16, title, "start", "name")]
    for dsc in np.linspace(0, 1, 6):
        y = place(first, dsc)[1]
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, f"{dsc:g}", "end")]
    for power in range(first, last + 1):
        x = place(power, 0)[0]
        parts += [_line(x, top, x, bottom, "grid"), _text(x, bottom + 16, f"{10.0**power:g}")]
    parts.append(_text((left + right) / 2, bottom + 34, f"ml of lesion in the reference; n = {len(pairs)}"))
    spots = [place(math.log10(volume), dsc) for volume, dsc in pairs]
    dots = [_tag("circle", cx=x, cy=y, r=3.4) for x, y in spots]
    parts.append(_tag("g", _tag("g", *dots, class_="dot", fill_opacity=_opacity(len(dots))), class_=series))
    return Chart(title, _WIDTH, bottom + 42, "".join(parts))


def memory_charts(runs: Sequence[RunCost]) -> list[Chart]:
    """Draw memory over time, one chart a run, all on the same axes so that they compare."""
    levels = [level for run in runs for level in (peak(run, "host_mib"), peak(run, "device_mib")) if level is not None]
    device = any(peak(run, "device_mib") is not None for run in runs)
    most = max([*levels, GPU_LIMIT_MIB if device else 1])
    return [_memory_chart(run, max([run.wall_s for run in runs] + [0.1]), most) for run in runs]


def _memory_chart(run: RunCost, seconds: float, most: float) -> Chart:
    width, left, right, top, bottom = 340, 46, 328, 44, 160
    host, device = peak(run, "host_mib"), peak(run, "device_mib")

    def place(at: float, level: float) -> tuple[float, float]:
        return left + at / seconds * (right - left), bottom - level / (1.05 * most) * (bottom - top)

    said = f"GPU {device:.0f} MB, " if device is not None else ""
    said += "no samples" if host is None else f"host {host:.0f} MB"
    parts = [_text(8, 16, _short(run.case, 42), "start", "name")]
    for level in _ticks(most):
        y = place(0, level)[1]
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, f"{level:g}", "end")]
    for at in _ticks(seconds):
        parts.append(_text(place(at, 0)[0], bottom + 16, f"{at:g} s"))
    samples = _thinned(run.samples)
    if device is not None:
        y = place(0, GPU_LIMIT_MIB)[1]
        parts.append(_line(left, y, right, y, "limit"))
        parts.append(_curve([place(sample.seconds, sample.device_mib or 0) for sample in samples], "s0"))
    if host is not None:
        parts.append(_curve([place(sample.seconds, sample.host_mib) for sample in samples], "s1 dashed"))
    parts.append(_text(8, 33, f"max: {said}", "start"))
    return Chart(f"Memory over time, {run.case}; max: {said}", width, bottom + 24, "".join(parts))


def _thinned(samples: Sequence[Sample]) -> list[Sample]:
    """Return at most `_MAX_POINTS` samples that keep every peak: of each stretch the largest of each kind."""
    stretch = math.ceil(len(samples) / _MAX_POINTS)
    if stretch <= 1:
        return list(samples)
    thinned = []
    for start in range(0, len(samples), stretch):
        part = samples[start : start + stretch]
        devices = [sample.device_mib for sample in part if sample.device_mib is not None]
        highest = max(sample.host_mib for sample in part)
        thinned.append(Sample(part[0].seconds, highest, part[0].cpu_share, max(devices, default=None)))
    return thinned


def line_chart(
    title: str, across: str, lines: Mapping[str, Sequence[tuple[float, float]]], marks: Sequence[float] = ()
) -> Chart:
    """Draw curves (x, y) by name on common axes, the horizontal one from 0; values that are not finite are left out.

    Args:
        title: of the chart.
        across: what the horizontal axis counts.
        lines: the points by name, in order; few of them are drawn as dots too.
        marks: values of x at which there is a dotted line.
    """
    left, right, top, bottom = 52, _WIDTH - 14, 44, 210
    shown = {name: [point for point in line if np.isfinite(point).all()] for name, line in lines.items()}
    points = [point for line in shown.values() for point in line] or [(1.0, 0.0)]
    levels = _ticks_around(min(y for _, y in points), max(y for _, y in points))
    last = max(x for x, _ in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = (y - levels[0]) / (levels[-1] - levels[0])
        return left + x / last * (right - left), bottom - share * (bottom - top)

    parts = [_text(8, 16, title, "start", "name")]
    for level in levels:
        y = place(0, level)[1]
        parts += [_line(left, y, right, y, "grid"), _text(left - 6, y + 4, f"{level:g}", "end")]
    parts += [_text(place(at, 0)[0], bottom + 16, f"{at:g}") for at in _ticks(last) if at == int(at)]
    parts.append(_text((left + right) / 2, bottom + 34, across))
    parts += [_line(place(at, 0)[0], top, place(at, 0)[0], bottom, "limit") for at in marks]
    for index, (name, line) in enumerate(shown.items()):
        key = left + index * (right - left) / len(shown)
        parts += [_curve([(key, 29), (key + 18, 29)], _series(index)), _text(key + 24, 33, _short(name, 48), "start")]
        parts.append(_line_of([place(*point) for point in line], _series(index)))
    return Chart(title, _WIDTH, bottom + 42, "".join(parts))


def _line_of(spots: Sequence[tuple[float, float]], series: str) -> str:
    """Return a curve through the spots with its lowest and its highest of every stretch, and dots if they are few."""
    stretch = math.ceil(2 * len(spots) / _MAX_POINTS)
    if stretch > 1:
        parts = [sorted(spots[at : at + stretch], key=lambda spot: spot[1]) for at in range(0, len(spots), stretch)]
        spots = [spot for part in parts for spot in sorted({part[0], part[-1]})]
    dots = [_tag("circle", cx=x, cy=y, r=3) for x, y in spots] if len(spots) <= _MAX_DOTS else []
    return _curve(spots, series) + _tag("g", _tag("g", *dots, class_="dot"), class_=series)


def _ticks(most: float) -> list[float]:
    """Return about four round numbers from 0 to `most`."""
    step = _step(most)
    return [step * n for n in range(int(most / step) + 1)]


def _ticks_around(low: float, high: float) -> list[float]:
    """Return about four round numbers that enclose `low` and `high`."""
    step = _step(high - low or abs(high) or 1.0)
    first = math.floor(round(low / step, 9))
    return [step * n for n in range(first, max(math.ceil(round(high / step, 9)), first + 1) + 1)]


def _step(extent: float) -> float:
    """Return the round number that divides `extent` into about four."""
    step = 10.0 ** math.floor(math.log10(extent / 4))
    return step * next(factor for factor in (1, 2, 5, 10) if extent / (step * factor) <= 5)


def _series(index: int) -> str:
    return f"s{index % _SERIES}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _opacity(count: int) -> str:
    # Few dots are strong; hundreds show by their shade where they are dense.
    return f"{min(0.75, max(0.25, 50 / max(count, 1))):.2f}"


def _curve(points: Sequence[tuple[float, float]], series: str) -> str:
    line = _tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_="curve")
    return _tag("g", line, class_=series)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _text(x: float, y: float, text: str, anchor: str = "middle", class_: str = "tick") -> str:
    return _tag("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


def _tag(name: str, *inside: str, **attributes: str | float) -> str:
    """Return an element; names as class_ and text_anchor, numbers get one decimal."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{value if isinstance(value, str) else f"{value:.1f}"}"'
        for key, value in attributes.items()
    )
    return f"<{name}{said}>{''.join(inside)}</{name}>"
