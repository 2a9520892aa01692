"""Commands for people who want to ask a model by hand: index documents, search them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hbt_ray.cli.app import app, index_app
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
)
from hbt_ray.errors import ConfigError

IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="The folder of the index.")]


@index_app.command("build")
def build(
    model: ModelName,
    index: IndexFolder,
    task: Annotated[
        str, typer.Option(metavar="KIND=PLACE", help="The documents of a task, as for evaluate, such as beir=FOLDER.")
    ] = "",
    documents: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSONL or Parquet with doc_id, language and text.")
    ] = None,
    languages: Annotated[str, typer.Option(help="Keep only these, such as en,de,ar.")] = "",
    factory: Annotated[
        str, typer.Option(help="Flat is exact; or IVF1024,Flat, HNSW32, IVF1024,PQ48: FAISS's strings.")
    ] = "Flat",
    parameters: Annotated[str, typer.Option(help="Of the search, such as nprobe=16 or efSearch=128.")] = "",
    question_prompt: QuestionPrompt = None,
    passage_prompt: PassagePrompt = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 64,
    workers: EncodingWorkers = 1,
    gpu: EncodingGpu = False,
    as_json: AsJson = False,
) -> None:
    """Encode documents and save them with an index."""
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.retrieval.encoder import fetch_model
    from hbt_ray.retrieval.search.faiss_index import IndexConfig
    from hbt_ray.retrieval.search.saved_index import read_documents
    from hbt_ray.retrieval.tasks import Task, open_task
    from hbt_ray.workflow.indexing import build_index
    from hbt_ray.workflow.judging import find_run

    screen = Screen(as_json)
    chosen = language_tags(languages)
    if bool(task) == bool(documents):
        raise ConfigError("which documents? Give either --task KIND=PLACE or --documents FILE")
    if documents:
        table = read_documents(documents, chosen)
    else:
        opened = open_task(task, chosen)
        if not isinstance(opened, Task):
            raise ConfigError(f"--task {task}: has sentences and no documents to index")
        table = opened.documents
    run = find_run(model, "", Path())
    encoder = encoder_of(
        str(run.model) if run.config.exists() else model,
        question_prompt=question_prompt,
        passage_prompt=passage_prompt,
        max_length=max_length,
        batch_size=batch_size,
        workers=workers,
        gpu=gpu,
    )
    settings = IndexConfig.make({"factory": factory, "parameters": parameters}, "the command line")
    fetch_model(encoder.model)
    with session():
        made = build_index(encoder, table, index, settings, screen)
    screen.say(f'`hbt search {index} "a question"` asks it')
    screen.result({"index": index, **made.about.model_dump(mode="json")})


@app.command()
def search(
    index: IndexFolder,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Questions.")],
    k: Annotated[int, typer.Option(min=1, max=100_000, help="Documents for each.")] = 5,
    languages: Annotated[str, typer.Option(help="Only documents in these, such as en,de,ar.")] = "",
    model: Annotated[str, typer.Option(help="Where the encoder is now; default: where the index was built.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask a saved index by hand."""
    from rich.table import Table

    from hbt_ray.console import Screen
    from hbt_ray.retrieval.search.saved_index import SavedIndex
    from hbt_ray.workflow.indexing import ask_index

    screen = Screen(as_json)
    opened = SavedIndex.load(index)
    chosen = language_tags(languages)
    answers = ask_index(opened, text, k, chosen, model)
    for question, found in zip(text, answers, strict=True):
        table = Table("score", "document", "language", "text", title=question, box=None, title_justify="left")
        for answer in found:
            table.add_row(f"{answer.score:.3f}", answer.doc_id, answer.language, answer.text[:400])
        screen.table(table)
    screen.result({"answers": {q: [a._asdict() for a in found] for q, found in zip(text, answers, strict=True)}})
