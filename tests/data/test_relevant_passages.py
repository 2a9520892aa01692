"""Right passages of a question are found by id and by text, in all items, languages and datasets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hbt_ray.console import Screen
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.prepare import StoreConfig, in_process, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.data.store.verify import verify
from hbt_ray.data.stream.loader import Loader, LoaderConfig
from hbt_ray.data.stream.tokenise import TokenisingConfig
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.train.loss.info_nce import info_nce

NAMES = ("dataset", "item_id", "language", "question", "passage", "question_id", "passage_id")
TINY = ModelConfig(layers=1, width=32, heads=2, vocabulary=300, max_question_length=16, max_passage_length=16)


def prepare_rows(folder: Path, rows: Sequence[tuple[str, ...]], name: str = "store", **more: Any) -> Store:
    """A store of rows, each as in `NAMES`; trailing columns may be missing and are empty."""
    path = folder / f"{name}.jsonl"
    records = [dict(zip(NAMES, (*row, "", ""), strict=False)) for row in rows]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    columns = {use: use for use in ("dataset", "question_id", "passage_id")}
    source = {"kind": "table", "name": "set", "path": str(path), "columns": columns}
    prepare(StoreConfig.make({"path": str(folder / name), "sources": [source], **more}, "test"))
    return Store(folder / name)


def relevant_items(store: Store) -> dict[str, set[str]]:
    """Item → the items whose passages answer its question."""
    ids, keys, lists = [], [], []
    for info in store.manifest.datasets:
        numbers = np.arange(info.num_items)
        ids += [store.item(info.name, number).item_id for number in numbers.tolist()]
        rights = store.positive_keys(info.name, numbers)
        assert rights.shape == (info.num_items, info.max_right)
        assert np.array_equal(rights[:, 0], store.passage_keys(info.name, numbers))
        keys += rights[:, 0].tolist()
        lists += rights.tolist()
    assert len(set(ids)) == len(ids)
    return {
        item: {ids[n] for n, key in enumerate(keys) if key in rights} for item, rights in zip(ids, lists, strict=True)
    }


def test_passages_are_equal_by_id_or_by_text(tmp_path: Path) -> None:
    store = prepare_rows(tmp_path, [
        ("set", "text1", "en", "q1", "One  text.", "", "p1"),
        ("set", "text2", "en", "q2", "one text.", "", "p2"),
        ("set", "text3", "en", "q3", "One text."),
        ("set", "id1", "de", "q4", "Ein Text", "", "p3"),
        ("set", "id2", "en", "q5", "A text", "", "p3"),
        ("set", "alone", "en", "q6", "Another text", "", "p4"),
        ("other", "same text elsewhere", "en", "q7", "ONE TEXT.", "", "p4"),
    ])  # fmt: skip
    texts, ids = {"text1", "text2", "text3", "same text elsewhere"}, {"id1", "id2"}
    assert relevant_items(store) == dict.fromkeys(texts, texts) | dict.fromkeys(ids, ids) | {"alone": {"alone"}}
    assert [info.max_right for info in store.manifest.datasets] == [1, 1]


def test_equal_passages_in_one_language_join_items_in_all_languages(tmp_path: Path) -> None:
    """German versions are equal, so the English versions are the same passage; and what equals those is too."""
    store = prepare_rows(tmp_path, [
        ("set", "a", "de", "qa de", "gleich", "", "p1"), ("set", "a", "en", "qa en", "first translation", "", "p1"),
        ("set", "b", "de", "qb de", "gleich", "", "p2"), ("set", "b", "en", "qb en", "second translation", "", "p2"),
        ("set", "c", "en", "qc en", "second translation", "", "p3"),
        ("set", "d", "en", "qd en", "third", "", "p4"),
    ])  # fmt: skip
    joined = {"a", "b", "c"}
    assert relevant_items(store) == {"a": joined, "b": joined, "c": joined, "d": {"d"}}


def test_questions_are_equal_by_id_or_by_text(tmp_path: Path) -> None:
    store = prepare_rows(tmp_path, [
        ("set", "1", "en", "Who?", "p1"), ("set", "2", "en", "who?", "p2"), ("set", "3", "en", "WHO? ", "p3"),
        ("set", "4", "de", "Wer?", "p4", "q1"), ("set", "5", "en", "Which person?", "p5", "q1"),
        ("set", "6", "en", "Which person?", "p1", "q2"),
        ("set", "7", "en", "Where?", "p7"),
        ("other", "8", "en", "Where?", "p8", "q1"),
    ])  # fmt: skip
    # Items 4 to 6 ask one question, which p1 answers too; so p1 is right for both of the questions.
    three, last = {"1", "2", "3", "6"}, {"4", "5", "6", "1"}
    expected = dict.fromkeys("123", three) | dict.fromkeys("456", last) | {item: {"7", "8"} for item in "78"}
    assert relevant_items(store) == expected
    assert {info.name: info.max_right for info in store.manifest.datasets} == {"set": 3, "other": 2}
    assert not verify(store.location).problems


def test_removed_duplicates_still_join_passages(tmp_path: Path) -> None:
    """The copy under p2 goes; that p1 and p2 are one passage stays known."""
    rows = [("set", "a", "en", "q", "text", "", "p1"), ("set", "b", "en", "q", "text", "", "p2"),
            ("set", "c", "de", "r", "anders", "", "p2")]  # fmt: skip
    store = prepare_rows(tmp_path, rows)
    (kept,) = relevant_items(store).keys() - {"c"}
    assert relevant_items(store) == {kept: {kept, "c"}, "c": {kept, "c"}}
    assert relevant_items(prepare_rows(tmp_path, rows, "all", deduplicate=False)) == {
        item: {"a", "b", "c"} for item in "abc"
    }


def test_all_right_passages_of_a_question_are_kept(tmp_path: Path) -> None:
    rows = [("set", f"q{q}/d{d}", "en", f"question {q}", f"passage {q} {d}") for q in range(5) for d in range(8)]
    store = prepare_rows(tmp_path, rows)
    assert store.manifest.num_items == 40
    assert relevant_items(store) == {item: {one[1] for one in rows if one[1][:2] == item[:2]} for _, item, *_ in rows}


@pytest.mark.parametrize("seed", range(4))
def test_right_passages_agree_with_a_plain_implementation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Over many buckets and shares as over one, and with lists that are made a few items at a time."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"set{item % 2}", f"i{item}", language, f"q {rng.integers(25)}", f"p {rng.integers(40)}",
         f"{rng.integers(60)}" if rng.random() < 0.5 else "", f"{rng.integers(60)}" if rng.random() < 0.5 else "")
        for item in range(50) for language in ("de", "en")[: 1 + item % 3 % 2]
    ]  # fmt: skip
    whole = prepare_rows(tmp_path, rows, "whole", deduplicate=False)
    monkeypatch.setattr("hbt_ray.data.prepare.config._BUCKET_BYTES", 512)
    monkeypatch.setattr("hbt_ray.data.prepare.pipeline._BUCKETS_PER_SHARE", 2)
    monkeypatch.setattr("hbt_ray.data.prepare.relevant_passages._ITEMS_AT_ONCE", 2)
    cut = prepare_rows(tmp_path, rows, "cut", deduplicate=False)
    assert cut.manifest.datasets == whole.manifest.datasets
    question, passage = (classes(rows, side) for side in (3, 4))
    items = dict.fromkeys(row[1] for row in rows)
    expected = {
        item: {one for one in items if any(question[k] == question[item] and passage[k] == passage[one] for k in items)}
        for item in items
    }
    assert relevant_items(whole) == expected
    assert max(map(len, expected.values())) > 5


def classes(rows: Sequence[tuple[str, ...]], side: int) -> dict[str, str]:
    """Item → name of its class, by repeated merging."""
    label = {row[1]: row[1] for row in rows}
    changed = True
    while changed:
        changed = False
        for a in rows:
            for b in rows:
                same_id = bool(a[side + 2]) and (a[0], a[side + 2]) == (b[0], b[side + 2])
                if (a[side] == b[side] or same_id) and label[a[1]] != label[b[1]]:
                    low, high = sorted((label[a[1]], label[b[1]]))
                    label = {item: low if name == high else name for item, name in label.items()}
                    changed = True
    return label


def test_a_question_with_too_many_right_passages_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hbt_ray.data.prepare.relevant_passages.MAX_RIGHT", 3)
    path = tmp_path / "t.jsonl"
    rows = [{"item_id": f"{n}", "language": "en", "question": "label" if n < 9 else f"q {n // 4}", "passage": f"p {n}"}
            for n in range(16)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"kind": "table", "name": "set", "path": str(path)}
    prepare(StoreConfig.make({"path": str(tmp_path / "s"), "sources": [source]}, "test"), in_process, Screen())
    store = Store(tmp_path / "s")
    (info,) = store.manifest.datasets
    assert info.max_right == 4
    lists = relevant_items(store)
    assert all(len(lists[f"{n}"]) == (4 if n < 9 else 3 if n < 12 else 4) for n in range(16))
    assert all(item in answers for item, answers in lists.items())
    assert "1 questions have more than 4 right passages" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("symmetric", [False, True])
def test_perfect_vectors_have_no_loss(tmp_path: Path, symmetric: bool) -> None:
    """Eight right passages a question, each under two ids, in one batch: with a vector a question all is learned."""
    rows = [
        ("set", f"{q}/{d}/{copy}", "en", f"question {q}{'?' * copy}", f"passage {q} {d}", f"q{q}", f"{q} {d} {copy}")
        for q in range(4) for d in range(8) for copy in range(2)
    ]  # fmt: skip
    store = prepare_rows(tmp_path, rows)
    tokenising = tokenising_config(build_encoder(TINY, store.sample_texts(("en",))), TINY)
    batch = Loader(LoaderConfig(store.location, PlanConfig(policy="mono", batch_size=64), tokenising)).rank_batch(
        0, 0, 1
    )
    topics = torch.tensor([int(store.item("set", item).item_id[0]) for item in batch.items.tolist()])
    vectors, positive_keys = torch.eye(4)[topics], torch.from_numpy(batch.positive_keys)
    assert info_nce(vectors, vectors, positive_keys, 0.05, (64,), symmetric=symmetric).item() < 1e-6
    # Known by their own passages alone, which stand under two ids, 14 of 15 others of a question would be negatives.
    assert info_nce(vectors, vectors, positive_keys[:, 0], 0.05, (64,)).item() == pytest.approx(np.log(15), abs=1e-4)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, TokenisingConfig]:
    """Twelve questions with four right passages each, in two languages; some passages answer two questions, and some
    stand under two ids."""
    folder = tmp_path_factory.mktemp("parallel")
    rows = [
        ("set", f"{q}/{d}", language, f"question {q} {language}", f"passage {(3 * q + d) % 36} {language}", f"q{q}",
         f"p{q % 2}/{(3 * q + d) % 36}")
        for q in range(12) for d in range(4) for language in ("de", "en")
    ]  # fmt: skip
    store = prepare_rows(folder, rows)
    return store, tokenising_config(build_encoder(TINY, store.sample_texts(("de", "en"))), TINY)


@pytest.mark.parametrize("policy", ["mono", "cross", "mixed"])
def test_a_batch_knows_the_right_passages_of_its_questions(
    parallel: tuple[Store, TokenisingConfig], policy: str
) -> None:
    """Whatever the languages, and on slices as on the whole."""
    store, tokenising = parallel
    loader = Loader(LoaderConfig(store.location, PlanConfig(policy=policy, batch_size=30), tokenising))
    for step in range(4):
        whole, parts = loader.rank_batch(step, 0, 1), [loader.rank_batch(step, rank, 4) for rank in range(4)]
        assert np.array_equal(np.concatenate([part.positive_keys for part in parts]), whole.positive_keys)
        assert whole.positive_keys.shape == (30, 4)
        assert np.array_equal(whole.positive_keys[:, 0], store.passage_keys("set", whole.items))
        pairs = [store.item("set", item).item_id.split("/") for item in whole.items.tolist()]
        questions, passages = (
            np.array(column) for column in zip(*((int(q), 3 * int(q) + int(d)) for q, d in pairs), strict=True)
        )
        answers = np.isin((passages[None, :] - 3 * questions[:, None]) % 36, range(4))
        known = (whole.positive_keys[:, :, None] == whole.positive_keys[:, 0]).any(1)
        assert np.array_equal(known, answers)
        assert answers.sum() > 60
