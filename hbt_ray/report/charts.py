"""Charts of points, lines and intervals, described in Altair and drawn as SVG by vl-convert.

Colours are CSS variables (`hbt_ray.report.page`), so one drawing serves light and dark pages. Each point has its
tooltip as `aria-label`, which the script of the page shows. Text from data is used in values and titles only, never in
field names or expressions, so Vega does not interpret it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import altair as alt
import numpy as np
import vl_convert
from markupsafe import Markup
from numpy.typing import NDArray

from hbt_ray.report.page import LIGHT

Floats = NDArray[np.float64]
ScaleType = Literal["linear", "log", "names"]
SIZE, WIDE = (540, 250), (1130, 330)
"""Width and height in pixels of a chart in one column of the page and across the page, with axes and legend."""
MAX_POINTS = 400
"""Maximum number of points in one layer: more would not be seen, and each takes 200 bytes of the file."""


@dataclass(frozen=True)
class Row:
    """One value to draw. Altair reads the attributes as the fields of a record."""

    x: float | str
    y: float
    tooltip: str = ""
    series: str = ""
    """Key of `Canvas.colours`."""
    low: float = 0.0
    """Lower end of an interval, with `high` as its upper end; see `Canvas.intervals`."""
    high: float = 0.0
    group: str = ""
    """One line joins the rows with equal series and group."""


@dataclass(frozen=True)
class Axis:
    """One axis of a chart."""

    title: str
    domain: tuple[float, float] | None = None
    """First and last value. Default: the range of the data."""
    scale: ScaleType = "linear"
    ticks: tuple[float, ...] = ()
    """Values with a label. Default: round numbers."""
    names: tuple[str, ...] = ()
    """Values of a `names` axis, in order."""
    as_percentage: bool = False
    reverse: bool = False

    def encoding(self, channel: Literal["x", "y"], field: str = "") -> Any:
        """The Altair encoding of `field`. Default: the field with the name of the channel."""
        build: Any = alt.X if channel == "x" else alt.Y
        field, title = field or channel, self.title or None
        if self.scale == "names":
            # Labels side by side have room for about 40 characters.
            slanted = sum(len(name) + 2 for name in self.names) > 40
            axis = alt.Axis(labelLimit=150, labelAngle=-35 if slanted else 0)
            return build(field=field, type="nominal", title=title, axis=axis, sort=list(self.names))
        # d3-format: `25%`, `2e-5` for tiny numbers, else `2,000` and `0.25`.
        tiny = self.domain is not None and self.domain[0 if self.scale == "log" else 1] < 1e-3
        number_format = ".0%" if self.as_percentage else ".3~e" if tiny else ",.6~r"
        ticks: Any = {"values": list(self.ticks)} if self.ticks else {"tickCount": 6}
        axis = alt.Axis(format=number_format, labelOverlap="greedy", **ticks)
        domain: Any = {"domain": list(self.domain)} if self.domain else {}
        scale = alt.Scale(type=self.scale, zero=False, nice=not self.domain, reverse=self.reverse, **domain)
        return build(field=field, type="quantitative", title=title, axis=axis, scale=scale)


@dataclass(frozen=True)
class Canvas:
    """The axes and colours that all layers of a chart share."""

    x: Axis
    y: Axis
    colours: Mapping[str, str]
    """Series → name of its colour in `hbt_ray.report.page`, in the order of the legend. There is no legend if a series
    has no name."""

    def points(self, rows: Sequence[Row], *, size: int = 16, opacity: float = 1.0, **mark: Any) -> alt.Chart:
        """A dot with a tooltip for each row. `size` is the square of the diameter in pixels."""
        rows = [rows[i] for i in thinned(len(rows))]
        chart = self._encoded(_chart(map(vars, rows)).mark_circle(size=size, opacity=opacity, **mark))
        # Vega writes the description as `aria-label`.
        return chart.encode(description=alt.Description(field="tooltip", type="nominal"))

    def line(self, rows: Sequence[Row], *, width: float = 2.0, **mark: Any) -> alt.Chart:
        """A line for each series and group, from left to right."""
        chart = self._encoded(_chart(map(vars, rows)).mark_line(strokeWidth=width, aria=False, **mark))
        # `detail` separates lines without giving each a colour.
        return chart.encode(detail=alt.Detail(field="group", type="nominal"))

    def intervals(self, rows: Sequence[Row], **mark: Any) -> alt.Chart:
        """A vertical line from `low` to `high` for each row."""
        chart = self._encoded(_chart(map(vars, rows)).mark_rule(strokeWidth=2, opacity=0.75, aria=False, **mark))
        return chart.encode(y=self.y.encoding("y", "low"), y2=alt.Y2(field="high"))

    def rule(self, series: str, *, x: float | None = None, y: float | None = None) -> alt.Chart:
        """A dashed line over the whole width at `y`, or over the whole height at `x`."""
        chart = _chart([{"x": x, "y": y, "series": series}]).mark_rule(strokeDash=[5, 5], strokeWidth=1.5, aria=False)
        place: Any = {"y": self.y.encoding("y")} if x is None else {"x": self.x.encoding("x")}
        rule: alt.Chart = chart.encode(**place, color=self._color())
        return rule

    def band(self, low: float, high: float, colour: str) -> alt.Chart:
        """A shaded range of the horizontal axis."""
        mark = _chart([{"x": low, "high": high}]).mark_rect(color=f"var(--{colour})", opacity=0.13, aria=False)
        band: alt.Chart = mark.encode(x=self.x.encoding("x"), x2=alt.X2(field="high"))
        return band

    def labels(self, rows: Sequence[Row], **mark: Any) -> alt.Chart:
        """The tooltip of each row as text beside its point, in the colour of its series or in `color`."""
        options: Any = {"align": "left", "dx": 7, "dy": -7, "aria": False, "limit": 150} | mark
        chart = self._encoded(_chart(map(vars, rows)).mark_text(**options))
        if "color" in mark:
            chart = chart.encode(color=alt.value(mark["color"]))
        return chart.encode(text=alt.Text(field="tooltip", type="nominal"))

    def _encoded(self, chart: alt.Chart) -> alt.Chart:
        return chart.encode(x=self.x.encoding("x"), y=self.y.encoding("y"), color=self._color())

    def _color(self) -> alt.Color:
        scale = alt.Scale(domain=list(self.colours), range=[f"var(--{colour})" for colour in self.colours.values()])
        # Full colours in the legend, even if the points are faint.
        legend = alt.Legend(title=None, symbolOpacity=1) if "" not in self.colours else None
        return alt.Color(field="series", type="nominal", scale=scale, legend=legend)


@dataclass(frozen=True)
class Chart:
    """A drawing with its title, description and note."""

    title: str
    description: str
    """The content of the chart in whole sentences, for readers who cannot see it."""
    layers: tuple[alt.Chart, ...]
    """Layers, drawn from the back to the front."""
    note: str = ""
    is_wide: bool = False

    @cached_property
    def svg(self) -> Markup:
        """The drawing as SVG, for a page that defines the colours."""
        width, height = WIDE if self.is_wide else SIZE
        # Width and height then include axes and legend.
        fit = alt.AutoSizeParams(type="fit", contains="padding")
        svg = _draw(alt.layer(*self.layers).properties(width=width, height=height, autosize=fit))
        return Markup(re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2))  # Within HTML an SVG needs no namespace.


def standalone_svg(chart: alt.LayerChart | alt.HConcatChart) -> str:
    """SVG for a separate file: colours of the light page on white, without tooltips."""
    # The variables are defined in a page only.
    svg = re.sub(r"var\(--([\w-]+)\)", lambda match: LIGHT[match[1]], _draw(chart))
    return re.sub(r' aria-label="[^"]*"', "", svg).replace('fill="transparent"', 'fill="white"') + "\n"


def _draw(chart: alt.LayerChart | alt.FacetChart | alt.HConcatChart) -> Markup:
    """SVG with CSS variables for colours. It is safe as markup, since Vega escapes text from data."""
    styled = chart.configure(
        background="transparent", font="Arial, Helvetica, sans-serif",
        padding={"left": 8, "right": 8, "top": 4, "bottom": 2},
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            aria=False, domain=False, ticks=False, gridColor="var(--line)", labelColor="var(--muted)", labelFontSize=12,
            titleColor="var(--muted)", titleFontSize=12, titleFontWeight="normal", titleAnchor="end", labelPadding=6,
        ),
        axisX=alt.AxisConfig(grid=False, domain=True, domainColor="var(--line)"),
        axisY=alt.AxisConfig(titleAnchor="middle"),
        legend=alt.LegendConfig(
            aria=False, orient="top", labelColor="var(--muted)", labelFontSize=12, labelLimit=420, symbolSize=90,
            symbolStrokeWidth=2.5, columnPadding=14,
        ),
        title=alt.TitleConfig(color="var(--ink)", fontSize=13, fontWeight="normal", anchor="start"),
    )  # fmt: skip
    svg = vl_convert.vegalite_to_svg(styled.to_dict())
    # Roles of each mark, and more than one decimal of a coordinate, only take space.
    svg = re.sub(r' (role|aria-roledescription|aria-hidden|pointer-events)="[^"]*"', "", svg)
    return Markup(re.sub(r' (?:d|transform)="[^"]*"', lambda match: re.sub(r"(\.\d)\d+", r"\1", match[0]), svg))


def thinned(count: int, limit: int = MAX_POINTS) -> NDArray[np.int64]:
    """At most `limit` evenly spaced positions among `count`, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))


def widened(low: float, high: float) -> tuple[float, float]:
    """A domain slightly wider than `low` to `high`, which is never empty."""
    # Without a range, 10 % of the value; 0.5 if the value is 0.
    margin = (high - low) * 0.05 or abs(low) * 0.1 or 0.5
    return low - margin, high + margin


def _chart(records: Iterable[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(records)))
