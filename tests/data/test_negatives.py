"""Mined negatives: what is written comes back, damage and other stores are refused; and how the plan samples them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.data.index.manifest import Manifest
from hbt_ray.data.index.negatives import Negatives, TeacherScores, require_scores
from hbt_ray.data.index.permutation import Indices
from hbt_ray.data.plan.batch_kinds import NegativeSampler
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Batch, Plan
from hbt_ray.storage import write_checked_json
from tests.data.test_plan import ELEVEN, GROUPS, POLICIES, item_languages, make_plan, manifest, rows
from tests.refused import refused
from tests.small_data import write_negatives

KEEP = 6


def random_negatives(num_items: int, keep: int = KEEP, seed: int = 0) -> Indices:
    """Distinct other items, then -1: from none at all to `keep`."""
    rng = np.random.default_rng(seed)
    found = np.full((num_items, keep), -1, dtype=np.int64)
    for item in range(num_items):
        count = rng.integers(0, keep + 1)
        others = rng.choice(num_items - 1, count, replace=False)
        found[item, :count] = others + (others >= item)
    return found


@pytest.fixture(scope="module")
def store() -> Manifest:
    return manifest(GROUPS, [(("de", "en"), 40)])


@pytest.fixture(scope="module")
def mined(store: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Negatives:
    folder = tmp_path_factory.mktemp("negatives") / "mined"
    write_negatives(folder, store, {"set0": random_negatives(691), "set1": random_negatives(40)})
    return Negatives.open(folder, store)


def plan_with_negatives(store: Manifest, mined: Negatives, per_row: int = 2, **settings: object) -> Plan:
    return Plan(store, PlanConfig(**{"batch_size": 24, "negatives": per_row, **settings}), mined)


def full_rows(batch: Batch) -> list[tuple[tuple[int, int, int], list[int]]]:
    return list(zip(rows(batch), batch.negatives.tolist(), strict=True))


def test_what_was_written_comes_back(mined: Negatives) -> None:
    for name, num_items in (("set0", 691), ("set1", 40)):
        found = mined.table(name)
        assert found is not None
        assert found.dtype == np.int64
        assert np.array_equal(found, random_negatives(num_items))
    assert mined.table("set2") is None


def test_other_stores_and_damage_are_refused(store: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "mined"
    write_negatives(folder, store, {"set1": random_negatives(40)})
    with refused("NEGATIVES_OF_OTHER_STORE"):
        Negatives.open(folder, manifest(GROUPS))
    with refused("NO_NEGATIVES", "hbt mine STORE MODEL"):
        Negatives.open(tmp_path, store)
    file = folder / "set1.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0", 1))
    with refused("DAMAGED_FILE", "set1.arrow"):
        Negatives.open(folder, store)
    file.write_bytes(whole[: len(whole) // 2])
    with refused("DAMAGED_FILE", "set1.arrow"):
        Negatives.open(folder, store)
    file.unlink()
    with refused("DAMAGED_FILE", "set1.arrow"):
        Negatives.open(folder, store)
    write_negatives(folder, store, {"set1": random_negatives(39)})
    with refused("DAMAGED_FILE", "234 numbers for 40 items with 6 negatives each"):
        Negatives.open(folder, store)
    manifest_path = folder / "negatives.json"
    write_checked_json(manifest_path, json.loads(manifest_path.read_text().replace('"name": "set1"', '"name": "set9"')))
    with refused("DAMAGED_FILE", "negatives.json", "the store has no dataset 'set9'"):
        Negatives.open(folder, store)
    for text in ("{}", "[", '{"version": 1}'):
        manifest_path.write_text(text)
        with refused("DAMAGED_FILE", "negatives.json"):
            Negatives.open(folder, store)


def random_scores(table: Indices, seed: int = 0) -> TeacherScores:
    """NaN where there is no negative, and for every seventh item."""
    rng = np.random.default_rng(seed)
    positive, negatives = rng.random(len(table), np.float32), rng.random(table.shape, np.float32)
    positive[::7], negatives[::7], negatives[table < 0] = np.nan, np.nan, np.nan
    return TeacherScores(positive, negatives)


@given(step=st.integers(0, 10**6), world_size=st.integers(1, 7), per_row=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_scores_are_those_of_the_sampled_negatives(
    store: Manifest, tmp_path_factory: pytest.TempPathFactory, step: int, world_size: int, per_row: int
) -> None:
    tables = {"set0": random_negatives(691), "set1": random_negatives(40)}
    scored = {name: random_scores(table) for name, table in tables.items()}
    folder = tmp_path_factory.getbasetemp() / "scored"
    if not folder.exists():
        write_negatives(folder, store, tables, scored)
    mined = require_scores(Negatives.open(folder, store))
    whole = plan_with_negatives(store, mined, per_row).batch(step)
    table, teacher = tables[whole.dataset], scored[whole.dataset]
    expected = [
        [teacher.positive[item]]
        + [teacher.negatives[item, table[item].tolist().index(pick)] if pick >= 0 else np.nan for pick in sampled]
        for (item, _, _), sampled in full_rows(whole)
    ]
    slices = [whole.slice(rank, world_size) for rank in range(world_size)]
    found = [mined.scores(part.dataset, part.items, part.negatives) for part in slices]
    assert found[0].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(found), np.array(expected, np.float32))


def test_folders_without_scores_are_refused_where_scores_are_asked_for(store: Manifest, tmp_path: Path) -> None:
    tables = {"set0": random_negatives(691), "set1": random_negatives(40)}
    write_negatives(tmp_path / "mined", store, tables, {"set1": random_scores(tables["set1"])})
    mined = Negatives.open(tmp_path / "mined", store)
    with refused("NO_TEACHER_SCORES", "mined: holds no scores for set0"):
        require_scores(mined)
    assert np.isnan(mined.scores("set0", np.arange(5), tables["set0"][:5])).all()
    with refused("NO_TEACHER_SCORES"):
        require_scores(None)
    write_negatives(tmp_path / "short", store, {"set1": tables["set1"]}, {"set1": random_scores(tables["set1"][:, :2])})
    with refused("DAMAGED_FILE", "set1.arrow", "[40, 80] scores instead of [40, 240]"):
        Negatives.open(tmp_path / "short", store)


def test_folders_of_the_layout_before_scores_are_refused(store: Manifest, tmp_path: Path) -> None:
    manifest_path = write_negatives(tmp_path / "mined", store, {"set1": random_negatives(40)}) / "negatives.json"
    old = json.loads(manifest_path.read_text())
    assert old.pop("teacher") == ""
    write_checked_json(manifest_path, {**old, "version": 1})
    with refused("LAYOUT_VERSION", "layout version 1, this hbt_ray reads 3"):
        Negatives.open(tmp_path / "mined", store)


@pytest.mark.parametrize("settings", POLICIES[::2], ids=lambda settings: "-".join(map(str, settings.values())))
def test_sampled_negatives_are_mined_for_the_item_and_exist_in_the_language_of_its_passage(
    store: Manifest, mined: Negatives, settings: dict[str, object]
) -> None:
    plan, plain = (
        plan_with_negatives(store, mined, per_row=3, **settings),
        make_plan(GROUPS, [(("de", "en"), 40)], **settings),
    )
    for step in range(40):
        batch = plan.batch(step)
        assert rows(batch) == rows(plain.batch(step))
        table = mined.table(batch.dataset)
        assert table is not None
        groups = GROUPS if batch.dataset == "set0" else [(("de", "en"), 40)]
        for (item, _, passage), sampled in full_rows(batch):
            language = plan.languages[passage]
            eligible = [n for n in table[item].tolist() if n >= 0 and language in item_languages(n, groups)]
            assert len([n for n in sampled if n >= 0]) == len(set(sampled) & set(eligible)) == min(3, len(eligible))
            assert sampled == sorted(sampled, key=lambda n: n < 0)  # -1 only at the end.


@given(step=st.integers(0, 10**7), world_size=st.integers(1, 8), per_row=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_slices_of_all_ranks_are_the_global_batch(
    store: Manifest, mined: Negatives, step: int, world_size: int, per_row: int, seed: int
) -> None:
    whole = plan_with_negatives(store, mined, per_row, seed=seed).batch(step)
    assert whole.negatives.shape == (24, per_row)
    slices = [
        plan_with_negatives(store, mined, per_row, seed=seed).batch(step).slice(rank, world_size)
        for rank in range(world_size)
    ]
    assert [row for part in slices for row in full_rows(part)] == full_rows(whole)


def test_a_resume_at_any_step_sees_the_rest(store: Manifest, mined: Negatives) -> None:
    undisturbed = [full_rows(plan_with_negatives(store, mined).batch(step)) for step in range(20)]
    for start in range(20):
        resumed = plan_with_negatives(store, mined)
        assert [full_rows(resumed.batch(step)) for step in range(start, 20)] == undisturbed[start:]


@pytest.mark.parametrize("per_row", [1, 2, 4, 9])
@pytest.mark.parametrize("settings", [{"policy": "mono"}, {"policy": "cross"}, {"policy": "cross", "cross": "pair"}])
def test_epochs_go_round_all_negatives_of_an_item(tmp_path: Path, per_row: int, settings: dict[str, object]) -> None:
    size = 30
    store = manifest([(("de", "en"), size)])
    table = random_negatives(size)
    write_negatives(tmp_path / "mined", store, {"set0": table})
    plan = Plan(
        store, PlanConfig(batch_size=5, negatives=per_row, **settings), Negatives.open(tmp_path / "mined", store)
    )
    seen: defaultdict[tuple[str, int], list[list[int]]] = defaultdict(list)
    for step in range(24 * size // 5):
        batch = plan.batch(step)
        for (item, _, _), sampled in full_rows(batch):
            seen[batch.language, item].append([number for number in sampled if number >= 0])
    starts = set()
    for (_, item), epochs in seen.items():
        ring = [number for number in table[item].tolist() if number >= 0]
        starts.add(ring.index(epochs[0][0]) if ring else -1)
        for first in range(len(epochs)):
            # So many epochs in a row, from any one on, show every negative, and none twice before all were seen.
            turn = [number for epoch in epochs[first : first + -(-len(ring) // per_row)] for number in epoch]
            if first + -(-len(ring) // per_row) <= len(epochs):
                assert set(turn) == set(ring)
                assert len(set(turn[: len(ring)])) == len(ring)
    assert len(starts) > 3


def test_batches_without_negatives_are_those_from_before_there_were_any() -> None:
    digest = hashlib.sha256()
    for settings_ in POLICIES:
        for run_length in (1, 4):
            plan = make_plan(GROUPS, [(("de", "en"), 40)], run_length=run_length, **settings_)
            for step in [*range(30), 10**6]:
                batch = plan.batch(step)
                assert batch.negatives.shape == (24, 0)
                digest.update(repr((batch.step, batch.kind, batch.dataset, batch.language)).encode())
                for column in (batch.items, batch.question_languages, batch.passage_languages):
                    digest.update(column.tobytes())
    assert digest.hexdigest()[:16] == "9012aa6b682e344e"
    assert make_plan().fingerprint == "6d2fc785fc35871f"


def test_other_negatives_are_another_plan(store: Manifest, mined: Negatives, tmp_path: Path) -> None:
    plan = plan_with_negatives(store, mined)
    plan.require(plan_with_negatives(store, mined).identity, 5)
    write_negatives(tmp_path / "other", store, {"set0": random_negatives(691, seed=1)})
    other = plan_with_negatives(store, Negatives.open(tmp_path / "other", store))
    with refused("PLAN_MISMATCH", "plan.negatives_data="):
        plan.require(other.identity, 5)
    with refused("PLAN_MISMATCH", "plan.negatives=2, this run has 3"):
        plan_with_negatives(store, mined, 3).require(plan.identity, 5)
    without = Plan(store, PlanConfig(batch_size=24))
    with refused("PLAN_MISMATCH", "plan.negatives=0, this run has 2"):
        plan.require(without.identity, 5)
    with refused("PLAN_MISMATCH", "plan.negatives=2, this run has 0"):
        without.require(plan.identity, 5)
    without.require({**without.identity, "negatives": 0}, 5)


def test_settings_that_contradict_the_folder_are_refused(
    store: Manifest, mined: Negatives, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with refused("PLAN_NEGATIVES", "plan.negatives=2"):
        Plan(store, PlanConfig(negatives=2))
    with refused("PLAN_NEGATIVES", "while plan.negatives is 0"):
        Plan(store, PlanConfig(), mined)
    write_negatives(tmp_path / "part", store, {"set1": random_negatives(40)})
    part = Negatives.open(tmp_path / "part", store)
    with refused("PLAN_NEGATIVES", "(set0)"):
        plan_with_negatives(store, part, dataset_weights={"set1": 0})
    plan = plan_with_negatives(store, part)
    assert "no negatives were mined for set0" in caplog.text
    for batch in map(plan.batch, range(30)):
        assert (batch.negatives >= 0).any() == (batch.dataset == "set1")


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_items_exist_in_the_languages_of_their_groups(data: st.DataObject) -> None:
    from hbt_ray.data.index.language_index import LanguageIndex

    sizes = data.draw(st.lists(st.sampled_from([0, 1, 2, 7, 100, 40_000]), min_size=1, max_size=12).filter(any))
    groups = [(ELEVEN[: 1 + number % 5], size) for number, size in enumerate(sizes)]
    index = LanguageIndex(manifest(groups).datasets[0], ELEVEN, 0.0)
    rng = np.random.default_rng(1)
    items = rng.integers(-1, sum(sizes), (200, 3))
    codes = rng.integers(0, len(ELEVEN), 200).astype(np.int16)
    expected = [
        [n >= 0 and ELEVEN[code] in item_languages(n, groups) for n in row]
        for row, code in zip(items.tolist(), codes, strict=True)
    ]
    assert index.exist_in(items, codes).tolist() == expected
    assert index.exist_in(items, np.zeros_like(codes)).tolist() == (items >= 0).tolist()


def test_sampling_starts_from_a_position_that_item_and_stream_decide(store: Manifest) -> None:
    from hbt_ray.data.index.language_index import LanguageIndex
    from hbt_ray.data.plan.batch_kinds import BatchRows

    table = np.arange(1, 41).repeat(8).reshape(40, 8) % 40
    table = (table + np.arange(8)) % 40
    sampler = NegativeSampler(table, LanguageIndex(store.datasets[1], ("de", "en"), 0.0), 3, seed=0)
    items, codes = np.arange(40), np.zeros(40, np.int16)
    first = sampler.sample(BatchRows(items, codes, codes, np.zeros(40, np.int64)), "mono")
    second = sampler.sample(BatchRows(items, codes, codes, np.ones(40, np.int64)), "mono")
    start = np.argmax(table == first[:, :1], axis=1)
    for turn in range(3):
        assert np.array_equal(first[:, turn], table[items, (start + turn) % 8])
        assert np.array_equal(second[:, turn], table[items, (start + 3 + turn) % 8])
    assert not np.array_equal(sampler.sample(BatchRows(items, codes, codes, np.zeros(40, np.int64)), "cross"), first)
