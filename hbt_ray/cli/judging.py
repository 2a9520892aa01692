"""Commands that judge encoders and compare what was found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.app import app
from hbt_ray.cli.options import (
    AsJson,
    BatchSize,
    EncodingGpu,
    EncodingWorkers,
    MaxLength,
    ModelName,
    PassagePrompt,
    QuestionPrompt,
    encoder_of,
    language_tags,
    listed,
)
from hbt_ray.errors import ConfigError

if TYPE_CHECKING:
    from hbt_ray.console import Screen
    from hbt_ray.retrieval.result import EvaluationResult
    from hbt_ray.retrieval.tasks import BitextTask, Task
    from hbt_ray.run_dir import RunDir


@app.command()
def posthoc(
    model: ModelName,
    store: Annotated[str, typer.Option(help="A store with texts to learn from: a folder or a URI.")],
    method: Annotated[str, typer.Option(help="centering, lir or shift.")],
    alpha: Annotated[float | None, typer.Option(help="Of shift: the share of the offset that is taken. [1]")] = None,
    source: Annotated[str | None, typer.Option(help="Of shift: the language that others are moved to. [en]")] = None,
    directions: Annotated[int | None, typer.Option(help="Of lir: how many are removed. [1]")] = None,
    documents_only: Annotated[
        bool, typer.Option("--documents-only", help="Of centering and lir: leave questions where they are.")
    ] = False,
    texts: Annotated[int | None, typer.Option(help="To learn from, of each language and side. [1000]")] = None,
    languages: Annotated[str, typer.Option(help="Learn these alone, such as en,de,ar; default: all.")] = "",
    datasets: Annotated[str, typer.Option(help="Learn from these data sets of the store alone; default: all.")] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Default: posthoc/METHOD[-documents].safetensors in the model's folder."),
    ] = None,
    question_prompt: QuestionPrompt = None,
    passage_prompt: PassagePrompt = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 64,
    workers: EncodingWorkers = 1,
    gpu: EncodingGpu = False,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16: that of `evaluate`, as vectors differ.")] = "fp32",
    name: Annotated[str, typer.Option(help="As for evaluate: what to call a hub model.")] = "",
    storage: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Fit a fix that takes the language out of a model's vectors, without training; `evaluate --posthoc` uses it."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model
    from hbt_ray.retrieval.transforms import make_method
    from hbt_ray.retrieval.transforms.transform import check_transform_path
    from hbt_ray.workflow.judging import find_run, fit_transform, fix_file

    screen = Screen(as_json)
    settings = make_method(
        method,
        alpha=alpha,
        source=source,
        directions=directions,
        documents_only=documents_only or None,
        texts=texts,
        languages=language_tags(languages) or None,
        datasets=listed(datasets) or None,
    )
    opened = Store(store)
    run = find_run(model, name, storage)
    path = check_transform_path(out or fix_file(run, model, method + "-documents" * documents_only))
    encoder = encoder_of(
        str(run.model) if run.config.exists() else model,
        question_prompt=question_prompt,
        passage_prompt=passage_prompt,
        max_length=max_length,
        batch_size=batch_size,
        workers=workers,
        gpu=gpu,
        precision=precision,
    )
    fetch_model(encoder.model)
    with session():
        fix = fit_transform(opened, encoder, settings, path, run.vectors, screen)
    screen.say(f"`hbt evaluate {model} --posthoc {out or fix.name}` judges the model with it")
    screen.result(
        {"posthoc": path, "method": settings.model_dump(mode="json"), "encoder": fix.encoder, "texts": fix.texts}
    )


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a Hugging Face name, or bm25.")],
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
    languages: Annotated[str, typer.Option(help="Keep only these, such as en,de,ar.")] = "",
    untrained: Annotated[bool, typer.Option("--untrained", help="Judge the base encoder of a run as well.")] = False,
    question_prompt: QuestionPrompt = None,
    passage_prompt: PassagePrompt = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 64,
    workers: EncodingWorkers = 1,
    gpu: EncodingGpu = False,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or fp16, for the model; the table shows what it costs.")
    ] = "fp32",
    posthoc: Annotated[
        str, typer.Option(metavar="NAME", help="A fix by `hbt posthoc`, such as centering, or its file.")
    ] = "",
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="How the corpus is searched, such as memory_gib=8; repeatable."),
    ] = None,
    trec_depth: Annotated[
        int, typer.Option(min=0, help="Also write a TREC run of the pool, so many passages a question.")
    ] = 0,
    name: Annotated[
        str, typer.Option(help="What to call a model that is no run; its results go to STORAGE/NAME.")
    ] = "",
    storage: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Judge an encoder or BM25: monolingual, cross-lingual, and in one pool of all languages."""
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model
    from hbt_ray.retrieval.search.sharded_index import SearchConfig
    from hbt_ray.retrieval.transforms import Transform
    from hbt_ray.workflow.judging import BM25, as_saved, evaluate_bm25, evaluate_tasks, find_run, fix_file, named_run

    screen = Screen(as_json)
    tasks = _tasks(task or (), suite, language_tags(languages))
    if model == BM25:
        if posthoc or untrained or precision != "fp32":
            raise ConfigError("bm25 has neither vectors nor weights; leave out --posthoc, --untrained and --precision")
        run = named_run(storage, name or BM25)
        _tell(screen, run, [], evaluate_bm25(run, tasks, screen, trec_depth))
        return
    run = find_run(model, name, storage)
    is_run = run.config.exists()
    settings = encoder_of(
        str(run.model) if is_run else model,
        question_prompt=question_prompt,
        passage_prompt=passage_prompt,
        max_length=max_length,
        batch_size=batch_size,
        workers=workers,
        gpu=gpu,
        precision=precision,
    )
    if untrained and not is_run:
        raise ConfigError(f"--untrained: {model} is no run, so there is no base encoder to compare with")
    fix = Transform.load(fix_file(run, model, posthoc)) if posthoc else None
    how = SearchConfig.make({}, "--search", search or ())
    fetch_model(settings.model)
    with session():
        base = settings.model_copy(update={"model": str(run.base)})
        judge = partial(evaluate_tasks, run, tasks=tasks, screen=screen, search=how, trec_depth=trec_depth)
        baseline = judge(base, of_base=True) if untrained else []
        results = judge(settings, fix=fix)
    _tell(screen, run, baseline, results, as_saved(run, results))


def _tasks(specs: Sequence[str], suite: Path | None, languages: Sequence[str]) -> list[Task | BitextTask]:
    from hbt_ray.retrieval.tasks import Suite, distinct, open_task

    if not specs and suite is None:
        raise ConfigError("there is nothing to judge on; give --task KIND=PLACE or --suite SUITE.yaml")
    of_suite = Suite.load(suite).within(languages).open() if suite else []
    return distinct([*(open_task(spec, languages) for spec in specs), *of_suite])


def _tell(
    screen: Screen,
    run: RunDir,
    baseline: Sequence[EvaluationResult],
    results: Sequence[EvaluationResult],
    shown: Sequence[EvaluationResult] = (),
) -> None:
    """What was found. Where there is no baseline, the table has what is `shown` in its place."""
    from hbt_ray.retrieval.compare import headline_table

    screen.table(headline_table(results, baseline or shown or None))
    screen.say(f"results are in {run.root / 'results'}; `hbt report {run.root}` makes a page of them")
    screen.result({"results": [result.model_dump() for result in [*baseline, *results]]})


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of judged runs.")],
    out: Annotated[Path | None, typer.Option(help="Default: report.html in the first run.")] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Show runs that differ by their seeds alone as one, with intervals.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write the headline here, as Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Also write the headline here, for LaTeX with booktabs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare judged runs on one self-contained HTML page."""
    from hbt_ray.console import Screen
    from hbt_ray.report.runs import judged, make_report
    from hbt_ray.retrieval.compare import headline_table
    from hbt_ray.run_dir import RunDir

    screen = Screen(as_json)
    folders = [RunDir(path.absolute()) for path in runs]
    page = make_report(folders, out or folders[0].report, seeds=seeds, markdown=markdown, latex=latex)
    results, baselines = ([each.result for each in of] for of in judged(folders, seeds=seeds))
    screen.table(headline_table(results, baselines))
    tables = [path for path in (markdown, latex) if path]
    screen.say(f"open {page}")
    for path in tables:
        screen.say(f"the headline is also in {path}")
    screen.result({"report": page, "tables": tables})
