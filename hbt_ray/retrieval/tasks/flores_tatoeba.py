"""The bitext benchmarks FLORES-200 and Tatoeba as tasks.

FLORES-200 (NLLB Team 2022, arXiv 2207.04672): the same sentences in many languages. Published as one file of lines a
language, `devtest/eng_Latn.devtest`; a Parquet table with the columns lang, n, sentence is read as well. The script in
a code is dropped if it is the default of the language: `zho_Hans` is `zh`.

Tatoeba, as in LASER (Artetxe and Schwenk 2019, arXiv 1812.10464) and XTREME: find the English translation of a
sentence. 112 languages with up to 1,000 sentences each; accuracy by language, and its mean over languages. Published as
two files of lines a language, `tatoeba.<code>-eng.<code>` and `tatoeba.<code>-eng.eng`; a Parquet table with the
columns lang3, n, sentence, english is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from hbt_ray.config import Language
from hbt_ray.data.formats.files import code_by_language, files_of, selected_languages
from hbt_ray.data.formats.parallel_sentences import SentenceColumns, read_aligned_lines, read_numbered_sentences
from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.bitext_task import BitextTask, multiway, with_english
from hbt_ray.retrieval.tasks.build import parallel_task
from hbt_ray.retrieval.tasks.config import TaskConfig
from hbt_ray.retrieval.tasks.task import Task
from hbt_ray.storage.location import Location, join_location, without_options

MAX_LANGUAGES = 100
"""Most languages of a FLORES task without a pivot: the number of pairs grows with the square of the languages, and the
results have a row for each sentence of each pair."""
XTREME = ("af", "ar", "bg", "bn", "de", "el", "es", "et", "eu", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja",
          "jv", "ka", "kk", "ko", "ml", "mr", "nl", "pt", "ru", "sw", "ta", "te", "th", "tl", "tr", "ur", "vi",
          "zh")  # fmt: skip
"""The 36 languages of XTREME (Hu et al. 2020, arXiv 2003.11080)."""


class FloresTaskConfig(TaskConfig):
    """FLORES-200, or any data with its layout."""

    kind: Literal["flores"]
    path: Location
    """Folder that holds `<split>/<code>.<split>`, or a Parquet table of one split."""
    split: Literal["dev", "devtest"] = "devtest"
    """Split to read from a folder."""
    search: Literal["pairs", "pool"] = "pairs"
    """`pairs`: each pair of languages is searched by itself. `pool`: one pool of all languages, in which a sentence and
    all its translations are the answers to each of them; it measures language bias."""
    pivot: Language | None = None
    """Keep only the pairs with this language. Default: all pairs."""

    @model_validator(mode="after")
    def _pivot_needs_pairs(self) -> FloresTaskConfig:
        if self.pivot and self.search == "pool":
            raise ValueError("pivot is for search=pairs; a pool has all languages on both sides")
        return self

    def open(self) -> Task | BitextTask:
        texts = _flores_table(self.path) if without_options(self.path).endswith(".parquet") else self._folder()
        pivot = [self.pivot] if self.pivot else []
        tags = selected_languages({*self.languages, *pivot} if self.languages else (), texts, self.path)
        if self.pivot and self.pivot not in tags:
            raise TaskError(f"{self.path}: has no sentences in the pivot {self.pivot!r}", code="MISSING_LANGUAGE")
        if not self.pivot and len(tags) > MAX_LANGUAGES:
            raise TaskError(
                f"{self.path}: {len(tags)} languages are too many for every two of them; name at most {MAX_LANGUAGES} "
                "with languages=, or a pivot",
                code="TOO_MANY_LANGUAGES",
            )
        task_name = self.name or (self.kind if self.search == "pairs" else f"{self.kind}-pool")
        if self.search == "pairs":
            return multiway(task_name, {tag: texts[tag] for tag in tags}, self.pivot)
        rows = (SourceRow(str(n), tag, text, text, str(n)) for tag in tags for n, text in enumerate(texts[tag]))
        return parallel_task(task_name, rows)

    def _folder(self) -> Mapping[str, list[str]]:
        suffix = f".{self.split}"
        files = files_of(join_location(self.path, self.split), f"*{suffix}")
        file_of = {file.rpartition("/")[2].removesuffix(suffix): file for file in files}
        codes = code_by_language(file_of, self.path)
        return {tag: read_aligned_lines(file_of[code]) for tag, code in codes.items()}


def _flores_table(path: str) -> Mapping[str, list[str]]:
    sentences = read_numbered_sentences(path, SentenceColumns(id="n", language="lang", text="sentence"))
    numbers = {tag: [number for number, _ in rows] for tag, rows in sentences.items()}
    first = next(iter(numbers))
    for tag in numbers:
        if numbers[tag] != numbers[first]:  # Row by row, other sentences would count as translations.
            raise TaskError(
                f"{path}: {tag} has other numbers n than {first}, so it is unclear what translates what",
                code="NOT_ALIGNED",
            )
    return {tag: [sentence.text for _, sentence in rows] for tag, rows in sentences.items()}


class TatoebaTaskConfig(TaskConfig):
    """Tatoeba; English need not be named among the languages."""

    kind: Literal["tatoeba"]
    path: Location
    """LASER's folder of text files, or a Parquet table."""
    subset: Literal["all", "xtreme"] = "all"
    """`xtreme`: the 36 languages of XTREME."""
    both_ways: bool = False
    """Search from English as well. Published figures are into English only."""

    @model_validator(mode="after")
    def _subset_or_languages(self) -> TatoebaTaskConfig:
        if self.subset == "xtreme" and self.languages:
            raise ValueError("subset=xtreme names the languages already; leave out one of subset and languages")
        return self

    def open(self) -> BitextTask:
        is_table = without_options(self.path).endswith(".parquet")
        texts = _tatoeba_table(self.path) if is_table else _tatoeba_folder(self.path)
        selected = XTREME if self.subset == "xtreme" else [tag for tag in self.languages if tag != "en"]
        if self.languages and not selected:
            raise TaskError(
                f"{self.path}: English alone makes no pair; name the languages that are to find it", code="NO_PAIR"
            )
        tags = selected_languages(selected, texts, self.path)
        default_name = self.kind if self.subset == "all" else f"{self.kind}-{self.subset}"
        return with_english(self.name or default_name, {tag: texts[tag] for tag in tags}, self.both_ways)


def _tatoeba_table(path: str) -> Mapping[str, tuple[list[str], list[str]]]:
    columns = SentenceColumns(id="n", language="lang3", text="sentence", english="english")
    return {
        tag: ([sentence.text for _, sentence in rows], [sentence.english for _, sentence in rows])
        for tag, rows in read_numbered_sentences(path, columns).items()
    }


def _tatoeba_folder(folder: str) -> Mapping[str, tuple[list[str], list[str]]]:
    files = files_of(folder, "tatoeba.*-eng.eng")
    english = {file.rpartition("/")[2].removeprefix("tatoeba.").removesuffix("-eng.eng"): file for file in files}
    return {
        tag: (
            read_aligned_lines(join_location(folder, f"tatoeba.{code}-eng.{code}")),
            read_aligned_lines(english[code]),
        )
        for tag, code in code_by_language(english, folder).items()
    }
