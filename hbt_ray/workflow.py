"""The workflow: the stages as the commands and the demo run them, each with what it tells a person on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np
import pyarrow as pa
from rich.table import Table

from hbt_ray.card import write_card
from hbt_ray.console import Screen, TrainingProgress
from hbt_ray.data.prepare import REJECTED, REMOVED, Prepared, StoreConfig, on_ray, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ModelError, TaskError
from hbt_ray.evaluate.approximate import IndexConfig
from hbt_ray.evaluate.candidates import REASONS, MineConfig
from hbt_ray.evaluate.encode import Encoded, encode
from hbt_ray.evaluate.encoder import Encoder, EncoderConfig, model_folder
from hbt_ray.evaluate.evaluation import evaluate, variant_of
from hbt_ray.evaluate.evidence import Evidence
from hbt_ray.evaluate.mining import Mining, mine
from hbt_ray.evaluate.report import write_report
from hbt_ray.evaluate.rescore import RescorerConfig
from hbt_ray.evaluate.saved import Answer, SavedIndex, save_index
from hbt_ray.evaluate.search import SearchConfig
from hbt_ray.evaluate.tasks import Bitext, Task
from hbt_ray.evaluate.verdict import Verdict
from hbt_ray.posthoc import Fix, Method, fit_to_store
from hbt_ray.posthoc.fix import SUFFIX
from hbt_ray.run import Run
from hbt_ray.session import session
from hbt_ray.train.export import Exported, export
from hbt_ray.train.model.loading import quiet
from hbt_ray.train.settings import TrainConfig
from hbt_ray.train.trainer import fit
from hbt_ray.train.validation.ending import Ending, best_step, ending
from hbt_ray.train.validation.measure import AP, CROSS_AP, MONO_AP, POOL_LOSS
from hbt_ray.train.validation.record import Record

UNTRAINED = "untrained"
DEV_COLUMNS = (MONO_AP, CROSS_AP, AP, POOL_LOSS)
_WORTH_A_CLUSTER = 32 << 20
"""Bytes of sources: reading fewer takes less time than starting Ray does."""


def make_store(config: StoreConfig, screen: Screen) -> Prepared:
    """Sources → store, on the cluster where that is worth its start."""
    screen.say(f"preparing {config.path}")
    if config.num_source_bytes() >= _WORTH_A_CLUSTER or os.environ.get("RAY_ADDRESS"):
        with session(spare_cpus=False):
            prepared = prepare(config, on_ray, screen)
    else:
        prepared = prepare(config, screen=screen)
    if prepared.was_there:
        screen.say(f"{config.path} was there already and is up to date")
        return prepared
    screen.table(_store_table(prepared))
    for reason, count in prepared.rejected.most_common():
        screen.say(f"rejected: {reason}: {count:,} (see {config.path}/{REJECTED})")
    if prepared.overlapping or prepared.duplicates:
        screen.say(f"what was removed, with the texts that showed it: {config.path}/{REMOVED}")
    screen.say(
        f"{prepared.num_read:,} rows read = {prepared.num_kept:,} kept + {prepared.rejected.total():,} rejected + "
        f"{prepared.overlapping.total():,} of items that overlap with evaluation data + "
        f"{prepared.duplicates.total():,} duplicates"
    )
    return prepared


def _store_table(prepared: Prepared) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("data set", "items", "rows", "overlapping", "duplicates", "languages"):
        table.add_column(column, justify="left" if column in ("data set", "languages") else "right")
    for info in prepared.manifest.datasets:
        by_size = sorted(info.items_by_language.items(), key=lambda pair: -pair[1])
        languages = ", ".join(f"{language} {count:,}" for language, count in by_size[:6])
        counts = (info.num_items, sum(info.items_by_language.values()))
        gone = (prepared.overlapping[info.name], prepared.duplicates[info.name])
        more = f", and {len(by_size) - 6} more" if len(by_size) > 6 else ""
        table.add_row(info.name, *(f"{count:,}" for count in (*counts, *gone)), languages + more)
    return table


def mine_store(
    store: Store,
    encoder: EncoderConfig,
    config: MineConfig,
    folder: Path,
    *,
    name: str,
    rescorer: RescorerConfig | None = None,
    screen: Screen,
) -> Mining:
    """Store → mined negatives. Needs a Ray session."""
    screen.say(f"mining {store.manifest.num_items:,} items with {name}")
    made = mine(store, encoder, config, folder, name=name, rescorer=rescorer, screen=screen)
    table = Table(box=None, pad_edge=False)
    for column in ("data set", "language", "items", "with negatives", "mean", *REASONS):
        table.add_column(column, justify="left" if column in ("data set", "language") else "right")
    for mined in made.manifest.datasets:
        counts = [f"{mined.num_items:,}", f"{mined.num_served:,}", f"{mined.num_negatives / mined.num_items:.1f}"]
        table.add_row(mined.name, mined.language, *counts, *(f"{mined.dropped[reason]:,}" for reason in REASONS))
    screen.table(table)
    screen.say(
        f"the last {len(REASONS)} columns count passages of ranks {config.ranks[0]} to {config.ranks[1]} left out"
    )
    for example in made.examples:
        screen.say(f"{example.dataset}: {_shortened(example.question)}")
        screen.say(f"    positive {example.positive_score:.3f}  {_shortened(example.positive)}")
        screen.say(f"    negative {example.negative_score:.3f}  {_shortened(example.negative)}")
    screen.say(f"negatives are in {folder}; train with negatives={folder} plan.negatives=1")
    return made


def _shortened(text: str, width: int = 120) -> str:
    return shorten(text, width, placeholder=" …")


def train_run(config: TrainConfig, screen: Screen, until: int | None = None) -> Ending:
    """Store → run with an exported encoder. Needs a Ray session."""
    steps = config.optimiser.steps
    screen.say(
        f"training {config.run.root}: {config.plan}, {steps:,} steps of {config.plan.batch_size} on {config.workers}"
    )
    with TrainingProgress(screen, steps, (row["kind"] for row in config.run.curve()), _dev_news(config)) as progress:
        done = fit(config, progress.watch, until)
    end = ending(config, done)
    if end.best is not None:
        screen.table(_dev_table(config, end))
    if not end.complete:
        screen.say(f"stopped after step {done:,} of {steps:,}; the same command continues")
        return end
    exported = export(config.run)
    write_card(config.run)
    if end.reason:
        screen.say(f"stopped early at step {done:,} of {steps:,}: {end.reason}; a larger validation.patience continues")
    which = "" if exported == done else f" of step {exported:,}"
    screen.say(f"{done:,} steps are done; the encoder{which} is in {config.run.model}")
    return end


def _dev_news(config: TrainConfig) -> Callable[[], str]:
    """What the newest validation found, read again only when the record has grown: progress asks at every step."""
    record, measure, news = Record(config.run.validation), config.validation.measure, ""

    def tell() -> str:
        nonlocal news
        for step, row in record.fresh().items():
            news = f"dev {measure} {row[measure]:.3f} at step {step:,}"
        return news

    return tell


def _dev_table(config: TrainConfig, end: Ending, most: int = 12) -> Table:
    """The newest validations, and the best."""
    rows = list(Record(config.run.validation).results().values())
    table = Table(box=None, pad_edge=False)
    for name in ("dev: step", *DEV_COLUMNS, "seconds", ""):
        table.add_column(name, justify="right")
    for row in [row for row in rows[:-most] if row["step"] == end.best] + rows[-most:]:
        values = (f"{row[name]:.3f}" if name in row else "–" for name in DEV_COLUMNS)
        table.add_row(f"{row['step']:,}", *values, f"{row['seconds']:.1f}", "best" * (row["step"] == end.best))
    return table


def find_run(model: str, name: str, storage: Path) -> Run:
    """The run that `model` is, or the folder where the verdicts on any other model go.

    Raises:
        ModelError: a folder that is no model, or a run whose training has not ended.
    """
    run = Run(Path(model).absolute())
    if run.config.exists():
        if not run.model.exists():
            raise ModelError(f"run {model} has no exported encoder yet; let `hbt train` finish, or judge {run.base}")
        return run
    model_folder(model)
    return Run((storage / (name or model.strip("/").replace("/", "--").lstrip("."))).absolute())


def fix_file(run: Run, model: str, name: str) -> Path:
    """Where a fix of the model's vectors lies: in its folder, or beside the verdicts on it where it is a hub name.

    Args:
        name: of the fix, or a file, which is itself.
    """
    if name.endswith(SUFFIX):
        return Path(name)
    folder = run.model if run.config.exists() else model_folder(model) or run.root
    return folder / "posthoc" / f"{name}{SUFFIX}"


def fit_fix(store: Store, encoder: EncoderConfig, method: Method, path: Path, screen: Screen) -> Fix:
    """Store → a fix of the encoder's vectors, in the file `path`. Needs a Ray session."""

    def encoded(questions: Sequence[str], passages: Sequence[str]) -> Encoded:
        screen.say(f"{method.kind}: encoding {len(questions):,} questions and {len(passages):,} passages")
        with screen.counting(f"{method.kind}: encoding", len(questions) + len(passages)) as advance:
            return encode(encoder, questions, passages, advance)

    fix = fit_to_store(store, method, encoded, name=path.stem)
    fix.save(path)
    for side in method.sides:
        counts = ", ".join(f"{language} {count:,}" for language, count in fix.texts[side].items())
        screen.say(f"{side}s that it was learned from: {counts}")
        known = {*fix.texts[side], method.anchor}
        if left := [language for language in store.manifest.languages if language not in known]:
            screen.say(f"{side}s in {', '.join(left)} are too few to learn from, so they will stay where they are")
    screen.say(f"the fix is in {path}")
    return fix


def judge(
    run: Run,
    encoder: EncoderConfig,
    tasks: Sequence[Task | Bitext],
    screen: Screen,
    *,
    of_base: bool = False,
    fix: Fix | None = None,
    search: SearchConfig | None = None,
    trec_depth: int = 0,
) -> list[Verdict]:
    """Verdicts on `encoder.model`, kept with the run. Needs a Ray session."""
    name = UNTRAINED if of_base else run.name
    variant = variant_of(encoder, fix)
    folders = [run.verdict(task.name, of_base=of_base, variant=variant) for task in tasks]
    verdicts = [
        evaluate(
            encoder,
            task,
            folder,
            name=name,
            search=search,
            fix=fix,
            trec_depth=trec_depth,
            cache=run.vectors,
            screen=screen,
        )
        for task, folder in zip(tasks, folders, strict=True)
    ]
    write_card(run)
    return verdicts


def build_index(
    encoder: EncoderConfig, documents: pa.Table, folder: Path, index: IndexConfig, screen: Screen
) -> SavedIndex:
    """Documents (doc_id, language, text) → a saved index. Needs a Ray session."""
    screen.say(f"encoding {len(documents):,} documents")
    with screen.counting("encoding", len(documents)) as advance:
        encoded = encode(encoder, [], documents["text"], advance)
    screen.say(f"indexing ({index.factory})")
    here = model_folder(encoder.model)
    there = encoder.model_copy(update={"model": str(here.absolute()) if here else encoder.model})
    with screen.counting("indexing", len(documents)) as advance:
        made = save_index(
            folder, documents, encoded.passages, there, encoded.fingerprint, index, os.cpu_count() or 1, advance
        )
    counts = ", ".join(f"{language} {count:,}" for language, count in made.about.languages.items())
    screen.say(f"{folder}: {counts}")
    return made


def ask_index(
    index: SavedIndex, questions: Sequence[str], k: int, languages: Sequence[str], model: str = ""
) -> list[list[Answer]]:
    """The first k documents for each question, in this process.

    Args:
        model: where the encoder is now, if it moved.
    """
    config = index.about.encoder.model_copy(update={"gpu": False, "workers": 1} | ({"model": model} if model else {}))
    model_folder(config.model)
    with quiet():
        encoder = Encoder(config)
    asked = encoder(pa.table({"number": range(len(questions)), "side": [0] * len(questions), "text": questions}))
    fingerprint = asked["fingerprint"][0].as_py()
    return index.search(np.stack(asked["vector"].to_numpy()), fingerprint, k, languages, os.cpu_count() or 1)


def as_saved(run: Run, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """For verdicts on a variant of a model, those on the model as it is saved, where they are there."""
    paths = [run.verdict(verdict.task) / "verdict.json" for verdict in verdicts if verdict.variant]
    return [Verdict.load(path) for path in paths if path.exists()]


def make_report(runs: Sequence[Run], path: Path, *, markdown: Path | None = None, latex: Path | None = None) -> Path:
    """One page on all verdicts of some runs; with the training curve where it is one run. See `write_report`."""
    own, baselines = judged(runs)
    single = runs[0] if len(runs) == 1 else None
    config = TrainConfig.load(single.config) if single and single.config.exists() else None
    made = Exported.of(single) if single else None
    return write_report(
        path,
        title=", ".join(run.name for run in runs),
        verdicts=[each.verdict for each in own],
        baseline=[each.verdict for each in baselines],
        evidence=[*own, *baselines],
        curve=single.curve() if single else (),
        dev=list(Record(single.validation).results().values()) if single else (),
        best=best_step(config) if config else None,
        steps=made.steps if made else None,
        policy=str(config.plan) if config else "",
        config_yaml=config.to_yaml() if config else "",
        markdown=markdown,
        latex=latex,
    )


def judged(runs: Sequence[Run]) -> tuple[list[Evidence], list[Evidence]]:
    """All verdicts on the runs' encoders, and for each of their tasks the first on an untrained one, with evidence.

    Raises:
        TaskError: a folder is no run, or nothing was judged yet.
    """
    for run in runs:
        if not run.root.is_dir():
            raise TaskError(f"{run.root}: no such run")
    own = [Evidence.load(path) for run in runs for path in run.verdicts()]
    if not own:
        names = ", ".join(str(run.root) for run in runs)
        raise TaskError(f"nothing was judged yet in {names}; run `hbt evaluate RUN --task …` first")
    baselines: dict[str, Evidence] = {}
    for each in (Evidence.load(path) for run in runs for path in run.verdicts(of_base=True)):
        baselines.setdefault(each.verdict.task, each)
    tasks = {each.verdict.task for each in own}
    return own, [each for task, each in baselines.items() if task in tasks]
