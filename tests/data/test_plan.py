"""The plan: the same global batches for any number of ranks and any resume point, and the shares that it promises."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.data.index.manifest import DatasetInfo, LanguageGroup, Manifest
from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Batch, Plan
from hbt_ray.errors import PlanMismatch
from tests.refused import refused

ELEVEN = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
GROUPS = [(ELEVEN, 500), (("de", "en"), 77), (("en",), 50), (("de", "ru", "tr"), 64)]


def manifest(*datasets: list[tuple[tuple[str, ...], int]]) -> Manifest:
    return Manifest(
        datasets=tuple(
            DatasetInfo(
                name=f"set{number}",
                groups=tuple(LanguageGroup(languages=languages, num_items=size) for languages, size in groups),
                shards=(),
            )
            for number, groups in enumerate(datasets)
        )
    )


def make_plan(*datasets: list[tuple[tuple[str, ...], int]], **settings: object) -> Plan:
    return Plan(manifest(*(datasets or (GROUPS,))), PlanConfig(**{"batch_size": 24, **settings}))


def item_languages(item: int, groups: list[tuple[tuple[str, ...], int]] = GROUPS) -> tuple[str, ...]:
    """The languages of an item."""
    for languages, size in groups:
        if item < size:
            return languages
        item -= size
    raise AssertionError("an item that does not exist")


def rows(batch: Batch) -> list[tuple[int, int, int]]:
    columns = (batch.items, batch.question_languages, batch.passage_languages)
    return list(zip(*(column.tolist() for column in columns), strict=True))


POLICIES = [
    {"policy": policy, "cross": cross, "language_exponent": exponent}
    for policy in ("mono", "cross", "hybrid", "mixed")
    for cross in ("rows", "pair")
    for exponent in (0.0, 0.7)
]


@pytest.mark.parametrize("settings", POLICIES, ids=lambda settings: "-".join(map(str, settings.values())))
def test_every_row_is_what_its_kind_promises(settings: dict[str, object]) -> None:
    plan = make_plan(**settings)
    for step in range(60):
        batch = plan.batch(step)
        assert len(batch.items) == 24
        for item, question, passage in rows(batch):
            assert {plan.languages[question], plan.languages[passage]} <= set(item_languages(item))
            assert (question == passage) == (batch.kind != "cross")
        if batch.kind == "mono":
            assert {plan.languages[code] for code in batch.question_languages} == {batch.language}
        if batch.kind == "cross" and settings["cross"] == "pair":
            assert len({row[1:] for row in rows(batch)}) == 1


@given(step=st.integers(0, 10**7), world_size=st.sampled_from([1, 2, 3, 4, 8, 5, 7]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_slices_of_all_ranks_are_the_global_batch(step: int, world_size: int, seed: int) -> None:
    whole = make_plan(seed=seed).batch(step)
    slices = [make_plan(seed=seed).batch(step).slice(rank, world_size) for rank in range(world_size)]
    assert [row for part in slices for row in rows(part)] == rows(whole)
    assert {(part.step, part.kind, part.language) for part in slices} == {(whole.step, whole.kind, whole.language)}
    assert max(len(part.items) for part in slices) - min(len(part.items) for part in slices) <= 1


@pytest.mark.parametrize("settings", POLICIES[::3], ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_resume_at_any_step_sees_the_rest(settings: dict[str, object]) -> None:
    undisturbed = [rows(make_plan(**settings).batch(step)) for step in range(30)]
    for start in range(30):
        resumed = make_plan(**settings)
        assert [rows(resumed.batch(step)) for step in range(start, 30)] == undisturbed[start:]


@given(alpha=st.floats(0, 1), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_share_of_monolingual_batches_is_off_by_less_than_one_in_every_prefix(alpha: float, seed: int) -> None:
    plan = make_plan(alpha=alpha, seed=seed, batch_size=2)
    num_mono = 0
    for step in range(200):
        num_mono += plan.batch(step).kind == "mono"
        assert abs(num_mono - alpha * (step + 1)) < 1


def test_languages_of_monolingual_batches_are_uniform_within_the_bound() -> None:
    plan = make_plan([(ELEVEN, 500), (("en",), 100_000)], policy="mono", batch_size=2)
    counts = Counter(plan.batch(step).language for step in range(1100))
    assert set(counts) == set(ELEVEN)
    assert max(abs(count - 100) for count in counts.values()) < 4


def test_language_exponent_favours_large_languages() -> None:
    plan = make_plan([(("de", "en"), 100), (("en",), 300)], policy="mono", batch_size=2, language_exponent=1.0)
    counts = Counter(plan.batch(step).language for step in range(500))
    assert abs(counts["en"] - 400) < 4


def test_datasets_are_drawn_by_size() -> None:
    sets = [(ELEVEN, 100)], [(ELEVEN, 300)], [(("en",), 600)]
    for exponent, shares in ((1.0, (0.1, 0.3, 0.6)), (0.0, (1 / 3,) * 3)):
        plan = make_plan(*sets, policy="mono", batch_size=2, dataset_exponent=exponent)
        counts = Counter(plan.batch(step).dataset for step in range(1000))
        assert all(abs(counts[f"set{number}"] - 1000 * share) < 4 for number, share in enumerate(shares))
    crossing = make_plan(*sets, policy="cross", batch_size=2)
    assert {crossing.batch(step).dataset for step in range(200)} == {"set0", "set1"}  # set2 has one language.


def test_rows_of_cross_batches_draw_all_ordered_pairs_alike() -> None:
    plan = make_plan([(ELEVEN, 5000)], policy="cross", batch_size=500)
    counts = Counter(row[1:] for step in range(44) for row in rows(plan.batch(step)))
    assert len(counts) == 110
    assert max(abs(count - 200) for count in counts.values()) < 5 * 200**0.5


@pytest.mark.parametrize("settings", [{"policy": "mono"}, {"policy": "cross"}, {"policy": "cross", "cross": "pair"}])
@pytest.mark.parametrize("run_length", [1, 4])
def test_every_item_comes_once_an_epoch_and_in_a_new_order(settings: dict[str, object], run_length: int) -> None:
    size = 62  # A batch of 5 does not divide it, so batches run over the end of an epoch.
    plan = make_plan([(("de", "en"), size)], batch_size=5, run_length=run_length, **settings)
    walks = defaultdict(list)
    for step in range(300):
        batch = plan.batch(step)
        walks[batch.language].extend(batch.items.tolist())
    for walk in walks.values():
        epochs = [tuple(walk[at : at + size]) for at in range(0, len(walk) - size, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) == len(epochs)


def test_runs_stay_together() -> None:
    plan = make_plan([(("de", "en"), 1000)], policy="mono", batch_size=16, run_length=8)
    items = plan.batch(0).items
    assert (np.diff(items) == 1).sum() >= 12  # Two runs of 8, cut at most once by the end of the data.


def test_shares_hold_for_a_billion_items_and_a_hundred_languages() -> None:
    languages = tuple(a + b for a in "abcdefghij" for b in "abcdefghij")
    plan = make_plan(*([[(languages, 18_000_000), (languages[:50], 2_000_000)]] * 50), batch_size=1024)
    batch = plan.batch(10**7)
    assert len(set(batch.items.tolist())) == 1024
    assert batch.items.max() < 20_000_000


def test_the_fingerprint_changes_with_everything_that_changes_batches() -> None:
    base = make_plan()
    others = [
        make_plan(seed=1),
        make_plan(alpha=0.4),
        make_plan(batch_size=12),
        make_plan(run_length=2),
        make_plan([(ELEVEN, 501)]),
    ]
    assert len({plan.fingerprint for plan in (base, *others)}) == 6
    assert make_plan().fingerprint == base.fingerprint
    base.require(make_plan().identity, 5)
    with pytest.raises(PlanMismatch) as caught:
        base.require(make_plan(alpha=0.4).identity, 5)
    assert (caught.value.saved, caught.value.current) == (0.4, 0.5)


def plan_in_stages(*stages: tuple[int, float], **settings: object) -> Plan:
    return make_plan(alpha={"stages": [{"from_step": step, "alpha": alpha} for step, alpha in stages]}, **settings)


def test_alpha_may_change_from_the_step_of_a_checkpoint_on() -> None:
    before, after = plan_in_stages((0, 0.3)), plan_in_stages((0, 0.3), (40, 0.9))
    after.require(before.identity, 40)
    for step in range(40):
        assert rows(after.batch(step)) == rows(before.batch(step))
    assert any(rows(after.batch(step)) != rows(before.batch(step)) for step in range(40, 80))
    with refused("PLAN_MISMATCH", "plan.alpha"):
        after.require(before.identity, 41)
    with refused("PLAN_MISMATCH", "plan.seed"):
        plan_in_stages((0, 0.3), (40, 0.9), seed=1).require(before.identity, 40)


def test_a_constant_alpha_is_a_stage() -> None:
    plan_in_stages((0, 0.5), (40, 0.9)).require(make_plan(alpha=0.5).identity, 40)
    assert all(
        rows(plan_in_stages((0, 0.5)).batch(step)) == rows(make_plan(alpha=0.5).batch(step)) for step in range(40)
    )


def test_what_the_data_cannot_serve_is_refused() -> None:
    with refused("PLAN_POLICY", "at least two languages"):
        make_plan([(("en",), 100)], policy="cross")
    with refused("PLAN_POLICY", "at least two languages"):
        make_plan([(("en",), 100)], policy="hybrid")
    make_plan([(("en",), 100)], policy="hybrid", alpha=1.0)
    with refused("PLAN_UNKNOWN_NAME", "names fr"):
        make_plan(languages=("de", "fr"))


def test_languages_can_be_left_out() -> None:
    plan = make_plan(languages=("de", "ru"), policy="hybrid")
    assert plan.languages == ("de", "ru")
    assert {code for step in range(20) for row in rows(plan.batch(step)) for code in row[1:]} == {0, 1}


def test_small_streams_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    groups, settings = [(("de", "en"), 10), (("de", "ru"), 30)], {"languages": ("de", "en", "ru"), "batch_size": 24}
    make_plan(groups, **settings)
    assert "1 of 3 mono streams have fewer items than batch_size=24, so items repeat in a batch: en 10;" in caplog.text
    assert "cross streams" not in caplog.text
    make_plan(groups, **settings, policy="cross", cross="pair")
    assert "2 of 4 cross streams have fewer items than batch_size=24" in caplog.text
    assert "de-en 10, en-de 10;" in caplog.text


def test_policies_have_names() -> None:
    assert [str(PlanConfig(policy=policy, alpha=0.25)) for policy in ("mono", "cross", "hybrid", "mixed")] == [
        "mono",
        "cross",
        "hybrid(0.25)",
        "mixed",
    ]


def test_alpha_may_move_over_the_steps() -> None:
    moving = make_plan(alpha={"start": 1.0, "end": 0.0, "steps": 100}, batch_size=2)
    kinds = [moving.batch(step).kind for step in range(200)]
    assert 49 <= kinds[:100].count("mono") <= 51
    assert kinds[:25].count("mono") > 20
    assert set(kinds[100:]) == {"cross"}
    assert str(moving.config) == "hybrid(1 to 0)"
    with refused("PLAN_POLICY", "at least two languages"):
        make_plan([(("en",), 100)], alpha={"start": 1.0, "end": 0.5, "steps": 100})


def test_datasets_can_be_weighted_and_left_out() -> None:
    sets = [(ELEVEN, 100)], [(ELEVEN, 100)], [(ELEVEN, 100)]
    plan = make_plan(*sets, policy="mono", batch_size=2, dataset_weights={"set0": 3.0, "set2": 0})
    counts = Counter(plan.batch(step).dataset for step in range(400))
    assert set(counts) == {"set0", "set1"}
    assert abs(counts["set0"] - 300) < 4
    with refused("PLAN_UNKNOWN_NAME", "dataset_weights names sett"):
        make_plan(*sets, dataset_weights={"sett": 1.0})


@pytest.mark.parametrize(("run_length", "factor"), [(1, 1.0), (16, 1 + (2 / 3) * 15 / (64 * 63 / 4095))])
def test_items_that_met_meet_again_as_in_an_ideal_shuffle(run_length: int, factor: float) -> None:
    """Chance (B - 1) / (N - 1) without runs; with runs, of 15 neighbours two thirds stay, as runs begin elsewhere."""
    size, num_items, met, pairs = 64, 4096, 0, 0
    manifest = Manifest(
        datasets=(DatasetInfo(name="d", groups=(LanguageGroup(languages=("de",), num_items=num_items),), shards=()),)
    )
    for seed in range(40):
        plan = Plan(manifest, PlanConfig(policy="mono", batch_size=size, run_length=run_length, seed=seed))
        later = np.empty(num_items, np.int64)
        for number in range(num_items // size):
            later[plan.batch(num_items // size + number).items] = number
        for number in range(num_items // size):
            counts = np.bincount(later[plan.batch(number).items])
            met += int((counts * (counts - 1)).sum())
            pairs += size * (size - 1)
    ideal = (size - 1) / (num_items - 1)
    assert met / pairs == pytest.approx(factor * ideal, rel=0.03 if run_length == 1 else 0.15)
