"""Colours of pages and pictures, for light and for dark screens.

Named colours are CSS variables of the page. The scale of heat maps is even in OKLCH lightness (equal steps look equal)
and reversed for dark screens, so that high values stand out from the page in both. It covers a third of the lightness:
text in one colour, black or white, has a contrast above 5 in every cell (WCAG AA asks for 4.5).
"""

from __future__ import annotations

import math

LIGHT = {
    "paper": "#fcfbf8", "ink": "#17191d", "muted": "#5b6069", "line": "#dcd8ce", "soft": "#f2efe8",
    "mono": "#0b6a82", "cross": "#bf5200", "mixed": "#7a4fa3", "plain": "#3d434c",
    "good": "#0a6b54", "bad": "#a8321a", "bar": "#b9c3cc", "on-heat": "#000000",
}  # fmt: skip
DARK = {
    "paper": "#121417", "ink": "#eceae4", "muted": "#a3a8b0", "line": "#33383f", "soft": "#1b1e23",
    "mono": "#57c1d6", "cross": "#f2995a", "mixed": "#bd9be0", "plain": "#c3c8cf",
    "good": "#5fcaa8", "bad": "#f28b73", "bar": "#4a5561", "on-heat": "#ffffff",
}  # fmt: skip
LEVELS = 41
"""Steps of the scale; level i is the CSS class `h<i>`."""
Rgb = tuple[float, float, float]


def css_rules(dark: bool) -> str:
    """The variables and the classes of all levels for one colour scheme."""
    variables = "".join(f"--{name}:{value};" for name, value in (DARK if dark else LIGHT).items())
    ramp = ",".join(hex_code(level_colour(i / 10, dark)) for i in range(11))
    levels = (f".h{i}{{background:{hex_code(level_colour(i / (LEVELS - 1), dark))}}}" for i in range(LEVELS))
    return f":root{{{variables}--ramp:{ramp}}}" + "".join(levels)


def level(share: float) -> str:
    """CSS class of a value at `share` (0 to 1) of the scale."""
    return f"h{round(min(max(share, 0), 1) * (LEVELS - 1))}"


def level_colour(share: float, dark: bool) -> Rgb:
    """sRGB in 0…1: from paper to blue, or on dark screens from night to green."""
    if dark:
        lightness, hue, chroma = 0.25 + 0.27 * share, 280 - 120 * share, 0.035 + 0.09 * share
    else:
        lightness, hue, chroma = 0.97 - 0.32 * share, 100 + 140 * share, 0.02 + 0.11 * share
    while True:  # Reduce the chroma until the colour lies within sRGB.
        rgb = _oklch_to_srgb(lightness, chroma, math.radians(hue))
        if all(-1e-4 <= channel <= 1.0001 for channel in rgb):
            red, green, blue = (min(max(channel, 0.0), 1.0) for channel in rgb)
            return red, green, blue
        chroma *= 0.97


def _oklch_to_srgb(lightness: float, chroma: float, hue: float) -> Rgb:
    """Björn Ottosson's OKLab, inverse matrices of 2021-01-25."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3  # noqa: E741
    m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
        _gamma(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
        _gamma(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s),
    )


def _gamma(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def hex_code(rgb: Rgb) -> str:
    """`#rrggbb`, for CSS."""
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in rgb)
