"""The bitext task: find the translation of a sentence; each pair of languages is searched by itself.

Unlike in a `Task`, the candidates of a sentence are those of its own pair, and its answer is the one of the same row.
So the thousand English sentences of Tatoeba's Afrikaans pair are never candidates for a German sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import pyarrow as pa

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.task import first_with_nul, is_empty, rows_digest
from hbt_ray.storage import valid_name

SENTENCES = pa.schema([(name, pa.string()) for name in ("language", "text")])


class LanguagePair(NamedTuple):
    """Two languages whose sentences are translations, row by row."""

    source: str
    target: str
    source_rows: range
    """Rows of `BitextTask.sentences`."""
    target_rows: range
    """Rows of `BitextTask.sentences`, as many as `source_rows`."""


@dataclass(frozen=True, eq=False)
class BitextTask:
    """Sentences, each encoded once, and the pairs of languages in which they are searched.

    Raises:
        InputError: the name cannot be the name of a folder.
        TaskError: no pairs, a pair whose sides differ in length or are empty, a pair twice, or an empty sentence.
    """

    name: str
    sentences: pa.Table
    """Columns language, text."""
    pairs: Sequence[LanguagePair]
    both_ways: bool
    """Whether the targets are also queries, with the sources as candidates."""
    measures: ClassVar[tuple[str, ...]] = ("R@1", "MarginR@1")
    """Accuracy of the nearest neighbour by cosine, and by the ratio margin."""

    def __post_init__(self) -> None:
        valid_name(self.name, "task")
        if not self.pairs:
            raise self._error("there is no pair of languages to search in; give two or more", code="NO_PAIR")
        for source, target, source_rows, target_rows in self.pairs:
            if not len(source_rows) == len(target_rows) > 0:
                raise self._error(
                    f"{len(source_rows)} sentences in {source!r} for {len(target_rows)} in {target!r}; line by line "
                    "they must be translations",
                    code="NOT_ALIGNED",
                )
        languages = [frozenset(pair[:2]) for pair in self.pairs]
        # A pair of equal languages is a set of one.
        if len(set(languages)) < len(languages) or min(map(len, languages)) < 2:
            raise self._error("a pair of languages occurs twice, or is one language", code="PAIR_TWICE")
        if len(empty := self.sentences.filter(is_empty(self.sentences["text"]))):
            language = empty["language"][0].as_py()
            raise self._error(f"a sentence in {language!r} is empty, so nothing can find it", code="EMPTY_TEXT")
        if row := first_with_nul(self.sentences, "text"):
            raise self._error(f"a sentence in {row['language']!r} holds a NUL character", code="NUL")

    def _error(self, problem: str, *, code: str) -> TaskError:
        return TaskError(f"task {self.name}: {problem}", code=code)

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the pairs and their sentences; see `Task.fingerprint`."""
        texts, parts = self.sentences["text"], [str(self.both_ways)]
        for source, target, *sides in sorted(self.pairs, key=lambda pair: pair[:2]):
            columns = [texts.slice(rows.start, len(rows)) for rows in sides]
            parts += [source, target, str(rows_digest(pa.table(columns, names=["source", "target"])))]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]

    @property
    def languages(self) -> list[str]:
        """All languages, sorted."""
        return sorted({language for pair in self.pairs for language in pair[:2]})


def with_english(name: str, texts: Mapping[str, tuple[Sequence[str], Sequence[str]]], both_ways: bool) -> BitextTask:
    """A task on pairs with English, each with its own English sentences.

    Args:
        texts: language → its sentences and their English translations.
    """
    sides = [side for tag, (sentences, english) in texts.items() for side in ((tag, sentences), ("en", english))]
    table, rows = _stacked(sides)
    # In `rows`, each language is followed by its English translations.
    pairs = [LanguagePair(tag, "en", rows[2 * n], rows[2 * n + 1]) for n, tag in enumerate(texts)]
    return BitextTask(name, table, pairs, both_ways)


def multiway(name: str, texts: Mapping[str, Sequence[str]], pivot: str | None) -> BitextTask:
    """A task on the same sentences in many languages, whose pairs are any two languages, or `pivot` and any other.

    Args:
        texts: language → its sentences, in the same order for all languages.
    """
    table, ranges = _stacked(texts.items())
    # Without a pivot, a source comes before its target: `both_ways` searches each pair in both directions.
    rows, tags = dict(zip(texts, ranges, strict=True)), list(texts)
    pairs = [
        LanguagePair(source, target, rows[source], rows[target])
        for n, target in enumerate(tags)
        for source in (tags[:n] if pivot is None else tags)
        if source != target and pivot in (None, target)
    ]
    return BitextTask(name, table, pairs, both_ways=True)


def _stacked(sides: Iterable[tuple[str, Sequence[str]]]) -> tuple[pa.Table, list[range]]:
    """The sentences of all sides in one table, and the rows of each side."""
    batches, ranges, start = [], [], 0
    for tag, sentences in sides:
        batches.append(pa.record_batch([[tag] * len(sentences), list(sentences)], schema=SENTENCES))
        ranges.append(range(start, start + len(sentences)))
        start += len(sentences)
    return pa.Table.from_batches(batches, SENTENCES), ranges
