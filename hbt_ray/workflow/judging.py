"""Judging: a model, BM25 or a model with a fix → results, kept with the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hbt_ray.console import Screen
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ModelError, TaskError
from hbt_ray.model.base_model import verify_base
from hbt_ray.report.model_card import write_card
from hbt_ray.retrieval.encoder import EncodedTexts, EncoderConfig, encode, model_folder
from hbt_ray.retrieval.evaluate import evaluate_task, evaluate_task_bm25, variant_of
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.search.sharded_index import SearchConfig
from hbt_ray.retrieval.tasks import BitextTask, Task
from hbt_ray.retrieval.transforms import Method, Transform, fit_to_store
from hbt_ray.retrieval.transforms.transform import SUFFIX
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import exclusive_lock, valid_name
from hbt_ray.workflow.training import writing_card

logger = logging.getLogger(__name__)

UNTRAINED = "untrained"
BM25 = "bm25"
"""In the place of a model: words that are counted, `evaluate_bm25`."""


def find_run(model: str, name: str, storage: Path) -> RunDir:
    """The run that `model` is, or the folder where the results on any other model go.

    Raises:
        ModelError: a folder that is no model, or a run whose training has not ended.
    """
    run = RunDir(Path(model).absolute())
    if run.config.exists():
        if not run.model.exists():
            raise ModelError(f"run {model} has no exported encoder yet; let `hbt train` finish, or judge {run.base}")
        return run
    model_folder(model)
    return named_run(storage, name or model.strip("/").replace("/", "--").lstrip("."))


def named_run(storage: Path, name: str) -> RunDir:
    """The folder of results below `storage` on what is no run of its own.

    Raises:
        InputError: the name cannot be that of a folder.
    """
    return RunDir((storage / valid_name(name, "--name")).absolute())


def fix_file(run: RunDir, model: str, name: str) -> Path:
    """Where a fix of the model's vectors lies: in its folder, or beside the results on it where it is a hub name.

    Args:
        name: of the fix, or a file, which is itself.
    """
    if name.endswith(SUFFIX):
        return Path(name)
    file = f"{valid_name(name, '--posthoc')}{SUFFIX}"
    folder = run.model if run.config.exists() else model_folder(model) or run.root
    return folder / "posthoc" / file


def fit_transform(
    store: Store, encoder: EncoderConfig, method: Method, path: Path, cache: Path, screen: Screen
) -> Transform:
    """Store → a fix of the encoder's vectors, in the file `path`; needs a Ray session.

    Args:
        cache: a folder where vectors are kept: methods that learn from the same texts share them.
    """

    def encoded(questions: Sequence[str], passages: Sequence[str]) -> EncodedTexts:
        screen.say(f"{method.kind}: encoding {len(questions):,} questions and {len(passages):,} passages")
        with screen.counting(f"{method.kind}: encoding", len(questions) + len(passages)) as advance:
            return encode(encoder, questions, passages, advance, cache=cache)

    with exclusive_lock(path, "fitting"):
        fix = fit_to_store(store, method, encoded, name=path.stem)
        fix.save(path)
    for side in method.sides:
        counts = ", ".join(f"{language} {count:,}" for language, count in fix.texts[side].items())
        screen.say(f"{side}s that it was learned from: {counts}")
        known = {*fix.texts[side], method.anchor}
        if left := [language for language in method.languages or store.manifest.languages if language not in known]:
            screen.say(f"{side}s in {', '.join(left)} are too few to learn from, so they will stay where they are")
    screen.say(f"the fix is in {path}")
    return fix


def evaluate_tasks(
    run: RunDir,
    encoder: EncoderConfig,
    tasks: Sequence[Task | BitextTask],
    screen: Screen,
    *,
    of_base: bool = False,
    fix: Transform | None = None,
    search: SearchConfig | None = None,
    trec_depth: int = 0,
) -> list[EvaluationResult]:
    """Results on `encoder.model`, kept with the run. Needs a Ray session.

    Raises:
        LockedError: another command judges one of the tasks.
        DamagedFile: the run's base encoder was changed.
    """
    if encoder.model == str(run.base):
        verify_base(run.base)
    name = UNTRAINED if of_base else run.name
    variant = variant_of(encoder, fix)
    folders = [run.result(task.name, of_base=of_base, variant=variant) for task in tasks]
    with _exclusive_results(folders):
        results = [
            evaluate_task(
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
    with writing_card(run):
        write_card(run)
    return results


@contextmanager
def _exclusive_results(folders: Sequence[Path]) -> Iterator[None]:
    """Lock the results of all tasks before the first begins. Other tasks of the same model may be judged meanwhile.

    Raises:
        LockedError: another command judges one of the tasks.
    """
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(exclusive_lock(folder, "evaluating"))
        yield


def evaluate_bm25(
    run: RunDir, tasks: Sequence[Task | BitextTask], screen: Screen, trec_depth: int = 0
) -> list[EvaluationResult]:
    """Results on BM25, which leave bitexts out: translations share few words.

    Raises:
        TaskError: there is nothing but bitexts.
    """
    searched = [task for task in tasks if isinstance(task, Task)]
    for task in tasks:
        if isinstance(task, BitextTask):
            screen.say(f"{task.name}: left out, as BM25 finds words and not translations")
    if not searched:
        raise TaskError("bm25 cannot be judged on bitexts alone; name a task with queries and documents")
    folders = [run.result(task.name) for task in searched]
    with _exclusive_results(folders):
        return [
            evaluate_task_bm25(task, folder, name=run.name, trec_depth=trec_depth, screen=screen)
            for task, folder in zip(searched, folders, strict=True)
        ]


def as_saved(run: RunDir, results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """For results on a variant of a model, those on the model as it is saved, where there are any on the same data."""
    saved = []
    for result in results:
        path = run.result(result.task) / "result.json"
        if not result.variant or not path.exists():
            continue
        plain = EvaluationResult.load(path)
        if plain.data == result.data:
            saved.append(plain)
        else:
            logger.warning(
                "%s: judged on other queries, documents or judgements than now, so it is not compared; evaluate the "
                "model without options again",
                path,
            )
    return saved
