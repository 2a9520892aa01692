"""SQuAD-format JSON, one file a language: `data[].paragraphs[].{context, qas[].{id, question, answers}}`.

Published by rajpurkar/SQuAD-explorer, and for translations by google-deepmind/xquad and google-research-datasets/lareqa
(XQuAD-R), whose paragraphs also have `sentence_breaks`, spans of characters. An item is a question id, so files with
equal ids are translations of one another. The passage id is the paragraph's place in the file, which translations
share; sentences of a paragraph share it too, since translations cut it differently. SQuAD 2.0's questions without an
answer are rejected, as their passage is no positive. One file is held in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from hbt_ray.config import ByLanguage, Config
from hbt_ray.data.formats.files import opened
from hbt_ray.data.formats.source_row import BadRow, SourceRow
from hbt_ray.data.formats.training_pairs import UNANSWERABLE, says_unanswerable
from hbt_ray.errors import SourceError
from hbt_ray.storage.location import Location

MAX_JSON_BYTES = 1 << 30
"""Of one file, unpacked: as Python objects it takes several times that."""


class SquadSource(Config):
    """SQuAD-format JSON files that share their question ids."""

    kind: Literal["squad"]
    name: str
    licence: str = ""
    files: ByLanguage[Location]
    """Language → file."""
    passage: Literal["paragraph", "sentence"] = "paragraph"
    """`sentence`: the span of `sentence_breaks` in which the first answer starts; the paragraph where it has none."""

    def locations(self) -> list[str]:
        return list(self.files.values())

    def parts(self) -> list[SquadSource]:
        return [self.model_copy(update={"files": {language: path}}) for language, path in self.files.items()]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        for language, path in self.files.items():
            tree = read_json(path)
            marked = isinstance(tree, dict) and str(tree.get("version", "")).lower().startswith(("2", "v2"))
            for paragraph in _paragraphs(tree, path):
                if isinstance(paragraph, BadRow):
                    yield paragraph
                    continue
                for q, qa in enumerate(paragraph.values["qas"]):
                    where = f"{paragraph.where}.qas[{q}]"
                    if _unanswerable(qa, marked):
                        yield BadRow(where, UNANSWERABLE)
                    else:
                        yield _row(qa, self._passage(paragraph.values, qa, where), where, paragraph.key, language)

    def _passage(self, paragraph: dict[str, Any], qa: Any, where: str) -> str | BadRow:
        spans = paragraph.get("sentence_breaks")
        if self.passage == "paragraph" or spans is None:
            return str(paragraph["context"])
        return _sentence(paragraph["context"], spans, qa, where)


class _Paragraph(NamedTuple):
    where: str
    key: str
    """Number of the article and of the paragraph."""
    values: dict[str, Any]


def _paragraphs(tree: Any, path: str) -> Iterator[_Paragraph | BadRow]:
    if problem := wrong(tree, data=list):
        raise SourceError(f"{path}: {problem}")
    for a, article in enumerate(tree["data"]):
        where = f"{path}: data[{a}]"
        if problem := wrong(article, paragraphs=list):
            yield BadRow(where, problem)
            continue
        for p, values in enumerate(article["paragraphs"]):
            place = f"{where}.paragraphs[{p}]"
            problem = wrong(values, context=str, qas=list)
            yield BadRow(place, problem) if problem else _Paragraph(place, f"{a}.{p}", values)


def _row(qa: Any, passage: str | BadRow, where: str, key: str, language: str) -> SourceRow | BadRow:
    if problem := wrong(qa, id=str, question=str):
        return BadRow(where, problem)
    if isinstance(passage, BadRow):
        return passage
    return SourceRow(qa["id"], language, qa["question"], passage, _answer(qa), key, where=where)


def _unanswerable(qa: Any, marked: bool) -> bool:
    """Translations of SQuAD 2.0 do not all keep `is_impossible`: there, no answers say the same.

    Args:
        marked: the file says that it is of version 2.
    """
    if not isinstance(qa, dict):
        return False
    if says_unanswerable(qa.get("is_impossible")):
        return True
    return qa.get("answers") == [] and (marked or "plausible_answers" in qa) and "is_impossible" not in qa


def _answer(qa: dict[str, Any]) -> str:
    match qa:
        case {"answers": [{"text": str(text)}, *_]}:
            return text
    return ""


def _sentence(context: str, spans: Any, qa: Any, where: str) -> str | BadRow:
    match qa:
        case {"answers": [{"answer_start": int(at)}, *_]} if not isinstance(at, bool):
            pass
        case _:
            return BadRow(where, "no answer_start of a first answer, so no sentence is the right one")
    for span in spans if isinstance(spans, list) else ():
        match span:
            case [int(start), int(end)] if 0 <= start <= at < end <= len(context):
                return context[start:end]
    return BadRow(where, "answer_start lies in none of the sentence_breaks, which count characters, not bytes")


def read_json(location: str) -> Any:
    """Raises: SourceError for a file that is missing, empty, too large or no JSON."""
    with opened(location) as stream:
        raw = stream.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise SourceError(
            f"{location}: more than {MAX_JSON_BYTES >> 20} MiB of JSON, which must be held whole; split it"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{location}: cannot be read as UTF-8 text ({error})") from None
    if not text.strip():
        raise SourceError(f"{location}: the file is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"{location}:{error.lineno}: no valid JSON ({error.msg}); is the file cut short?") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{location}: no usable JSON ({error})") from None


def wrong(node: Any, **kinds: type) -> str:
    """What a JSON object lacks of the keys and types that it should have; empty if nothing."""
    for key, kind in kinds.items():
        if not isinstance(node, dict) or not isinstance(node.get(key), kind):
            found = sorted(node) if isinstance(node, dict) else type(node).__name__
            return f"expected an object with {key!r} ({kind.__name__}), found {found}; SQuAD JSON is needed"
    return ""
