"""Mewsli-X as a task (Ruder et al. 2021, XTREME-R, arXiv 2104.07412): find the entity to which a mention refers.

It is published by google-research (mewsli-x.md) as two files. `wikinews_mentions-<split>.jsonl` has a news article per
line with its `context` and `mentions`, in 11 languages. `candidate_set_entities.jsonl` has a million entities, each
described in one of 50 languages. Queries and documents are written as in XTREME-R's baseline: a query is
`Smith: The result came for { Smith }, who resigned.`, a document has the sentences of the description. The published
figure is AP@20 in the pool, which equals RR@20, because every mention has one entity.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from hbt_ray.data.formats.files import by_language, first_match, tag_of_code
from hbt_ray.data.formats.json_records import member, read_jsonl
from hbt_ray.data.formats.source_row import BadRowError, without_bad_rows
from hbt_ray.retrieval.tasks.config import Measure, TaskConfig
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.storage.location import Location


class MewsliXTaskConfig(TaskConfig):
    """Mewsli-X. `languages` selects mentions by language; all entities are candidates."""

    kind: Literal["mewsli-x"]
    path: Location
    """Folder that holds the two files, plain or compressed."""
    split: Literal["dev", "test"] = "test"
    """Split of the mentions."""
    measures: tuple[Measure, ...] = ("AP@20",)
    """Measures to show instead of the default ones. Default: the published one."""

    def open(self) -> Task:
        # Read all mentions first, since only they show which languages the file has.
        mentions = list(_mentions(first_match(self.path, f"wikinews_mentions-{self.split}.jsonl")))
        present = {mention.language: None for mention in mentions}
        languages = by_language(present, self.languages, f"{self.path} (split={self.split})")
        mentions = [mention for mention in mentions if mention.language in languages]
        return Task.from_rows(
            self.name or (self.kind if self.split == "test" else f"{self.kind}-{self.split}"),
            documents=_entities(first_match(self.path, "candidate_set_entities.jsonl")),
            queries=[(mention.id, mention.language, mention.text) for mention in mentions],
            qrels=[(mention.id, mention.entity_id) for mention in mentions],
            measures=self.measures,
        )


class _Mention(NamedTuple):
    id: str
    language: str
    text: str
    entity_id: str


def _mentions(file: str) -> Iterator[_Mention]:
    for record in without_bad_rows(read_jsonl(file)):
        context = member(record.values, "context", dict, record.where)
        where = f"{record.where}: context"
        language = tag_of_code(member(context, "language", str, where), where)
        article = member(context, "text", str, where)
        if not article.strip():
            reason = "text is empty; it comes from WikiNews: run get-mewsli-x.sh of google-research"
            raise BadRowError(where, reason)
        sentences = _sentence_spans(context, article, where)
        for number, mention in enumerate(member(record.values, "mentions", list, record.where)):
            where = f"{record.where}: mentions[{number}]"
            span = _span(member(mention, "mention_span", dict, where), article, where)
            yield _Mention(
                id=member(mention, "example_id", str, where),
                language=language,
                text=_marked_sentence(article, span, sentences, where),
                entity_id=member(mention, "entity_id", str, where),
            )


def _entities(file: str) -> Iterator[tuple[str, str, str]]:
    """Id, language and text of each entity."""
    for where, entity in without_bad_rows(read_jsonl(file)):
        description = member(entity, "description", str, where)
        spans = _sentence_spans(entity, description, where)
        text = " ".join(description[span.start : span.stop] for span in spans)
        tag = tag_of_code(member(entity, "description_language", str, where), where)
        yield member(entity, "entity_id", str, where), tag, _one_line(text)


def _marked_sentence(article: str, mention: range, sentences: list[range], where: str) -> str:
    """`mention: sentence`, in which the mention stands in braces."""
    for sentence in sentences:
        if sentence.start <= mention.start and mention.stop <= sentence.stop:
            left, right = article[sentence.start : mention.start], article[mention.stop : sentence.stop]
            text = article[mention.start : mention.stop]
            return _one_line(f"{text}: {left} {{ {text} }} {right}")
    reason = f"characters {mention.start} to {mention.stop} lie in none of the {len(sentences)} sentences"
    raise BadRowError(where, reason)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()).replace("  ", " ").strip()


def _sentence_spans(node: dict[str, Any], text: str, where: str) -> list[range]:
    spans = member(node, "sentence_spans", list, where)
    return [_span(span, text, f"{where}.sentence_spans[{number}]") for number, span in enumerate(spans)]


def _span(node: Any, text: str, where: str) -> range:
    start, end = member(node, "start", int, where), member(node, "end", int, where)
    # If a span repeats its text, it must agree: offsets in bytes would not.
    if not 0 <= start < end <= len(text) or node.get("text", text[start:end]) != text[start:end]:
        reason = f"{reprlib.repr(node)} is not a span of the text of {len(text)} characters; offsets count characters"
        raise BadRowError(where, reason)
    return range(start, end)
