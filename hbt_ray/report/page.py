"""Pages: templates, the style sheet and the script that all pages share. A page is one file that loads nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hbt_ray.languages.tags import english_name
from hbt_ray.report.colours import css_rules
from hbt_ray.storage import write_text


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template into a file; a file that exists is replaced at once."""
    return write_text(path, _environment().get_template(template).render(values))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hbt_ray.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "language_name": english_name}
    # Rules from constants of this package, without any input.
    environment.globals |= {"light_css": Markup(css_rules(dark=False)), "dark_css": Markup(css_rules(dark=True))}
    return environment


def _breakable(name: str) -> Markup:
    """Let the name of a model break after `/`, `-` and `_`."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", name))
