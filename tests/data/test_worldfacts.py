"""worldfacts: what it holds, that its splits do not leak, and that its sentences are clean in every language."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from hbt_ray.data.formats.source_row import SourceRow
from hbt_ray.data.sources.file_sources import Source
from hbt_ray.data.sources.worldfacts import LANGUAGES, SPLITS, Split, WorldfactsSource
from hbt_ray.data.sources.worldfacts.entities import Entity, entity_name
from hbt_ray.data.sources.worldfacts.facts import facts, groups_of, split_facts
from hbt_ray.data.sources.worldfacts.phrases import phrasebook
from hbt_ray.errors import ConfigError

# Thai marks a question by its words.
_MARKS = {"ar": "؟", "el": ";", "th": "", "zh": "？"}
_STOPS = {"hi": "।", "th": "", "zh": "。"}


@cache
def _rows(split: Split) -> tuple[SourceRow, ...]:
    return tuple(WorldfactsSource(split=split).rows())


def _all_rows() -> Iterator[SourceRow]:
    for split in SPLITS:
        yield from _rows(split)


@cache
def _rows_in(language: str) -> tuple[SourceRow, ...]:
    return tuple(row for row in _all_rows() if row.language == language)


@pytest.mark.parametrize(("split", "least", "most"), [("train", 2500, 4000), ("dev", 80, 250), ("test", 250, 500)])
def test_passages_per_language(split: Split, least: int, most: int) -> None:
    passages = {(row.language, row.passage_id) for row in _rows(split)}
    per_language = Counter(language for language, _ in passages)
    assert set(per_language) == set(LANGUAGES)
    assert all(least <= number <= most for number in per_language.values()), per_language


def test_items_are_multilingual() -> None:
    languages = Counter(row.item_id for row in _all_rows())
    assert min(languages.values()) >= 2
    everywhere = sum(number == len(LANGUAGES) for number in languages.values())
    assert everywhere / len(languages) > 0.8


def test_every_fact_has_three_questions_in_each_of_its_languages() -> None:
    questions = Counter((row.passage_id, row.language) for row in _all_rows())
    assert set(questions.values()) == {3, 4}  # four where the currency is of one country alone
    assert {passage for passage, _ in questions} == {fact.key for fact in facts()}


def test_a_passage_is_one_text_a_language() -> None:
    texts: dict[tuple[str, str], set[str]] = {}
    for row in _all_rows():
        texts.setdefault((row.language, row.passage_id), set()).add(row.passage)
    assert all(len(versions) == 1 for versions in texts.values())


def test_a_question_has_one_right_passage() -> None:
    answers: dict[tuple[str, str], set[str]] = {}
    passages: dict[tuple[str, str], set[str]] = {}
    for row in _all_rows():
        answers.setdefault((row.language, row.question), set()).add(row.passage_id)
        passages.setdefault((row.language, row.passage), set()).add(row.passage_id)
    assert [key for key, ids in answers.items() if len(ids) > 1] == []
    assert [key for key, ids in passages.items() if len(ids) > 1] == []


@pytest.mark.parametrize("held_out", ["dev", "test"])
def test_no_text_of_training_is_held_out(held_out: Split) -> None:
    for text in (lambda row: row.question), (lambda row: row.passage), (lambda row: row.passage_id):
        trained = {(row.language, text(row)) for row in _rows("train")}
        assert trained.isdisjoint((row.language, text(row)) for row in _rows(held_out))


@pytest.mark.parametrize("held_out", ["dev", "test"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_training_names_every_entity_of_a_held_out_fact(held_out: Split, language: str) -> None:
    trained = {entity for fact in split_facts()["train"] if fact.has_names(language) for entity in fact.entities}
    held = {entity for fact in split_facts()[held_out] if fact.has_names(language) for entity in fact.entities}
    assert held <= trained


def test_no_pair_is_told_in_two_splits() -> None:
    places: dict[frozenset[Entity], set[Split]] = {}
    for split, told in split_facts().items():
        for fact in told:
            for claim in {frozenset((fact.subject, it)) for it in fact.objects} | fact.claims:
                places.setdefault(claim, set()).add(split)
    assert [claim for claim, splits in places.items() if len(splits) > 1] == []
    assert any(len(group) > 1 for group in groups_of(facts()))


def test_kinds_are_held_out_evenly() -> None:
    kinds = {fact.kind for fact in facts() if not fact.kind.endswith("_code")}
    assert {fact.kind for fact in split_facts()["test"]} == kinds
    assert {fact.kind for fact in split_facts()["dev"]} == kinds


def test_names_are_not_borrowed() -> None:
    assert entity_name(Entity("city", "Africa/Nairobi"), "de") == "Nairobi"
    assert entity_name(Entity("city", "Asia/Kolkata"), "zh") == "加尔各答"
    assert entity_name(Entity("city", "America/Lower_Princes"), "el") is None
    assert entity_name(Entity("language", "tcy"), "ru") is None
    assert entity_name(Entity("city", "Atlantic/Reykjavik"), "de") == "Reykjavík"


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_clean(language: str) -> None:
    question_mark, stop = _MARKS.get(language, "?"), _STOPS.get(language, ".")
    for row in _rows_in(language):
        for text in (row.question, row.passage):
            assert not re.search(r"[{}\u00ad\u00a0]|  | [.,;?!。，؟]|^\s|\s$", text), text
            assert not re.search(r"None|\b(?:[A-Z][a-z]+/[A-Z]|ZZ|XXX)\b", text), text
            first = next(letter for letter in text if letter.isalnum())
            assert first == first.upper() or first.lower() == first.upper(), text
        assert row.question.endswith(question_mark), row.question
        assert row.passage.endswith(stop), row.passage
        if language == "es":
            assert row.question.startswith("¿"), row.question
        if language == "th":
            assert row.question[-1] not in "?.", row.question


@pytest.mark.parametrize("language", ["ar", "el", "hi", "ru", "th", "zh"])
def test_latin_letters_appear_in_codes_only(language: str) -> None:
    for row in _rows_in(language):
        if "_code" not in row.passage_id:
            assert not re.search(r"[A-Za-z]", re.sub(r"\b(CFA|BEAC)\b", "", row.question + row.passage)), row


def test_templates_are_parallel() -> None:
    english = phrasebook("en").phrasings
    for language in LANGUAGES:
        phrasings = phrasebook(language).phrasings
        assert phrasings.keys() == english.keys() == {fact.kind for fact in facts()}
        for kind, phrasing in phrasings.items():
            assert len(phrasing.questions) == len(english[kind].questions)
            assert bool(phrasing.inverse) == bool(english[kind].inverse)
            assert len(phrasing.passages) == len(phrasing.many) >= 2


@pytest.mark.parametrize(
    ("item", "language", "question", "passage"),
    [
        (
            "currency/KE/q1",
            "en",
            "What is the currency of Kenya?",
            "In Kenya, people pay with the Kenyan shilling, which is legal tender there.",
        ),
        (
            "currency/KE/q1",
            "de",
            "Welche Währung gilt in Kenia?",
            "In Kenia bezahlt man mit der Währung „Kenia-Schilling“, die dort gesetzliches Zahlungsmittel ist.",
        ),
        (
            "currency/KE/q1",
            "ru",
            "Какая валюта используется в стране Кения?",
            "В стране Кения расплачиваются валютой «кенийский шиллинг», "
            "которая служит там законным платёжным средством.",
        ),
        ("currency/KE/q1", "zh", "肯尼亚的货币是什么？", "在肯尼亚，人们用肯尼亚先令付款，它是当地的法定货币。"),
        (
            "currency/KE/q4",
            "es",
            "¿En qué país la moneda oficial se llama «chelín keniano»?",
            "En Kenia se paga con la moneda llamada «chelín keniano», que es de curso legal en el país.",
        ),
        ("official/KE/q2", "tr", "Kenya ülkesinin resmî dilleri nelerdir?", None),
        ("home/sw/q3", "vi", "Quốc gia nào là quê hương chính của tiếng Swahili?", None),
        ("script/sw/q1", "el", "Με ποια γραφή γράφονται τα σουαχίλι;", None),
        ("city/Africa/Nairobi/q1", "ar", "في أي بلد تقع مدينة نيروبي؟", None),
        ("city_zone/Africa/Nairobi/q2", "hi", "नैरोबी शहर किस समय क्षेत्र में आता है?", None),
        ("week/KE/q2", "th", "วันแรกของสัปดาห์ในประเทศเคนยาคือวันอะไร", None),
        ("country_code/US/q1", "en", "What is the two-letter ISO 3166-1 code of the United States?", None),
    ],
)
def test_sentences_as_written_by_hand(item: str, language: str, question: str, passage: str | None) -> None:
    (row,) = (row for row in _rows_in(language) if row.item_id == item)
    assert row.question == question
    if passage is not None:
        assert row.passage == passage


def test_objects_are_joined_as_the_language_does() -> None:
    (kenya,) = (fact for fact in facts() if fact.key == "official/KE")
    told = {language: phrasebook(language).passage(kenya) for language in LANGUAGES}
    assert "Swahili and English" in told["en"]
    assert "Suaheli und Englisch" in told["de"]
    assert "el suajili y el inglés" in told["es"]
    assert "السواحلية والإنجليزية" in told["ar"]
    assert "斯瓦希里语和英语" in told["zh"]


def test_order_does_not_depend_on_the_process() -> None:
    code = (
        "import hashlib; from hbt_ray.data.sources.worldfacts import WorldfactsSource;"
        "rows = WorldfactsSource(split='test', languages=('en', 'th')).rows();"
        "print(hashlib.sha256(''.join(map(repr, rows)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_source() -> None:
    source: Source = WorldfactsSource(split="test", languages=("de", "zh"))
    assert (source.name, source.licence) == ("worldfacts", "Unicode-3.0")
    assert list(source.rows()) == [row for row in _rows("test") if row.language in ("de", "zh")]


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="no templates for fr"):
        WorldfactsSource.make({"languages": ["fr"]}, "test")
