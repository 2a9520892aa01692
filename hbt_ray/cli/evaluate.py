"""`hbt evaluate`: a model, BM25, or a model with transformed vectors → results, kept with the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hbt_ray.cli.arguments import (
    JsonOption,
    LanguagesOption,
    Overrides,
    encoder_of,
    find_run,
    language_tags,
    results_folder,
    transform_file,
)
from hbt_ray.cli.train import write_locked_card
from hbt_ray.errors import ConfigError, TaskError
from hbt_ray.storage import AnyPath, exclusive_lock, folder_file

if TYPE_CHECKING:
    from hbt_ray.console import Screen
    from hbt_ray.retrieval.encoder import EncoderConfig
    from hbt_ray.retrieval.result import EvaluationResult
    from hbt_ray.retrieval.search.sharded_index import SearchConfig
    from hbt_ray.retrieval.tasks import BitextTask, Task
    from hbt_ray.retrieval.transforms import Transform
    from hbt_ray.run_dir import RunDir

logger = logging.getLogger(__name__)

UNTRAINED = "untrained"
BM25 = "bm25"
"""The MODEL that means BM25."""


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a Hugging Face name, or bm25.")],
    overrides: Overrides = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[=PLACE][,OPTION=VALUE…]",
            help="xquad-r, mlqa-r, lareqa, beir, miracl, mewsli-x, tatoeba, flores or worldfacts, such as "
            "beir=scifact,split=dev,language=en; repeatable.",
        ),
    ] = None,
    suite: Annotated[
        Path | None, typer.Option(metavar="SUITE.yaml", help="A list of tasks with their options.")
    ] = None,
    languages: LanguagesOption = "",
    untrained: Annotated[bool, typer.Option("--untrained", help="Also evaluate the base encoder of a run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate an encoder or BM25: monolingual, cross-lingual, and in one pool of all languages."""
    from hbt_ray.cli.settings import EvaluateSettings
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import EncodingConfig, fetch_model
    from hbt_ray.retrieval.transforms import Transform

    screen = Screen(as_json)
    settings = EvaluateSettings.load(overrides=overrides or ())
    tasks = _open_tasks(task or (), suite, language_tags(languages))
    if model == BM25:
        if settings.posthoc or untrained or settings.encoder != EncodingConfig():
            raise ConfigError(
                "bm25 has neither vectors nor weights; leave out posthoc, encoder settings and --untrained",
                code="BM25_OPTIONS",
            )
        run = results_folder(settings.storage_path, settings.name or BM25)
        _print_results(screen, run, [], evaluate_bm25(run, tasks, screen, settings.trec_depth))
        return
    run = find_run(model, settings.name, settings.storage_path)
    if untrained and not run.config.exists():
        raise ConfigError(f"--untrained: {model} is not a run, so it has no base encoder", code="NO_BASE")
    encoder = encoder_of(run, model, settings.encoder)
    transform = Transform.load(transform_file(run, model, settings.posthoc)) if settings.posthoc else None
    fetch_model(encoder.model)  # Once, before the workers load it; errors come before a cluster starts.
    with session():
        evaluate_encoder = partial(
            evaluate_tasks, run, tasks=tasks, screen=screen, search=settings.search, trec_depth=settings.trec_depth
        )
        base = encoder.model_copy(update={"model": str(run.base)})
        baseline = evaluate_encoder(base, of_base=True) if untrained else []
        results = evaluate_encoder(encoder, transform=transform)
    _print_results(screen, run, baseline, results, results_as_saved(run, results))


def evaluate_tasks(
    run: RunDir,
    encoder: EncoderConfig,
    tasks: Sequence[Task | BitextTask],
    screen: Screen,
    *,
    of_base: bool = False,
    transform: Transform | None = None,
    search: SearchConfig | None = None,
    trec_depth: int = 0,
) -> list[EvaluationResult]:
    """Evaluate `encoder` on each task and keep the results in the run's folder. Needs a Ray session.

    Raises:
        LockedError: another command evaluates one of the tasks. All are locked before the first begins.
        DamagedFile: the run's base encoder was changed.
    """
    from hbt_ray.model.build import verify_base
    from hbt_ray.retrieval.evaluate import evaluate_task, variant_of

    if encoder.model == str(run.base):
        verify_base(run.base)
    name = UNTRAINED if of_base else run.name
    variant = variant_of(encoder, transform)
    folders = [run.result(task.name, of_base=of_base, variant=variant) for task in tasks]
    options: dict[str, Any] = {"search": search, "transform": transform, "trec_depth": trec_depth}
    with _lock_results(folders):
        results = [
            evaluate_task(encoder, task, folder, name=name, cache=run.vectors, screen=screen, **options)
            for task, folder in zip(tasks, folders, strict=True)
        ]
    write_locked_card(run)
    return results


def evaluate_bm25(
    run: RunDir, tasks: Sequence[Task | BitextTask], screen: Screen, trec_depth: int = 0
) -> list[EvaluationResult]:
    """Evaluate BM25. Bitexts are left out: a sentence and its translation share few words.

    Raises:
        TaskError: all tasks are bitexts.
    """
    from hbt_ray.retrieval.evaluate import evaluate_task_bm25
    from hbt_ray.retrieval.tasks import Task

    retrieval_tasks = [task for task in tasks if isinstance(task, Task)]
    for task in tasks:
        if not isinstance(task, Task):
            screen.log(f"{task.name}: left out, because BM25 matches words and not translations")
    if not retrieval_tasks:
        raise TaskError(
            "bm25 cannot be evaluated on bitexts alone; name a task with queries and documents", code="BM25_BITEXTS"
        )
    folders = [run.result(task.name) for task in retrieval_tasks]
    with _lock_results(folders):
        return [
            evaluate_task_bm25(task, folder, name=run.name, trec_depth=trec_depth, screen=screen)
            for task, folder in zip(retrieval_tasks, folders, strict=True)
        ]


def results_as_saved(run: RunDir, results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Results of the saved model that results of its variant are compared with, if there are any on equal data."""
    from hbt_ray.retrieval.result import EvaluationResult

    saved = []
    for result in results:
        folder = run.result(result.task)
        path = folder / "result.json"
        if not result.variant or not folder_file(folder, path.name).exists():
            continue
        plain = EvaluationResult.load(path)
        if plain.data == result.data:
            saved.append(plain)
        else:
            logger.warning(
                "%s: made with other queries, documents or judgements, so it is not compared; evaluate the model "
                "without posthoc and encoder settings again",
                path,
            )
    return saved


def _open_tasks(specs: Sequence[str], suite: Path | None, languages: Sequence[str]) -> list[Task | BitextTask]:
    from hbt_ray.retrieval.tasks import Suite, distinct, open_task

    if not specs and suite is None:
        raise ConfigError("no task to evaluate on; give --task KIND=PLACE or --suite SUITE.yaml", code="NO_TASK")
    from_suite = Suite.load(suite).with_languages(languages).open() if suite else []
    return distinct([*(open_task(spec, languages) for spec in specs), *from_suite])


@contextmanager
def _lock_results(folders: Sequence[AnyPath]) -> Iterator[None]:
    """Lock the results of all tasks before the first begins. Other tasks may be evaluated meanwhile."""
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(exclusive_lock(folder, "evaluating"))
        yield


def _print_results(
    screen: Screen,
    run: RunDir,
    baseline: Sequence[EvaluationResult],
    results: Sequence[EvaluationResult],
    saved: Sequence[EvaluationResult] = (),
) -> None:
    """Print the results beside the baseline, or beside those of the saved model if there is no baseline."""
    from hbt_ray.report.headline import headline_table

    screen.table(headline_table(results, baseline or saved or None))
    screen.log(f"results are in {run.root / 'results'}; `hbt report {run.root}` makes a page of them")
    screen.result({"results": [result.model_dump() for result in [*baseline, *results]]})
