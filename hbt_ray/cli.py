"""The command line: each command reads a configuration, calls one function, and says where the result lies.

Heavy imports happen inside the commands, so that `hbt --help` answers at once. Exit codes: 0 done, 2 the input is
wrong, 1 anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hbt_ray.errors import ConfigError, HbtError

if TYPE_CHECKING:
    from hbt_ray.evaluate.encoder import EncoderConfig
    from hbt_ray.evaluate.rescore import RescorerConfig

app = typer.Typer(
    name="hbt",
    help="Train multilingual search models with hybrid batches, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

store_app = typer.Typer(no_args_is_help=True, help="Look into a store.")
app.add_typer(store_app, name="store")

StorePath = Annotated[str, typer.Argument(metavar="STORE", help="A folder, or a URI such as s3://bucket/store.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder or a Hugging Face name.")]
QuestionPrompt = Annotated[
    str | None, typer.Option(help="Before every question, such as 'query: '; default: the model's own.")
]
PassagePrompt = Annotated[str | None, typer.Option(help="Before every passage, such as 'passage: '.")]
MaxLength = Annotated[int | None, typer.Option(min=3, help="Tokens of the longest text.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts of one forward pass.")]
EncodingWorkers = Annotated[int, typer.Option(min=1, help="Encoding processes.")]
EncodingGpu = Annotated[bool, typer.Option("--gpu", help="One GPU for each encoding process.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as plan.alpha=0.3")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
]


@app.command()
def prepare(
    config: Annotated[Path, typer.Argument(metavar="STORE.yaml")], overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Make a store of training items from sources."""
    from hbt_ray.console import Screen
    from hbt_ray.data.prepare import StoreConfig
    from hbt_ray.workflow import make_store

    screen = Screen(as_json)
    settings = StoreConfig.load(config, overrides or ())
    prepared = make_store(settings, screen)
    datasets = {info.name: info.items_by_language for info in prepared.manifest.datasets}
    screen.result(
        {
            "store": settings.path,
            "num_items": prepared.manifest.num_items,
            "num_read": prepared.num_read,
            "num_kept": prepared.num_kept,
            "rejected": prepared.rejected,
            "overlapping": prepared.overlapping,
            "duplicates": prepared.duplicates,
            "was_there": prepared.was_there,
            "datasets": datasets,
        }
    )


@app.command()
def mine(
    store: StorePath,
    model: ModelName,
    out: Annotated[Path | None, typer.Option(help="Default: STORE.negatives/MODEL, beside the store.")] = None,
    language: Annotated[
        str | None, typer.Option(help="To compare texts in; default: for each data set the one that most items have.")
    ] = None,
    ranks: Annotated[str, typer.Option(help="First and last rank of a negative among all other passages.")] = "1:100",
    max_share: Annotated[float, typer.Option(help="It scores below this share of the positive's score.")] = 0.95,
    margin: Annotated[float, typer.Option(help="It scores below the positive's score less this.")] = 0.0,
    keep: Annotated[int, typer.Option(help="Negatives of an item at most.")] = 10,
    rescore: Annotated[
        str | None,
        typer.Option(metavar="CROSSENCODER", help="Whose scores are kept, for distillation; default: MODEL's."),
    ] = None,
    question_prompt: QuestionPrompt = None,
    passage_prompt: PassagePrompt = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 64,
    workers: EncodingWorkers = 1,
    gpu: EncodingGpu = False,
    as_json: AsJson = False,
) -> None:
    """Find hard negatives: passages that a model takes for answers to questions of other items."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store.location import is_uri
    from hbt_ray.data.store.store import Store
    from hbt_ray.evaluate.candidates import MineConfig
    from hbt_ray.evaluate.mining import free_folder, languages_to_mine
    from hbt_ray.session import session
    from hbt_ray.workflow import find_run, mine_store

    screen = Screen(as_json)
    values = {"language": language, "ranks": ranks, "max_share": max_share, "margin": margin, "keep": keep}
    settings = MineConfig.make(values, "the command line")
    opened = Store(store)
    run = find_run(model, "", Path())
    encoder = _encoder(
        str(run.model) if run.config.exists() else model,
        question_prompt=question_prompt,
        passage_prompt=passage_prompt,
        max_length=max_length,
        batch_size=batch_size,
        workers=workers,
        gpu=gpu,
    )
    rescorer = _rescorer(rescore, batch_size=batch_size, workers=workers, gpu=gpu) if rescore else None
    beside = Path(Path(store).name) if is_uri(store) else Path(store)
    folder = free_folder(out or beside.with_name(f"{beside.name}.negatives") / run.name)
    languages_to_mine(opened.manifest, settings.language)  # What is wrong shows before a cluster starts.
    with session():
        made = mine_store(opened, encoder, settings, folder, name=run.name, rescorer=rescorer, screen=screen)
    examples = [example._asdict() for example in made.examples]
    screen.result({"negatives": folder, **made.manifest.model_dump(mode="json"), "examples": examples})


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml")],
    overrides: Overrides = None,
    until: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many steps; the same command without it goes on.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an encoder on a store; the same run name continues where it stopped."""
    from hbt_ray.console import Screen
    from hbt_ray.session import session
    from hbt_ray.train.settings import TrainConfig
    from hbt_ray.train.trainer import open_run
    from hbt_ray.workflow import train_run

    screen = Screen(as_json)
    settings = TrainConfig.load(config, overrides or ())
    open_run(settings)  # What is wrong shows before a cluster starts.
    with session():
        end = train_run(settings, screen, until)
    run = settings.run
    screen.result(
        {
            "run": run.root,
            "steps": end.done,
            "complete": end.complete,
            "stopped_early": end.reason or None,
            "best_step": end.best,
            "best_dev": end.value,
            "model": run.model if end.complete else None,
        }
    )


@app.command()
def posthoc(
    model: ModelName,
    store: Annotated[str, typer.Option(help="A store with texts to learn from: a folder or a URI.")],
    method: Annotated[str, typer.Option(help="centering, lir or shift.")],
    alpha: Annotated[float | None, typer.Option(help="Of shift: the share of the offset that is taken. [1]")] = None,
    source: Annotated[str | None, typer.Option(help="Of shift: the language that others are moved to. [en]")] = None,
    directions: Annotated[int | None, typer.Option(help="Of lir: how many are removed. [1]")] = None,
    texts: Annotated[int | None, typer.Option(help="To learn from, of each language and side. [1000]")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: posthoc/METHOD.safetensors in the model's folder.")] = None,
    question_prompt: QuestionPrompt = None,
    passage_prompt: PassagePrompt = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 64,
    workers: EncodingWorkers = 1,
    gpu: EncodingGpu = False,
    name: Annotated[str, typer.Option(help="As for evaluate: what to call a hub model.")] = "",
    storage: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Fit a fix that takes the language out of a model's vectors, without training; `evaluate --posthoc` uses it."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import Store
    from hbt_ray.posthoc import make_method
    from hbt_ray.posthoc.fix import checked_path
    from hbt_ray.session import session
    from hbt_ray.workflow import find_run, fit_fix, fix_file

    screen = Screen(as_json)
    settings = make_method(method, alpha=alpha, source=source, directions=directions, texts=texts)
    opened = Store(store)
    run = find_run(model, name, storage)
    path = checked_path(out or fix_file(run, model, method))
    encoder = _encoder(
        str(run.model) if run.config.exists() else model,
        question_prompt=question_prompt,
        passage_prompt=passage_prompt,
        max_length=max_length,
        batch_size=batch_size,
        workers=workers,
        gpu=gpu,
    )
    with session():
        fix = fit_fix(opened, encoder, settings, path, screen)
    screen.say(f"`hbt evaluate {model} --posthoc {out or fix.name}` judges the model with it")
    screen.result(
        {"posthoc": path, "method": settings.model_dump(mode="json"), "encoder": fix.encoder, "texts": fix.texts}
    )


@app.command()
def evaluate(
    model: ModelName,
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
    trec_depth: Annotated[
        int, typer.Option(min=0, help="Also write a TREC run of the pool, so many passages a question.")
    ] = 0,
    name: Annotated[
        str, typer.Option(help="What to call a model that is no run; its results go to STORAGE/NAME.")
    ] = "",
    storage: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Judge an encoder: monolingual, cross-lingual, and in one pool of all languages."""
    from hbt_ray.console import Screen
    from hbt_ray.evaluate.table import headline_table
    from hbt_ray.evaluate.tasks import Suite, distinct, open_task
    from hbt_ray.posthoc import Fix
    from hbt_ray.session import session
    from hbt_ray.workflow import as_saved, find_run, fix_file, judge

    screen = Screen(as_json)
    chosen = [language for language in languages.split(",") if language]
    if not task and suite is None:
        raise ConfigError("there is nothing to judge on; give --task KIND=PLACE or --suite SUITE.yaml")
    listed = Suite.load(suite).within(chosen).open() if suite else []
    tasks = distinct([*(open_task(spec, chosen) for spec in task or ()), *listed])
    run = find_run(model, name, storage)
    is_run = run.config.exists()
    settings = _encoder(
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
    fix = Fix.load(fix_file(run, model, posthoc)) if posthoc else None
    with session():
        base = settings.model_copy(update={"model": str(run.base)})
        baseline = judge(run, base, tasks, screen, of_base=True, trec_depth=trec_depth) if untrained else []
        verdicts = judge(run, settings, tasks, screen, fix=fix, trec_depth=trec_depth)
    screen.table(headline_table(verdicts, baseline or as_saved(run, verdicts) or None))
    screen.say(f"results are in {run.root / 'verdicts'}; `hbt report {run.root}` makes a page of them")
    screen.result({"verdicts": [verdict.model_dump() for verdict in [*baseline, *verdicts]]})


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of judged runs.")],
    out: Annotated[Path | None, typer.Option(help="Default: report.html in the first run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare judged runs on one self-contained HTML page."""
    from hbt_ray.console import Screen
    from hbt_ray.evaluate.table import headline_table
    from hbt_ray.run import Run
    from hbt_ray.workflow import judged, make_report

    screen = Screen(as_json)
    folders = [Run(path.absolute()) for path in runs]
    page = make_report(folders, out or folders[0].report)
    screen.table(headline_table(*judged(folders)))
    screen.say(f"open {page}")
    screen.result({"report": page})


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where store, run and report go.")] = Path("demo"),
    policy: Annotated[str, typer.Option(help="hybrid, mono, cross or mixed.")] = "hybrid",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The whole way on embedded data: prepare, train on two workers, judge, report; some minutes on two cores."""
    from hbt_ray.console import Screen
    from hbt_ray.demo import run_demo
    from hbt_ray.evaluate.table import headline_table

    screen = Screen(as_json)
    made = run_demo(folder.absolute(), policy, screen, tuple(overrides or ()))
    screen.table(headline_table([made.trained], made.untrained))
    screen.say(made.sentence)
    screen.say(f"Report: {made.report}    encoder: {made.config.run.model}")
    screen.result({"verdicts": [made.untrained.model_dump(), made.trained.model_dump()], "report": made.report})


@store_app.command("inspect")
def inspect_store(
    store: StorePath,
    sample: Annotated[int, typer.Option(min=0, metavar="N", help="Print so many whole items to read.")] = 0,
    figure: Annotated[Path | None, typer.Option(help="Draw languages × datasets here, such as coverage.svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a store holds: datasets, languages, sizes, licences."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store import census
    from hbt_ray.data.store.picture import write_picture
    from hbt_ray.data.store.store import Store, read_manifest

    screen = Screen(as_json)
    manifest = read_manifest(store)
    datasets = census.census(manifest, store)
    screen.table(census.dataset_table(datasets))
    screen.text()
    screen.table(census.language_table(datasets))
    items = census.sample(Store(store), sample) if sample else []
    for item in items:
        screen.text(census.item_text(item))
    if figure:
        write_picture(manifest, figure)
        screen.say(f"the figure is in {figure}")
    screen.result({"store": store, "datasets": census.plain(datasets), "sample": census.plain(items), "figure": figure})


@store_app.command("verify")
def verify_store(store: StorePath, as_json: AsJson = False) -> None:
    """Compare every shard with the manifest: checksums, rows, columns, languages; exit code 2 if anything differs."""
    from hbt_ray.console import Screen
    from hbt_ray.data.store.store import read_manifest
    from hbt_ray.data.store.verify import require, verify

    screen = Screen(as_json)
    num_shards = sum(len(info.shards) for info in read_manifest(store).datasets)
    with screen.counting("shards", num_shards) as advance:
        verified = verify(store, advance)
    for problem in verified.problems:
        screen.say(str(problem))
    screen.result({"store": store, **verified._asdict(), "problems": [one._asdict() for one in verified.problems]})
    require(store, verified)
    shards = f"{verified.num_shards:,} shard{'s' * (verified.num_shards != 1)}"
    screen.say(f"{shards}, {verified.num_items:,} items, {verified.num_bytes:,} bytes: all as the manifest says")


def _encoder(model: str, **options: Any) -> EncoderConfig:
    """How a command runs a model, from the options above."""
    from hbt_ray.evaluate.encoder import EncoderConfig

    return EncoderConfig.make({"model": model, **options}, "the command line")


def _rescorer(model: str, **options: Any) -> RescorerConfig:
    from hbt_ray.evaluate.encoder import model_folder
    from hbt_ray.evaluate.rescore import RescorerConfig

    model_folder(model)  # What is no model shows before a cluster starts.
    return RescorerConfig.make({"model": model, **options}, "the command line")


def main() -> None:
    """Run a command; errors that are ours end in one line, not in a traceback."""
    try:
        app(standalone_mode=True)
    except HbtError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
