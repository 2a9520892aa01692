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

from hbt_ray.evaluate.evidence import Evidence
from hbt_ray.evaluate.report import heat, paper
from hbt_ray.evaluate.report.curve import Curve
from hbt_ray.evaluate.report.differences import ALPHA, RESAMPLES, Differences, chance, differences
from hbt_ray.evaluate.report.facts import TaskFacts, facts
from hbt_ray.evaluate.report.failures import FailureList, failure_lists
from hbt_ray.evaluate.report.kinship import Kinship, kinship
from hbt_ray.evaluate.report.languages import LanguageTable, by_language
from hbt_ray.evaluate.report.names import language_name
from hbt_ray.evaluate.report.preference import Preferences, preferences
from hbt_ray.evaluate.report.prose import achievement, losses
from hbt_ray.evaluate.report.training import training
from hbt_ray.evaluate.table import Baseline, Comparison, compare
from hbt_ray.evaluate.verdict import Verdict


@dataclass(frozen=True)
class Section:
    """What the page says about one task."""

    comparison: Comparison
    lead: str
    losses: str
    maps: heat.HeatMaps | None
    differences: Differences | None
    by_language: LanguageTable | None
    kinship: Kinship | None
    preferences: Preferences | None
    failures: list[FailureList]
    facts: TaskFacts


def write_report(
    path: str | Path,
    *,
    title: str,
    verdicts: Sequence[Verdict],
    baseline: Baseline = None,
    evidence: Sequence[Evidence] = (),
    curve: Sequence[Mapping[str, Any]] = (),
    dev: Sequence[Mapping[str, Any]] = (),
    best: int | None = None,
    steps: int | None = None,
    policy: str = "",
    config_yaml: str = "",
    notes: Sequence[str] = (),
    markdown: Path | None = None,
    latex: Path | None = None,
) -> Path:
    """Write one HTML file that needs nothing else.

    Args:
        baseline: what differences are taken to; one verdict, or one for each task.
        evidence: what lies beside these verdicts and baselines, for tests of significance and failures to read.
        curve: training metrics, one row a step (`step`, `loss`, `kind`, `language`, `learning_rate`,
            `pairs_per_second`, `stall_seconds`, any of them missing); of two rows of a step the last counts.
        dev: measures of checkpoints on the dev store, one row a checkpoint (`step`, `AP`, `mono_AP`, `cross_AP`,
            `pool_loss`, any of them missing).
        best: the step of the best checkpoint.
        steps: after how many the judged encoder is; by default all of `curve`.
        policy: how batches were made, as the plan names it: `hybrid(0.5)`, `mono`, `cross`, `mixed`.
        notes: paragraphs of plain text for the section on method.
        markdown, latex: files that get the headline as tables for papers.

    Raises:
        TaskError: no verdict, or a baseline on a task that no verdict has. A file that exists stays as it was.
    """
    comparisons = compare(verdicts, baseline)
    record = Curve.read(curve)
    num_steps, several = steps or record.num_steps, len(comparisons) > 1
    sections = [_section(each, evidence, num_steps, policy, several) for each in comparisons]
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            sections=sections,
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
    headlines = [(section.comparison, section.differences) for section in sections]
    for file, write in ((markdown, paper.markdown), (latex, paper.latex)):
        if file:
            _write(file, write(headlines))
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
    environment.filters["chance"] = chance
    environment.globals |= {"ALPHA": ALPHA, "RESAMPLES": RESAMPLES}
    return environment


def _breakable(name: str) -> Markup:
    """A model's name may break after `/`, `-` and `_`."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", name))


def _section(
    comparison: Comparison, evidence: Sequence[Evidence], num_steps: int, policy: str, name_task: bool
) -> Section:
    return Section(
        comparison=comparison,
        lead=achievement(comparison, num_steps, policy, name_task),
        losses=losses(comparison),
        maps=heat.heat_maps(comparison),
        differences=differences(comparison, evidence),
        by_language=by_language(comparison),
        kinship=kinship(comparison),
        preferences=preferences(comparison),
        failures=failure_lists(comparison, evidence),
        facts=facts(comparison),
    )


def _write(path: Path, text: str) -> Path:
    """Whole or not at all: a reader never sees half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return path
