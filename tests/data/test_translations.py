"""Translations: every rule against the items' languages, equal for any slice; what the data lacks is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.data.plan.auxiliary_translations import Side, TranslationRule, TranslationSampler, require_translations
from hbt_ray.data.plan.plan import Batch, Plan
from tests.data.test_plan import item_languages, make_plan
from tests.refused import refused

RULES = ("other", "pivot:en", "pivot:de", "exactly:en", "exactly:ru")
SIDES: tuple[Side, ...] = ("question", "passage")


def sampler(plan: Plan, side: Side, rule: str, seed: int = 0) -> TranslationSampler:
    return TranslationSampler(plan.datasets[0], plan.languages, side, TranslationRule.parse(rule), seed)


def sampled_languages(plan: Plan, batch: Batch, side: Side, rule: str, seed: int = 0) -> list[str]:
    """The languages of a batch's translations, empty for none."""
    sampled = sampler(plan, side, rule, seed)
    codes = sampled.sample(batch)
    assert codes.dtype == np.int16
    return [sampled.languages[code] if code >= 0 else "" for code in codes.tolist()]


def allowed(rule: str, own: str, item: int, in_use: tuple[str, ...]) -> set[str]:
    """The translations that a row may have by the rule; the empty one if it may have none."""
    kind, _, language = rule.partition(":")
    languages = set(item_languages(item))
    others = languages & set(in_use) - {own}
    if kind == "other":
        return others or {""}
    if kind == "pivot" and own == language:
        return others or {""}
    return {language} & languages or {""}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("in_use", [(), ("de", "ru", "tr"), ("en",)], ids="-".join)
@pytest.mark.parametrize("policy", ["mono", "hybrid", "mixed"])
def test_translations_are_what_their_rule_says(rule: str, side: Side, in_use: tuple[str, ...], policy: str) -> None:
    """Also of a language that the plan does not train on."""
    if in_use == ("en",) and policy == "hybrid":
        policy = "mono"  # A single language has no pairs.
    plan = make_plan(policy=policy, languages=in_use)
    for step in range(40):
        batch = plan.batch(step)
        own = batch.question_languages if side == "question" else batch.passage_languages
        for item, code, language in zip(
            batch.items.tolist(), own.tolist(), sampled_languages(plan, batch, side, rule), strict=True
        ):
            assert language in allowed(rule, plan.languages[code], item, plan.languages)


@given(step=st.integers(0, 10**7), world_size=st.integers(1, 30), seed=st.integers(0, 99), rule=st.sampled_from(RULES))
@settings(max_examples=60, deadline=None)
def test_slices_of_all_ranks_have_the_translations_of_the_whole(
    step: int, world_size: int, seed: int, rule: str
) -> None:
    """24 rows: uneven slices for most numbers of ranks, and some without a row."""
    whole = make_plan(seed=seed).batch(step)
    for side in SIDES:
        expected = sampler(make_plan(seed=seed), side, rule, seed).sample(whole)
        parts = [
            sampler(make_plan(seed=seed), side, rule, seed).sample(whole.slice(rank, world_size))
            for rank in range(world_size)
        ]
        assert np.array_equal(np.concatenate(parts), expected)


def test_draws_are_even_and_come_from_seed_step_side_and_item() -> None:
    plan = make_plan([(("de", "en", "ru", "tr"), 3_000)], policy="mono", batch_size=3_000)
    batch = plan.batch(0)
    sampled = sampled_languages(plan, batch, "question", "other")
    counts = Counter(sampled)
    assert set(counts) == {"de", "en", "ru", "tr"} - {batch.language}
    assert all(abs(count - 1_000) < 110 for count in counts.values())  # Four standard deviations of a fair draw.
    by_item = dict(zip(batch.items.tolist(), sampled, strict=True))
    later = next(other for other in map(plan.batch, range(1, 20)) if other.language == batch.language)
    others = {
        "step": [by_item[item] for item in later.items.tolist()],
        "side": sampled_languages(plan, batch, "passage", "other"),
        "seed": sampled_languages(plan, batch, "question", "other", seed=1),
    }
    for changed, fresh in zip(
        (sampled_languages(plan, later, "question", "other"), sampled, sampled), others.values(), strict=True
    ):
        agreement = np.mean([one == other for one, other in zip(changed, fresh, strict=True)])
        assert abs(agreement - 1 / 3) < 0.05  # As independent draws agree.
    pivoted = sampled_languages(plan, batch, "question", f"pivot:{batch.language}")
    assert pivoted == sampled  # Auxiliary texts of one side agree.


def test_items_in_one_language_have_no_other() -> None:
    plan = make_plan([(("en",), 50), (("de",), 30), (("de", "en"), 20)], policy="mixed", batch_size=100)
    batch = plan.batch(0)
    alone = batch.items < 80
    for rule, expected in (("other", ~alone), ("pivot:en", ~alone), ("exactly:de", batch.items >= 50)):
        for side in SIDES:
            assert np.array_equal(sampler(plan, side, rule).sample(batch) >= 0, expected)


def test_what_the_data_cannot_serve_is_said_before(caplog: pytest.LogCaptureFixture) -> None:
    alone = make_plan([(("en",), 50), (("de",), 30)], policy="mono")
    with refused("NO_TRANSLATIONS", "question_translations: other", "de, en"):
        require_translations(alone, "question_translations", "other")
    with refused("NO_TRANSLATIONS", "teacher_passages: pivot:en", "in another language too"):
        require_translations(alone, "teacher_passages", "pivot:en")
    with refused("NO_TRANSLATIONS", "texts in fr", "only de, en"):
        require_translations(alone, "question_translations", "pivot:fr")
    apart = make_plan([(("en",), 50)], [(("de", "ru"), 30)], policy="mono", languages=("de", "ru"))
    with refused("NO_TRANSLATIONS", "exactly:en", "exists in en"):
        require_translations(apart, "teacher_questions", "exactly:en")
    assert not caplog.text
    half = make_plan([(("de", "en"), 50), (("en",), 50)], policy="hybrid", batch_size=10)
    require_translations(half, "question_translations", "other")
    assert not caplog.text
    few = make_plan([(("de", "en"), 10), (("en",), 90)], policy="mixed", batch_size=10)
    require_translations(few, "question_translations", "other")
    assert "question_translations: other exists for only 10.0% of the items" in caplog.text
    require_translations(few, "teacher_passages", "exactly:de")
    assert "teacher_passages: exactly:de exists for only 10.0% of the items" in caplog.text
    caplog.clear()
    require_translations(few, "teacher_passages", "exactly:en")
    assert not caplog.text


@pytest.mark.parametrize("text", ["", "others", "pivot", "pivot:", "exactly", "other:en", "other:", ":en"])
def test_rules_that_make_no_sense_are_refused(text: str) -> None:
    with refused("TRANSLATION_RULE"):
        TranslationRule.parse(text)


@pytest.mark.parametrize("text", RULES)
def test_rules_are_written_as_they_are_read(text: str) -> None:
    assert str(TranslationRule.parse(text)) == text
