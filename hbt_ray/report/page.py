"""The page: gathers what the template shows and writes it in one move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.report import heat_map as heat
from hbt_ray.report import paper
from hbt_ray.report.by_language import LanguageTable, by_language
from hbt_ray.report.curve import Curve
from hbt_ray.report.differences import ALPHA, RESAMPLES, Differences, chance, differences
from hbt_ray.report.failures import FailureList, failure_lists
from hbt_ray.report.html import page_environment
from hbt_ray.report.labels import language_name
from hbt_ray.report.language_families import FamilyTable, family_table
from hbt_ray.report.preference import Preferences, preferences
from hbt_ray.report.task_facts import DatasetStatistics, facts
from hbt_ray.report.text import achievement, losses
from hbt_ray.report.training import training
from hbt_ray.retrieval.compare import SEEDS_NOTE, Baseline, Comparison, compare
from hbt_ray.retrieval.result import Artifacts, EvaluationResult
from hbt_ray.storage import write_text


@dataclass(frozen=True)
class Section:
    """What the page says about one task."""

    comparison: Comparison
    lead: str
    losses: str
    maps: heat.HeatMaps | None
    differences: Differences | None
    by_language: LanguageTable | None
    families: FamilyTable | None
    preferences: Preferences | None
    failures: list[FailureList]
    facts: DatasetStatistics


def write_report(
    path: str | Path,
    *,
    title: str,
    results: Sequence[EvaluationResult],
    baseline: Baseline = None,
    evidence: Sequence[Artifacts] = (),
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
        baseline: what differences are taken to; one result, or one for each task.
        evidence: what lies beside these results and baselines, for tests of significance and failures to read.
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
        TaskError: no result, or a baseline on a task that no result has. A file that exists stays as it was.
    """
    comparisons = compare(results, baseline)
    record = Curve.read(curve)
    num_steps, several = steps or record.num_steps, len(comparisons) > 1
    sections = [_section(each, evidence, num_steps, policy, several) for each in comparisons]
    environment = page_environment("hbt_ray.report")
    environment.filters |= {"language_name": language_name, "chance": chance}
    environment.globals |= {"ALPHA": ALPHA, "RESAMPLES": RESAMPLES, "SEEDS_NOTE": SEEDS_NOTE}
    html = environment.get_template("page.html.j2").render(
        title=title,
        sections=sections,
        training=training(record, policy, dev, best),
        config_yaml=config_yaml.strip(),
        notes=notes,
    )
    headlines = [(section.comparison, section.differences) for section in sections]
    for file, write in ((markdown, paper.markdown), (latex, paper.latex)):
        if file:
            write_text(file, write(headlines))
    return write_text(Path(path), html)


def _section(
    comparison: Comparison, evidence: Sequence[Artifacts], num_steps: int, policy: str, name_task: bool
) -> Section:
    return Section(
        comparison=comparison,
        lead=achievement(comparison, num_steps, policy, name_task),
        losses=losses(comparison),
        maps=heat.heat_maps(comparison),
        differences=differences(comparison, evidence),
        by_language=by_language(comparison),
        families=family_table(comparison),
        preferences=preferences(comparison),
        failures=failure_lists(comparison, evidence),
        facts=facts(comparison),
    )
