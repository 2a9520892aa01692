"""Tatoeba, as in LASER (Artetxe and Schwenk 2019, arXiv 1812.10464) and XTREME: find the English of a sentence.

112 languages with up to 1,000 sentences each and their translations; accuracy by language, and its mean over
languages. Published as two files of lines a language, `tatoeba.<code>-eng.<code>` and `tatoeba.<code>-eng.eng`, or
here as one Parquet table with the columns lang3, n, sentence, english.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from hbt_ray.data.formats.files import files_of
from hbt_ray.data.formats.records import records
from hbt_ray.errors import TaskError
from hbt_ray.retrieval.tasks.bitext_task import BitextTask, lines_of, with_english
from hbt_ray.retrieval.tasks.config import TaskConfig, chosen
from hbt_ray.retrieval.tasks.validation import by_tag, sound
from hbt_ray.storage.location import Location, join_location, without_options

XTREME = ("af", "ar", "bg", "bn", "de", "el", "es", "et", "eu", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja",
          "jv", "ka", "kk", "ko", "ml", "mr", "nl", "pt", "ru", "sw", "ta", "te", "th", "tl", "tr", "ur", "vi",
          "zh")  # fmt: skip
"""The 36 languages of XTREME (Hu et al. 2020, arXiv 2003.11080)."""
_Sides = tuple[list[str], list[str]]


class TatoebaTaskConfig(TaskConfig):
    """Tatoeba; English need not be named among the languages."""

    kind: Literal["tatoeba"]
    path: Location
    """LASER's folder of text files, or a Parquet table."""
    subset: Literal["all", "xtreme"] = "all"
    """`xtreme`: its 36 languages."""
    both_ways: bool = False
    """From English as well; published figures are into English."""

    @model_validator(mode="after")
    def _one_choice(self) -> TatoebaTaskConfig:
        if self.subset == "xtreme" and self.languages:
            raise ValueError("subset=xtreme names the languages already; leave out one of subset and languages")
        return self

    def open(self) -> BitextTask:
        sides = _from_table(self.path) if without_options(self.path).endswith(".parquet") else _from_folder(self.path)
        wanted = XTREME if self.subset == "xtreme" else [tag for tag in self.languages if tag != "en"]
        if self.languages and not wanted:
            raise TaskError(f"{self.path}: English alone makes no pair; name the languages that are to find it")
        kept = chosen(wanted, sides, self.path)
        own = self.kind if self.subset == "all" else f"{self.kind}-{self.subset}"
        return with_english(self.name or own, {tag: sides[tag] for tag in kept}, self.both_ways)


def _from_table(path: str) -> Mapping[str, _Sides]:
    found: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for record in sound(records(path, {"lang3", "n", "sentence", "english"})):
        match record.values:
            case {"lang3": str(code), "n": int(number), "sentence": str(own), "english": str(english)}:
                found[code].append((number, own, english))
            case _:
                raise TaskError(f"{record.where}: lang3, sentence and english must be text and n a number")
    ordered = {tag: sorted(found[code]) for tag, code in by_tag(found, path).items()}
    return {tag: ([own for _, own, _ in rows], [english for _, _, english in rows]) for tag, rows in ordered.items()}


def _from_folder(folder: str) -> Mapping[str, _Sides]:
    files = files_of(folder, lambda name: name.startswith("tatoeba.") and name.endswith("-eng.eng"))
    codes = [file.rpartition("/")[2].removeprefix("tatoeba.").removesuffix("-eng.eng") for file in files]
    english = dict(zip(codes, files, strict=True))
    return {
        tag: (lines_of(join_location(folder, f"tatoeba.{code}-eng.{code}")), lines_of(english[code]))
        for tag, code in by_tag(codes, folder).items()
    }
