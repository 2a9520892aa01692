"""`hbt index build`: documents → a saved index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.model_argument import encoder_path, find_run
from hbt_ray.cli.options import (
    IndexArgument,
    JsonOption,
    LanguagesOption,
    ModelArgument,
    Overrides,
    language_tags,
)
from hbt_ray.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from hbt_ray.console import Screen
    from hbt_ray.retrieval.encoder import EncoderConfig
    from hbt_ray.retrieval.search.faiss_index import IndexConfig
    from hbt_ray.retrieval.search.saved_index import SavedIndex


def build(
    model: ModelArgument,
    index: IndexArgument,
    overrides: Overrides = None,
    task: Annotated[
        str, typer.Option(metavar="KIND=PLACE", help="Index the documents of a task, such as beir=FOLDER.")
    ] = "",
    documents: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Index JSONL or Parquet rows of doc_id, language and text.")
    ] = None,
    languages: LanguagesOption = "",
    as_json: JsonOption = False,
) -> None:
    """Encode documents and save them with an index."""
    from hbt_ray.cli.settings import IndexSettings, encoder_config
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model
    from hbt_ray.retrieval.search.saved_index import read_documents

    screen = Screen(as_json)
    settings = IndexSettings.load(overrides=overrides or ())
    tags = language_tags(languages)
    if bool(task) == bool(documents):
        raise ConfigError("give either --task KIND=PLACE or --documents FILE")
    table = read_documents(documents, tags) if documents else _task_documents(task, tags)
    run = find_run(model)
    encoder = encoder_config(settings.encoder, encoder_path(run, model))
    fetch_model(encoder.model)
    with session():
        saved = build_index(encoder, table, Path(index), settings.index, screen)
    screen.log(f'`hbt search {index} "a question"` searches it')
    screen.result({"index": index, **saved.manifest.model_dump(mode="json")})


def build_index(
    encoder: EncoderConfig, documents: pa.Table, folder: Path, config: IndexConfig, screen: Screen
) -> SavedIndex:
    """Encode documents (doc_id, language, text) and save them with an index. Needs a Ray session.

    Raises:
        LockedError: another command builds the index.
        TaskError: the folder holds something else.
    """
    from hbt_ray.host import usable_cpus
    from hbt_ray.retrieval.encoder import encode, local_model_folder
    from hbt_ray.retrieval.search.saved_index import check_index_folder, save_index
    from hbt_ray.storage import exclusive_lock

    folder = check_index_folder(folder)  # Report errors before anything is encoded.
    with exclusive_lock(folder, "indexing"):
        screen.log(f"encoding {len(documents):,} documents")
        with screen.progress("encoding", len(documents)) as advance:
            encoded = encode(encoder, [], documents["text"], advance)
        screen.log(f"indexing ({config.factory})")
        local = local_model_folder(encoder.model)
        anywhere = encoder.model_copy(update={"model": str(local.absolute()) if local else encoder.model})
        with screen.progress("indexing", len(documents)) as advance:
            saved = save_index(
                folder, documents, encoded.passages, anywhere, encoded.fingerprint, config, usable_cpus(), advance
            )
    counts = ", ".join(f"{language} {count:,}" for language, count in saved.manifest.languages.items())
    screen.log(f"{folder}: {counts}")
    return saved


def _task_documents(spec: str, languages: list[str]) -> pa.Table:
    from hbt_ray.retrieval.tasks import Task, open_task

    task = open_task(spec, languages)
    if not isinstance(task, Task):
        raise ConfigError(f"--task {spec}: a bitext has sentences and no documents to index")
    return task.documents
