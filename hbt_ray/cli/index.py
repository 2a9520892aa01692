"""`hbt index build` and `hbt search`: documents → a saved index, and questions → documents of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import (
    IndexArgument,
    JsonOption,
    LanguagesOption,
    ModelArgument,
    Overrides,
    encoder_of,
    find_run,
    language_tags,
)
from hbt_ray.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from hbt_ray.console import Screen
    from hbt_ray.retrieval.encoder import EncoderConfig
    from hbt_ray.retrieval.search.faiss_index import IndexConfig
    from hbt_ray.retrieval.search.saved_index import FoundDocument, SavedIndex

_SHOWN_CHARACTERS = 400


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
    from hbt_ray.cli.settings import IndexSettings
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model
    from hbt_ray.retrieval.search.saved_index import read_documents
    from hbt_ray.retrieval.tasks import Task, open_task

    screen = Screen(as_json)
    settings = IndexSettings.load(overrides=overrides or ())
    tags = language_tags(languages)
    if bool(task) == bool(documents):
        raise ConfigError("give either --task KIND=PLACE or --documents FILE", code="NO_DOCUMENTS")
    if documents:
        table = read_documents(documents, tags)
    elif isinstance(opened := open_task(task, tags), Task):
        table = opened.documents
    else:
        raise ConfigError(f"--task {task}: a bitext has no documents to index", code="NO_DOCUMENTS")
    run = find_run(model)
    encoder = encoder_of(run, model, settings.encoder)
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
        # An absolute path, so that a search from another working directory finds the encoder.
        anywhere = encoder.model_copy(update={"model": str(local.absolute()) if local else encoder.model})
        with screen.progress("indexing", len(documents)) as advance:
            saved = save_index(
                folder, documents, encoded.passages, anywhere, encoded.fingerprint, config, usable_cpus(), advance
            )
    counts = ", ".join(f"{language} {count:,}" for language, count in saved.manifest.languages.items())
    screen.log(f"{folder}: {counts}")
    return saved


def search(
    index: IndexArgument,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Questions.")],
    k: Annotated[int, typer.Option(min=1, max=100_000, help="Documents per question.")] = 5,
    languages: LanguagesOption = "",
    model: Annotated[str, typer.Option(help="Where the encoder is now. Default: where the index was built.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Search a saved index by hand."""
    from rich.table import Table

    from hbt_ray.console import Screen
    from hbt_ray.retrieval.search.saved_index import SavedIndex

    screen = Screen(as_json)
    answers = search_index(SavedIndex.load(Path(index)), text, k, language_tags(languages), model)
    for question, documents in zip(text, answers, strict=True):
        table = Table("score", "document", "language", "text", title=question, box=None, title_justify="left")
        for answer in documents:
            table.add_row(f"{answer.score:.3f}", answer.doc_id, answer.language, answer.text[:_SHOWN_CHARACTERS])
        screen.table(table)
    screen.result(
        {
            "answers": {
                question: [answer._asdict() for answer in documents]
                for question, documents in zip(text, answers, strict=True)
            }
        }
    )


def search_index(
    index: SavedIndex, questions: Sequence[str], k: int, languages: Sequence[str], model: str = ""
) -> list[list[FoundDocument]]:
    """The first k documents for each question, computed in this process.

    Args:
        model: new location of the encoder, if it was moved after the index was built.
    """
    import numpy as np
    import pyarrow as pa

    from hbt_ray.host import usable_cpus
    from hbt_ray.model.loading import quiet_transformers
    from hbt_ray.retrieval.encoder import EncoderActor, local_model_folder

    # One process on this machine: a search by hand starts no cluster.
    config = index.manifest.encoder.model_copy(
        update={"gpu": False, "workers": 1} | ({"model": model} if model else {})
    )
    local_model_folder(config.model)
    with quiet_transformers():
        encoder = EncoderActor(config)
    encoded = encoder(pa.table({"number": range(len(questions)), "side": [0] * len(questions), "text": questions}))
    fingerprint = encoded["fingerprint"][0].as_py()
    return index.search(np.stack(encoded["vector"].to_numpy()), fingerprint, k, languages, usable_cpus())
