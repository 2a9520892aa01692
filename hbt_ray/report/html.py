"""The frame: what every page of the library has in common, for templates of any room; and how a page is written."""

from __future__ import annotations

import re

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hbt_ray.report import heat_map as heat

_HERE = "hbt_ray.report"


def page_environment(*packages: str) -> Environment:
    """Of the templates of these packages, which may extend `frame.html.j2` and import `figure` of `figure.html.j2`.

    The frame asks for `title`, and for the blocks `kicker`, `lead` and `main`; `style` may add rules.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in dict.fromkeys((*packages, _HERE))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    environment.globals["css"] = {  # fixed rules of our own, no input in them
        "light": Markup(heat.level_css(dark=False)),
        "dark": Markup(heat.level_css(dark=True)),
        "ramp": Markup(heat.ramp_css(dark=False)),
        "ramp_dark": Markup(heat.ramp_css(dark=True)),
    }
    return environment


def breakable(name: str) -> Markup:
    """A model's name may break after `/`, `-` and `_`."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", name))
