"""The page of evaluations: a section of tables, maps and text for each task, and one on the training of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hbt_ray.report.evaluation_tables import (
    by_language,
    evaluation_cost,
    family_transfer,
    headline,
    language_bias,
    task_size,
)
from hbt_ray.report.evaluation_text import achievement, regressions
from hbt_ray.report.failures import failure_lists
from hbt_ray.report.headline import latex_tables, markdown_tables
from hbt_ray.report.heat_map import language_heat_maps
from hbt_ray.report.page import write_page
from hbt_ray.report.significance import ALPHA, RESAMPLES, compare_with_reference
from hbt_ray.report.training import TrainingRecord, training_section
from hbt_ray.retrieval.compare import Baseline, compare
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.storage import AnyPath, write_text

_OTHER_DATA = (
    "There are results on other queries, documents or judgements of a task with this name, so they are not compared."
)


def write_evaluation_page(
    path: AnyPath,
    *,
    title: str,
    results: Sequence[EvaluationResult],
    baseline: Baseline = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    dev: Sequence[Mapping[str, Any]] = (),
    best_step: int | None = None,
    num_steps: int | None = None,
    policy: str = "",
    config_yaml: str = "",
    markdown: Path | None = None,
    latex: Path | None = None,
) -> AnyPath:
    """Write one HTML file that loads no other file.

    Args:
        baseline: results to which differences are taken, one for each task. Default: show no differences.
        metrics: training metrics, one row per step (`step`, `loss`, `kind`, `pairs_per_second`, `stall_seconds`, any of
            which may be missing); the last of several rows of a step counts.
        dev: measures of checkpoints on the dev set, one row per checkpoint (`step`, `AP`, `mono_AP`, `cross_AP`,
            `pool_loss`; measures may be missing).
        best_step: step of the best checkpoint.
        num_steps: number of training steps of the evaluated encoder. Default: those of `metrics`.
        policy: the plan's name of the mixture of batches: `hybrid(0.5)`, `mono`, `cross`, `mixed`.
        markdown, latex: files to write the headline to, as tables for papers.

    Raises:
        TaskError: no result, or a baseline on a task that no result has. An existing file is not changed.
    """
    comparisons = compare(results, baseline)
    record = TrainingRecord.read(metrics)
    sections, headlines = [], []
    for comparison in comparisons:
        differences = compare_with_reference(comparison)
        section = {
            "comparison": comparison,
            "lead": achievement(comparison, num_steps or record.num_steps, policy, len(comparisons) > 1),
            "regressions": regressions(comparison),
            "headline": headline(comparison, differences),
            # `compare` changes the name if another task of the page has the same name and other data.
            "warning": _OTHER_DATA if comparison.task != comparison.systems[0].result.task else "",
            "maps": language_heat_maps(comparison),
            "differences": differences,
            "by_language": by_language(comparison, differences),
            "families": family_transfer(comparison),
            "bias": language_bias(comparison),
            "failures": failure_lists(comparison),
            "size": task_size(comparison),
            "cost": evaluation_cost(comparison),
        }
        sections.append(section)
        headlines.append((comparison, differences))
    for file, render in ((markdown, markdown_tables), (latex, latex_tables)):
        if file:
            write_text(file, render(headlines))
    return write_page(
        path,
        "evaluation.html.j2",
        title=title,
        sections=sections,
        training=training_section(record, policy, dev, best_step),
        config_yaml=config_yaml.strip(),
        alpha=ALPHA,
        resamples=RESAMPLES,
    )
