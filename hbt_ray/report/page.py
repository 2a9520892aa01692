"""Pages: the colours and templates that all pages share. A page is one file that loads nothing else."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hbt_ray.languages.tags import english_name
from hbt_ray.storage import write_text
from hbt_ray.storage.atomic import P

LIGHT = {
    "paper": "#fcfbf8", "ink": "#17191d", "muted": "#5b6069", "line": "#dcd8ce", "soft": "#f2efe8",
    "mono": "#0b6a82", "cross": "#bf5200", "mixed": "#7a4fa3", "plain": "#3d434c",
    "good": "#0a6b54", "bad": "#a8321a", "bar": "#b9c3cc",
}  # fmt: skip
"""Colours of light pages and of standalone SVG; each is a CSS variable, such as `--ink`."""
DARK = {
    "paper": "#121417", "ink": "#eceae4", "muted": "#a3a8b0", "line": "#33383f", "soft": "#1b1e23",
    "mono": "#57c1d6", "cross": "#f2995a", "mixed": "#bd9be0", "plain": "#c3c8cf",
    "good": "#5fcaa8", "bad": "#f28b73", "bar": "#4a5561",
}  # fmt: skip


def write_page(path: P, template: str, **values: Any) -> P:
    """Render a template into a file, which replaces an existing one atomically."""
    environment = Environment(
        loader=PackageLoader("hbt_ray.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,  # A misspelt name in a template is an error, not an empty text.
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "language_name": english_name}
    environment.globals |= {"light_css": _css_variables(LIGHT), "dark_css": _css_variables(DARK)}
    return write_text(path, environment.get_template(template).render(values))


def _css_variables(colours: dict[str, str]) -> Markup:
    return Markup("".join(f"--{name}:{value};" for name, value in colours.items()))  # safe: constants, no input


def _breakable(name: str) -> Markup:
    """Let the name of a model break after `/`, `-` and `_`."""
    # `join` of Markup escapes the parts.
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", name))
