"""The page: gathers what the template shows and writes it in one move."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hbt_ray.evaluate.report import heat
from hbt_ray.evaluate.report.curve import Curve
from hbt_ray.evaluate.report.facts import TaskFacts, facts
from hbt_ray.evaluate.report.names import language_name
from hbt_ray.evaluate.report.prose import achievement, losses
from hbt_ray.evaluate.report.training import training
from hbt_ray.evaluate.table import RANK_DISTANCE, Baseline, Cell, Column, Comparison, compare
from hbt_ray.evaluate.verdict import MONOLINGUAL, MULTILINGUAL, Verdict


@dataclass(frozen=True)
class LanguageTable:
    """Each question language in the pool of all languages; without a pool, in its own language."""

    setting: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    """Language → one tuple of cells a column, one cell a system."""
    longest: float
    """The greatest rank distance, the full length of a bar."""


@dataclass(frozen=True)
class Section:
    """What the page says about one task."""

    comparison: Comparison
    lead: str
    losses: str
    maps: heat.HeatMaps | None
    by_language: LanguageTable | None
    facts: TaskFacts


def write_report(
    path: str | Path,
    *,
    title: str,
    verdicts: Sequence[Verdict],
    baseline: Baseline = None,
    curve: Sequence[Mapping[str, Any]] = (),
    dev: Sequence[Mapping[str, Any]] = (),
    best: int | None = None,
    steps: int | None = None,
    policy: str = "",
    config_yaml: str = "",
    notes: Sequence[str] = (),
) -> Path:
    """Write one HTML file that needs nothing else.

    Args:
        baseline: what differences are taken to; one verdict, or one for each task.
        curve: training metrics, one row a step (`step`, `loss`, `kind`, `language`, `learning_rate`,
            `pairs_per_second`, `stall_seconds`, any of them missing); of two rows of a step the last counts.
        dev: measures of checkpoints on the dev store, one row a checkpoint (`step`, `AP`, `mono_AP`, `cross_AP`,
            `pool_loss`, any of them missing).
        best: the step of the best checkpoint.
        steps: after how many the judged encoder is; by default all of `curve`.
        policy: how batches were made, as the plan names it: `hybrid(0.5)`, `mono`, `cross`, `mixed`.
        notes: paragraphs of plain text for the section on method.

    Raises:
        TaskError: no verdict, or a baseline on a task that no verdict has. A file that exists stays as it was.
    """
    comparisons = compare(verdicts, baseline)
    record = Curve.read(curve)
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            sections=[_section(each, steps or record.num_steps, policy, len(comparisons) > 1) for each in comparisons],
            training=training(record, policy, dev, best),
            config_yaml=config_yaml.strip(),
            notes=notes,
            css={  # fixed rules of our own, no input in them
                "light": Markup(heat.level_css(dark=False)),
                "dark": Markup(heat.level_css(dark=True)),
                "ramp": Markup(heat.ramp_css(dark=False)),
                "ramp_dark": Markup(heat.ramp_css(dark=True)),
            },
        )
    )
    return _write(Path(path), html)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hbt_ray.evaluate.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["language_name"] = language_name
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """A model's name may break after `/`, `-` and `_`."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", name))


def _section(comparison: Comparison, num_steps: int, policy: str, name_task: bool) -> Section:
    return Section(
        comparison=comparison,
        lead=achievement(comparison, num_steps, policy, name_task),
        losses=losses(comparison),
        maps=heat.heat_maps(comparison),
        by_language=_by_language(comparison),
        facts=facts(comparison),
    )


def _by_language(comparison: Comparison) -> LanguageTable | None:
    tags = list(dict.fromkeys(tag for system in comparison.systems for tag in system.verdict.languages))
    pooled = any(system.verdict.pool for system in comparison.systems)
    setting = MULTILINGUAL if pooled else MONOLINGUAL
    columns = tuple(column for column in comparison.columns if column.setting == setting)
    if not columns:
        return None
    rows = []
    for tag in tags:
        of = {
            s.label: s.verdict.pool.get(tag, {}) if pooled else s.verdict.pairs.get(tag, {}).get(tag, {})
            for s in comparison.systems
        }
        rows.append((tag, tuple(tuple(comparison.row(column, of)) for column in columns)))
    distances = [
        cell.value or 0.0
        for _, groups in rows
        for column, cells in zip(columns, groups, strict=True)
        for cell in cells
        if column.measure == RANK_DISTANCE
    ]
    return LanguageTable(setting, columns, tuple(rows), max([*distances, 1.0]))


def _write(path: Path, html: str) -> Path:
    """Whole or not at all: a reader never sees half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(html)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return path
