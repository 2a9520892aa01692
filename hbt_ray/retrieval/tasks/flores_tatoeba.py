"""The bitext benchmarks FLORES-200 and Tatoeba as tasks.

FLORES-200 (NLLB Team 2022, arXiv 2207.04672) has the same sentences in many languages. It is published as one text file
per language, `devtest/eng_Latn.devtest`; a Parquet table with the columns lang, n, sentence is read as well. The script
in a code is dropped if it is the default of the language: `zho_Hans` is `zh`.

Tatoeba, as in LASER (Artetxe and Schwenk 2019, arXiv 1812.10464) and XTREME, is the task to find the English
translation of a sentence, in 112 languages with up to 1,000 sentences each. Its figures are the accuracy by language
and the mean over languages. It is published as two text files per language, `tatoeba.<code>-eng.<code>` and
`tatoeba.<code>-eng.eng`; a Parquet table with the columns lang3, n, sentence, english is read as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import model_validator

from hbt_ray.config import Language
from hbt_ray.data.formats.files import by_language, first_match, lines, matching_files
from hbt_ray.data.formats.records import read_records
from hbt_ray.data.formats.source_row import BadRowError, SourceRow, text_values, without_bad_rows
from hbt_ray.errors import SourceError, TaskError
from hbt_ray.retrieval.tasks.bitext_task import BitextTask, multiway, with_english
from hbt_ray.retrieval.tasks.config import TaskConfig
from hbt_ray.retrieval.tasks.task import Task, parallel_task
from hbt_ray.storage.location import Location, join_location
from hbt_ray.storage.object_store import without_options

MAX_LANGUAGES = 100
"""Maximum number of languages of a FLORES task without a pivot, since pairs grow with its square and the results have a
row for each sentence of each pair."""
XTREME = ("af", "ar", "bg", "bn", "de", "el", "es", "et", "eu", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja",
          "jv", "ka", "kk", "ko", "ml", "mr", "nl", "pt", "ru", "sw", "ta", "te", "th", "tl", "tr", "ur", "vi",
          "zh")  # fmt: skip
"""The 36 languages of XTREME (Hu et al. 2020, arXiv 2003.11080)."""


class FloresTaskConfig(TaskConfig):
    """FLORES-200, or other data in its layout."""

    kind: Literal["flores"]
    path: Location
    """Folder that holds `<split>/<code>.<split>`, or a Parquet table of one split."""
    split: Literal["dev", "devtest"] = "devtest"
    """Split to read from a folder."""
    search: Literal["pairs", "pool"] = "pairs"
    """`pairs` searches each pair of languages by itself. `pool` searches one pool of all languages, in which a sentence
    and all its translations are the answers to each of them; it measures language bias."""
    pivot: Language | None = None
    """Keep only the pairs with this language. Default: all pairs."""

    @model_validator(mode="after")
    def _pivot_needs_pairs(self) -> FloresTaskConfig:
        if self.pivot and self.search == "pool":
            raise ValueError("pivot is for search=pairs; a pool has all languages on both sides")
        return self

    def open(self) -> Task | BitextTask:
        # The pivot is read even if `languages` leaves it out.
        texts = self._texts({*self.languages, *([self.pivot] if self.pivot else [])} if self.languages else set())
        if self.pivot and self.pivot not in texts:
            raise TaskError(f"{self.path}: has no sentences in the pivot {self.pivot!r}", code="MISSING_LANGUAGE")
        if not self.pivot and len(texts) > MAX_LANGUAGES:
            raise TaskError(
                f"{self.path}: {len(texts)} languages are too many for every two of them; name at most {MAX_LANGUAGES} "
                "with languages=, or a pivot",
                code="TOO_MANY_LANGUAGES",
            )
        if self.search == "pairs":
            return multiway(self.name or self.kind, texts, self.pivot)
        # Each sentence is question and passage at once; its line number is the id that translations share.
        sentences = ((str(n), tag, text) for tag in texts for n, text in enumerate(texts[tag]))
        rows = (SourceRow(number, tag, text, text, number) for number, tag, text in sentences)
        return parallel_task(self.name or f"{self.kind}-pool", rows)

    def _texts(self, selected: set[str]) -> dict[str, list[str]]:
        if not _is_table(self.path):
            files = matching_files(join_location(self.path, self.split), f"*.{self.split}")
            file_by_code = {file.removesuffix(f".{self.split}"): path for file, path in files.items()}
            return {tag: _aligned_lines(path) for tag, path in by_language(file_by_code, selected, self.path).items()}
        sentences = by_language(_read_table(self.path, "lang", "sentence"), selected, self.path)
        first = next(iter(sentences))
        for tag, rows in sentences.items():
            if [row.number for row in rows] != [row.number for row in sentences[first]]:
                raise TaskError(  # Row by row, other sentences would count as translations.
                    f"{self.path}: {tag} has other numbers n than {first}, so it is unclear what translates what",
                    code="NOT_ALIGNED",
                )
        return {tag: [row.text for row in rows] for tag, rows in sentences.items()}


class TatoebaTaskConfig(TaskConfig):
    """Tatoeba. English is always included, so `languages` need not list it."""

    kind: Literal["tatoeba"]
    path: Location
    """LASER's folder of text files, or a Parquet table."""
    subset: Literal["all", "xtreme"] = "all"
    """`xtreme` selects the 36 languages of XTREME; `all` selects those in `languages`, or all."""
    both_ways: bool = False
    """Search from English as well. Published figures are into English only."""

    @model_validator(mode="after")
    def _subset_or_languages(self) -> TatoebaTaskConfig:
        if self.subset == "xtreme" and self.languages:
            raise ValueError("subset=xtreme names the languages already; leave out one of subset and languages")
        return self

    def open(self) -> BitextTask:
        selected = XTREME if self.subset == "xtreme" else [tag for tag in self.languages if tag != "en"]
        if self.languages and not selected:
            raise TaskError(
                f"{self.path}: English alone makes no pair; name the languages that are to find it", code="NO_PAIR"
            )
        default_name = self.kind if self.subset == "all" else f"{self.kind}-{self.subset}"
        return with_english(self.name or default_name, self._texts(selected), self.both_ways)

    def _texts(self, selected: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
        if _is_table(self.path):
            sentences = by_language(_read_table(self.path, "lang3", "sentence", "english"), selected, self.path)
            return {tag: ([row.text for row in rows], [row.english for row in rows]) for tag, rows in sentences.items()}
        files = matching_files(self.path, "tatoeba.*-eng.eng")
        # Cut `tatoeba.` and `-eng.eng`, eight characters each.
        code_by_tag = by_language({code: code for code in (file[8:-8] for file in files)}, selected, self.path)
        return {
            tag: (
                _aligned_lines(first_match(self.path, f"tatoeba.{code}-eng.{code}")),
                _aligned_lines(files[f"tatoeba.{code}-eng.eng"]),
            )
            for tag, code in code_by_tag.items()
        }


def _is_table(path: str) -> bool:
    return without_options(path).endswith(".parquet")


class _Sentence(NamedTuple):
    number: int
    text: str
    english: str = ""


def _read_table(path: str, language: str, *texts: str) -> dict[str, list[_Sentence]]:
    """Language code → sentences of a table, sorted by their number; `texts` are the columns with the sentences."""
    by_code: dict[str, list[_Sentence]] = defaultdict(list)
    columns = {column: column for column in (language, "n", *texts)}
    for record in without_bad_rows(read_records(path, columns)):
        values = text_values(record, columns, numbers=("n",))
        try:
            number = int(values["n"])
        except ValueError:
            raise BadRowError(record.where, "column 'n' is not a whole number") from None
        by_code[values[language]].append(_Sentence(number, *(values[text] for text in texts)))
    return {code: sorted(rows, key=lambda row: row[:2]) for code, rows in by_code.items()}


def _aligned_lines(file: str) -> list[str]:
    """The sentences of a text file, one per line. A blank line is an error, as it would misalign translations."""
    sentences = []
    for number, line in enumerate(without_bad_rows(lines(file)), start=1):
        if line.where != f"{file}:{number}":  # `lines` skips blank lines but counts them.
            raise SourceError(
                f"{file}:{number}: a blank line, so that it is unclear what translates what", code="BLANK_LINE"
            )
        sentences.append(line.text)
    return sentences
