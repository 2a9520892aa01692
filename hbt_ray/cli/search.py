"""`hbt search`: a saved index and questions → documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.options import IndexArgument, JsonOption, LanguagesOption, language_tags

if TYPE_CHECKING:
    from hbt_ray.retrieval.search.saved_index import FoundDocument, SavedIndex

_SHOWN_CHARACTERS = 400


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
        model: where the encoder is now, if it was moved.
    """
    import numpy as np
    import pyarrow as pa

    from hbt_ray.host import usable_cpus
    from hbt_ray.model.loading import quiet_transformers
    from hbt_ray.retrieval.encoder import EncoderActor, local_model_folder

    config = index.manifest.encoder.model_copy(
        update={"gpu": False, "workers": 1} | ({"model": model} if model else {})
    )
    local_model_folder(config.model)
    with quiet_transformers():
        encoder = EncoderActor(config)
    encoded = encoder(pa.table({"number": range(len(questions)), "side": [0] * len(questions), "text": questions}))
    fingerprint = encoded["fingerprint"][0].as_py()
    return index.search(np.stack(encoded["vector"].to_numpy()), fingerprint, k, languages, usable_cpus())
