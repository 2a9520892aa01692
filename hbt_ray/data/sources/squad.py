"""SQuAD-format JSON, one file a language: `data[].paragraphs[].{context, qas[].{id, question}}`.

An item is a question id, so files with equal ids are translations of one another; the passage is the paragraph. The
passage id is the paragraph's place in the file, which translations share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hbt_ray.config import Config, Language
from hbt_ray.data.rows import Row
from hbt_ray.errors import SourceError


class SquadSource(Config):
    """SQuAD-format JSON files that share their question ids."""

    kind: Literal["squad"]
    name: str
    licence: str = ""
    files: dict[Language, Path]
    """Language → file."""

    def rows(self) -> Iterator[Row]:
        for language, path in self.files.items():
            yield from _rows(path, language)


def _rows(path: Path, language: str) -> Iterator[Row]:
    articles = field(read_json(path), "data", list, f"{path}")
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(field(article, "paragraphs", list, f"{path}: data[{a}]")):
            where = f"{path}: data[{a}].paragraphs[{p}]"
            context = field(paragraph, "context", str, where)
            for q, qa in enumerate(field(paragraph, "qas", list, where)):
                place = f"{where}.qas[{q}]"
                yield Row(
                    item_id=field(qa, "id", str, place),
                    language=language,
                    question=field(qa, "question", str, place),
                    passage=context,
                    passage_id=f"{a}.{p}",
                    where=place,
                )


def read_json(path: Path) -> Any:
    """Raises: SourceError for a file that is missing, empty or no JSON."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if not text.strip():
        raise SourceError(f"{path}: the file is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}:{error.lineno}: no valid JSON ({error.msg}); is the file cut short?") from None


def field(node: Any, key: str, kind: type, where: str) -> Any:
    """One value of a JSON object. Raises: SourceError that names the place and what should be there."""
    if not isinstance(node, dict) or not isinstance(node.get(key), kind):
        found = sorted(node) if isinstance(node, dict) else type(node).__name__
        raise SourceError(
            f"{where}: expected an object with {key!r} ({kind.__name__}), found {found}; SQuAD JSON is needed"
        )
    return node[key]
