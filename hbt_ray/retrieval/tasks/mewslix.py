"""Mewsli-X (Ruder et al. 2021, XTREME-R, arXiv 2104.07412): find what a mention in the news of 11 languages stands for.

Published by google-research as `wikinews_mentions-<split>.jsonl`, one article a line with its `context` and
`mentions`, and `candidate_set_entities.jsonl`, a million entities, each described in one of 50 languages. Questions
and descriptions are written as in XTREME-R's baseline: `Smith: The result came for { Smith }, who resigned.` and the
sentences of the description. Its figure is AP@20 in the pool, which is RR@20, as every mention has one entity.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

from hbt_ray.data.formats.files import PLAIN_OR_PACKED, first_of
from hbt_ray.data.formats.records import jsonl
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig, chosen
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.retrieval.tasks.validation import sound, tag_of, value
from hbt_ray.storage.location import Location

_get = partial(value, form="see mewsli-x.md of google-research for what the files hold")


class MewsliXTaskConfig(TaskConfig):
    """Mewsli-X; `languages` are those of the mentions, and all entities are candidates."""

    kind: Literal["mewsli-x"]
    path: Location
    """The folder of the two files; plain or packed."""
    split: Literal["dev", "test"] = "test"
    measures: tuple[Measure, ...] = ("AP@20",)

    def open(self) -> Task:
        mentions = list(_mentions(self._file(f"wikinews_mentions-{self.split}.jsonl")))
        found = {mention.language for mention in mentions}
        kept = set(chosen(self.languages, found, f"{self.path} (split={self.split})"))
        mentions = [mention for mention in mentions if mention.language in kept]
        return Task.from_rows(
            self.name or (self.kind if self.split == "test" else f"{self.kind}-{self.split}"),
            documents=_entities(self._file("candidate_set_entities.jsonl")),
            queries=[(mention.id, mention.language, mention.text) for mention in mentions],
            qrels=[(mention.id, mention.entity) for mention in mentions],
            measures=self.measures,
        )

    def _file(self, name: str) -> str:
        return first_of(self.path, *(f"{name}{packed}" for packed in PLAIN_OR_PACKED))


class _Mention(NamedTuple):
    id: str
    language: str
    text: str
    entity: str


def _mentions(file: str) -> Iterator[_Mention]:
    for record in sound(jsonl(file)):
        context = _get(record.values, "context", dict, record.where)
        at = f"{record.where}: context"
        language, article = tag_of(_get(context, "language", str, at), at), _get(context, "text", str, at)
        if not article.strip():
            raise TaskError(
                f"{at}.text: is empty; the text comes from WikiNews: run get-mewsli-x.sh of google-research"
            )
        sentences = _spans(context, article, at)
        for number, mention in enumerate(_get(record.values, "mentions", list, record.where)):
            where = f"{record.where}: mentions[{number}]"
            entity, own = _get(mention, "entity_id", str, where), _get(mention, "example_id", str, where)
            span = _span(_get(mention, "mention_span", dict, where), article, where)
            yield _Mention(own, language, _marked(article, span, sentences, where), entity)


def _entities(file: str) -> Iterator[tuple[str, str, str]]:
    for record in sound(jsonl(file)):
        entity, at = record.values, record.where
        description = _get(entity, "description", str, at)
        text = " ".join(description[span.start : span.stop] for span in _spans(entity, description, at))
        tag = tag_of(_get(entity, "description_language", str, at), at)
        yield _get(entity, "entity_id", str, at), tag, _one_line(text)


def _marked(article: str, mention: range, sentences: list[range], at: str) -> str:
    """`mention: sentence` with the mention in braces."""
    for sentence in sentences:
        if sentence.start <= mention.start and mention.stop <= sentence.stop:
            left, right = article[sentence.start : mention.start], article[mention.stop : sentence.stop]
            named = article[mention.start : mention.stop]
            return _one_line(f"{named}: {left} {{ {named} }} {right}")
    raise TaskError(f"{at}: characters {mention.start} to {mention.stop} lie in none of the {len(sentences)} sentences")


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()).replace("  ", " ").strip()


def _spans(node: dict[str, Any], text: str, at: str) -> list[range]:
    spans = _get(node, "sentence_spans", list, at)
    return [_span(span, text, f"{at}.sentence_spans[{number}]") for number, span in enumerate(spans)]


def _span(node: Any, text: str, at: str) -> range:
    start, end = _get(node, "start", int, at), _get(node, "end", int, at)
    if not 0 <= start < end <= len(text) or node.get("text", text[start:end]) != text[start:end]:
        raise TaskError(
            f"{at}: {reprlib.repr(node)} is no span of the text of {len(text)} characters; offsets count characters"
        )
    return range(start, end)
