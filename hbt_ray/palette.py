"""Colours of figures: one scale from low to high, for light and for dark screens.

The scale is even in OKLCH lightness (equal steps look equal) and turned round for dark screens, so that high values
stand out from the page in both. It covers a third of the lightness, so that one colour of text, black or white, has a
contrast above 5 in every cell (WCAG AA asks for 4.5).
"""

from __future__ import annotations

import math

Triple = tuple[float, float, float]


def level_colour(share: float, dark: bool) -> Triple:
    """sRGB in 0…1: from paper to blue, or from night to green."""
    if dark:
        lightness, hue, chroma = 0.25 + 0.27 * share, 280 - 120 * share, 0.035 + 0.09 * share
    else:
        lightness, hue, chroma = 0.97 - 0.32 * share, 100 + 140 * share, 0.02 + 0.11 * share
    while True:  # less chroma until the colour exists on a screen
        rgb = _oklch_to_srgb(lightness, chroma, math.radians(hue))
        if all(-1e-4 <= channel <= 1.0001 for channel in rgb):
            red, green, blue = (min(max(channel, 0.0), 1.0) for channel in rgb)
            return red, green, blue
        chroma *= 0.97


def _oklch_to_srgb(lightness: float, chroma: float, hue: float) -> Triple:
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


def hex_code(rgb: Triple) -> str:
    """`#rrggbb`, for CSS."""
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in rgb)
