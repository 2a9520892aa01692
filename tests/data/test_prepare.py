"""`prepare` and `Store`: every valid row can be read back, invalid rows are reported, no other file is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.prepare import PrepareResult, StoreConfig, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.errors import ConfigError, SourceError, StoreError

ROWS = [
    {"item_id": f"i{n}", "language": language, "question": f"q{n} {language}", "passage": f"p{n // 2} {language}"}
    for n in range(20)
    for language in (("de", "en", "zh-Hant") if n % 4 else ("en", "pt-BR"))
]


def jsonl(path: Path, rows: list[dict[str, Any]] | str) -> Path:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def prepare_rows(tmp_path: Path, rows: list[dict[str, Any]] | str = ROWS, **settings: Any) -> PrepareResult:
    source = {"kind": "table", "name": "facts", "path": str(jsonl(tmp_path / "rows.jsonl", rows))}
    source |= settings.pop("source", {})
    return prepare(StoreConfig.make({"path": str(tmp_path / "store"), "sources": [source], **settings}, "test"))


def texts(path: Path) -> set[tuple[str, str, str]]:
    """Every (language, question, passage) that the plan can draw from a store."""
    store, found = Store(path), set()
    plan = Plan(store.manifest, PlanConfig(policy="mono", batch_size=7, dataset_exponent=0))
    for step in range(60):
        batch = plan.batch(step)
        read = store.texts(batch, plan.languages)
        found |= {(batch.language, *pair) for pair in zip(read.questions, read.passages, strict=True)}
    return found


def test_every_row_can_be_read_back(tmp_path: Path) -> None:
    prepared = prepare_rows(tmp_path, shard_items=6)
    assert (prepared.num_read, prepared.num_kept, sum(prepared.rejected.values())) == (len(ROWS), len(ROWS), 0)
    (info,) = prepared.manifest.datasets
    assert info.items_by_language == {"de": 15, "en": 20, "pt-BR": 5, "zh-Hant": 15}
    assert [shard.num_items for shard in info.shards] == [6, 6, 6, 2]
    assert texts(tmp_path / "store") == {(row["language"], row["question"], row["passage"]) for row in ROWS}


def test_languages_can_be_renamed(tmp_path: Path) -> None:
    prepared = prepare_rows(tmp_path, languages={"zh_hant": "zh", "PT-br": "pt"})
    assert prepared.manifest.datasets[0].items_by_language == {"de": 15, "en": 20, "pt": 5, "zh": 15}
    wanted = {"zh-Hant": "zh", "pt-BR": "pt"}
    given = {(wanted.get(row["language"], row["language"]), row["question"], row["passage"]) for row in ROWS}
    assert texts(tmp_path / "store") == given
    with pytest.raises(StoreError) as caught:
        prepare_rows(tmp_path)
    assert caught.value.code == "OTHER_STORE"
    with pytest.raises(ConfigError, match=r"languages\.de: .*german"):
        prepare_rows(tmp_path, languages={"de": "german"})


def test_a_language_that_is_not_a_tag_can_be_renamed(tmp_path: Path) -> None:
    names = {"de": "german", "en": "eng_Latn", "zh-Hant": "iw", "pt-BR": "nonsense"}
    rows = [{**row, "language": names[row["language"]]} for row in ROWS]
    prepared = prepare_rows(tmp_path, rows, languages={"german": "deu", "iw": "yi"}, max_rejected=1)
    assert prepared.manifest.datasets[0].items_by_language == {"de": 15, "en": 20, "yi": 15}
    assert prepared.rejected == {"language is no BCP-47 tag": 5}


def test_two_spellings_of_a_language_are_one(tmp_path: Path) -> None:
    rows = [{**row, "language": {"en": "eng_Latn"}.get(row["language"], row["language"])} for row in ROWS[::2]]
    prepared = prepare_rows(tmp_path, [*rows, *ROWS[1::2]])
    assert prepared.manifest.languages == ("de", "en", "pt-BR", "zh-Hant")
    assert prepared.num_kept == len(ROWS)


def test_cross_lingual_rows_join_versions_of_one_item(tmp_path: Path) -> None:
    prepare_rows(tmp_path)
    store = Store(tmp_path / "store")
    plan = Plan(store.manifest, PlanConfig(policy="cross", batch_size=20))
    answers = {(row["question"], row["item_id"]): row for row in ROWS}
    by_item = {(row["item_id"], row["language"]): row["passage"] for row in ROWS}
    for step in range(10):
        read = store.texts(plan.batch(step), plan.languages)
        for question, passage in zip(read.questions, read.passages, strict=True):
            item = next(item for text, item in answers if text == question)
            asked, found = question.split()[-1], passage.split()[-1]
            assert asked != found
            assert by_item[item, found] == passage


def test_items_with_equal_passages_share_a_key(tmp_path: Path) -> None:
    prepare_rows(tmp_path)
    store = Store(tmp_path / "store")
    plan = Plan(store.manifest, PlanConfig(policy="mono", batch_size=15, languages=("de",)))
    read = store.texts(plan.batch(0), plan.languages)
    passages = np.array(read.passages)
    equal = read.positive_keys[:, :1] == read.positive_keys[:, 0]
    assert np.array_equal(equal, passages[:, None] == passages)
    assert equal.sum() > len(passages)


def test_passage_ids_are_shared_over_languages(tmp_path: Path) -> None:
    rows = [{**row, "doc": f"d{int(row['item_id'][1:]) // 4}"} for row in ROWS]
    prepare_rows(tmp_path, rows, source={"columns": {"passage_id": "doc"}})
    store = Store(tmp_path / "store")
    read = store.texts(
        Plan(store.manifest, PlanConfig(policy="mono", batch_size=20, languages=("en",))).batch(0), ("en",)
    )
    documents = np.array([int(question.split()[0][1:]) // 4 for question in read.questions])
    assert np.array_equal(read.positive_keys[:, :1] == read.positive_keys[:, 0], documents[:, None] == documents)


def test_preparing_again_changes_nothing_and_another_store_is_not_replaced(tmp_path: Path) -> None:
    first = prepare_rows(tmp_path)
    manifest = (tmp_path / "store" / "manifest.json").read_bytes()
    again = prepare(StoreConfig.make(_config(tmp_path), "test"))
    assert again.already_existed
    assert again.manifest == first.manifest
    with pytest.raises(StoreError) as caught:
        prepare(StoreConfig.make({**_config(tmp_path), "seed": 1}, "test"))
    assert caught.value.code == "OTHER_STORE"
    assert (tmp_path / "store" / "manifest.json").read_bytes() == manifest


def test_the_same_sources_give_the_same_store(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert prepare_rows(tmp_path).manifest.checksum == prepare_rows(tmp_path / "other").manifest.checksum


def test_a_folder_that_is_not_a_store_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError) as caught:
        prepare_rows(tmp_path)
    assert caught.value.code == "NOT_A_STORE"
    assert (tmp_path / "store" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"language": "english"}, "language is no BCP-47 tag"),
        ({"language": "xx"}, "language is no BCP-47 tag"),
        ({"question": " \n"}, "question is empty"),
        ({"passage": ""}, "passage is empty"),
        ({"passage": None}, "passage is empty"),
        ({"item_id": ""}, "item id is empty"),
        ({"item_id": "i1", "language": "de"}, "item has this language already"),
    ],
)
def test_invalid_rows_are_reported_with_their_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    bad = {"item_id": "new", "language": "en", "question": "q", "passage": "p", **change}
    with pytest.raises(SourceError) as caught:
        prepare_rows(tmp_path, [*ROWS, bad])
    assert caught.value.code == "REJECTED_ROWS"
    assert f"rows.jsonl:56: {reason}" in str(caught.value)
    assert not (tmp_path / "store" / "manifest.json").exists()
    (record,) = [json.loads(line) for line in (tmp_path / "store" / "rejected.jsonl").read_text().splitlines()]
    assert record["reason"] == reason

    prepared = prepare_rows(tmp_path, [*ROWS, bad], max_rejected=0.1)
    assert prepared.num_read == prepared.num_kept + 1
    assert prepared.rejected == {reason: 1}
    assert reason in (tmp_path / "store" / "rejected.jsonl").read_text()


def test_parquet_with_other_column_names(tmp_path: Path) -> None:
    names = {"item_id": "id", "language": "lang", "passage": "context", "dataset": "origin"}
    rows = [
        {names.get(key, key): value for key, value in row.items()} | {"origin": f"o{n % 2}"}
        for n, row in enumerate(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = {"path": str(tmp_path / "rows.parquet"), "columns": names}
    prepared = prepare_rows(tmp_path, source=source)
    assert [info.name for info in prepared.manifest.datasets] == ["o0", "o1"]


def test_squad_files_are_joined_by_question_id(tmp_path: Path) -> None:
    files = {}
    for language in ("de", "en"):
        question = {"id": "1", "question": f"q {language}", "answers": []}
        tree = {"data": [{"title": "t", "paragraphs": [{"context": f"c {language}", "qas": [question]}]}]}
        (tmp_path / f"{language}.json").write_text(json.dumps(tree))
        files[language] = str(tmp_path / f"{language}.json")
    source = {"kind": "squad", "name": "squad", "files": files}
    prepared = prepare(StoreConfig.make({"path": str(tmp_path / "store"), "sources": [source]}, "test"))
    assert prepared.manifest.num_items == 1
    assert prepared.manifest.languages == ("de", "en")
    assert texts(tmp_path / "store") == {("de", "q de", "c de"), ("en", "q en", "c en")}


def test_a_missing_or_damaged_store_is_named(tmp_path: Path) -> None:
    prepare_rows(tmp_path)
    codes = []
    (tmp_path / "store" / "facts" / "00000.arrow").unlink()
    for path in (tmp_path / "store", tmp_path / "nowhere", tmp_path / "store"):
        with pytest.raises(StoreError) as caught:
            Store(path)
        codes.append(caught.value.code)
        (tmp_path / "store" / "manifest.json").write_text("{" if path.name == "nowhere" else "", encoding="utf-8")
    assert codes == ["MISSING_SHARD", "NO_STORE", "DAMAGED_MANIFEST"]


def test_bad_languages_in_the_configuration_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'deutsch' is no BCP-47"):
        StoreConfig.make({"path": "s", "sources": [{"kind": "squad", "name": "s", "files": {"deutsch": "x"}}]}, "test")


def test_real_squad_translations(tmp_path: Path, shared_data: Path) -> None:
    source = {
        "kind": "table",
        "name": "squad",
        "path": str(shared_data / "train" / "squad_parallel.parquet"),
        "columns": {"item_id": "id", "language": "lang", "passage": "context"},
    }
    prepared = prepare(StoreConfig.make({"path": str(tmp_path / "store"), "sources": [source]}, "test"))
    assert prepared.num_read == 38_917
    assert prepared.num_read == prepared.num_kept + prepared.rejected.total() + prepared.duplicates.total()
    assert prepared.duplicates == {"squad": 182}
    assert prepared.manifest.languages == ("en", "es", "pt", "pt-BR")
    assert prepared.manifest.num_items == 11_830


def _config(tmp_path: Path) -> dict[str, Any]:
    source = {"kind": "table", "name": "facts", "path": str(tmp_path / "rows.jsonl")}
    return {"path": str(tmp_path / "store"), "sources": [source]}


def test_items_that_overlap_with_evaluation_data_are_removed_in_all_languages(tmp_path: Path) -> None:
    held_out = [{"item_id": "x", "language": "en", "question": "Q3 EN?!", "passage": "another text"}]
    evaluation = {"kind": "table", "name": "test", "path": str(jsonl(tmp_path / "test.jsonl", held_out))}
    prepared = prepare_rows(tmp_path, decontaminate=[evaluation])
    assert prepared.overlapping == {"facts": 3}
    assert prepared.num_read == prepared.num_kept + 3
    (record,) = [json.loads(line) for line in (tmp_path / "store" / "removed.jsonl").read_text().splitlines()]
    assert (record["item_id"], record["language"], record["text"]) == ("i3", "en", "q3 en")
    assert not [question for _, question, _ in texts(tmp_path / "store") if question.startswith("q3 ")]
    everything = [{"item_id": str(n), "language": "en", "question": f"q{n} en", "passage": "p"} for n in range(20)]
    jsonl(tmp_path / "test.jsonl", everything)
    with pytest.raises(SourceError) as caught:
        prepare_rows(tmp_path, decontaminate=[evaluation], path=str(tmp_path / "nothing"))
    assert caught.value.code == "NO_ROWS"
