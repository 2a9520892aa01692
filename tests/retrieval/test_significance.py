from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from hbt_ray.errors import TaskError
from hbt_ray.retrieval.significance import ROW_KEYS, Difference, compare_systems, item_ids, paired_effect, sign_flip_p

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
NUM_PAIRS = 200
Row = tuple[str, str, str, str, float | None]


def table(rows: Iterable[Row], measure: str = "AP") -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table(dict(zip((*ROW_KEYS, measure), columns, strict=True)))


def pooled(values: np.ndarray, languages: Sequence[str] = LANGUAGES) -> pa.Table:
    """Values [items, languages] as the rows of the multilingual setting."""
    return table(
        ("multilingual", language, "", f"{language}_{item}", float(value))
        for row, language in zip(values.T, languages, strict=True)
        for item, value in enumerate(row)
    )


def alike(rng: np.random.Generator, num_items: int, num_languages: int) -> tuple[np.ndarray, np.ndarray]:
    """Two systems of equal worth: what one makes of an item, it makes of all its translations, but for some noise."""
    of_item = rng.normal(0.5, 0.2, (2, num_items, 1))
    a, b = of_item + rng.normal(0.0, 0.05, (2, num_items, num_languages))
    return a, b


def test_systems_that_do_not_differ_are_told_apart_at_the_level_only() -> None:
    """At 0.05 in 200 comparisons, 2 to 21 false alarms are what 99.9 % of all such experiments give."""
    rng = np.random.default_rng(0)
    overall, any_language, by_row = 0, 0, 0
    for seed in range(NUM_PAIRS):
        a, b = alike(rng, num_items=30, num_languages=3)
        found = compare_systems(*(pooled(x, ("de", "en", "th")) for x in (a, b)), "AP", seed=seed, resamples=199)
        assert [d.language for d in found] == ["", "de", "en", "th"]
        overall += found[0].p <= 0.05
        any_language += min(d.p_holm for d in found[1:]) <= 0.05
        by_row += sign_flip_p((a - b).ravel(), resamples=199, seed=seed) <= 0.05
    least, most = stats.binom.interval(0.999, NUM_PAIRS, 0.05)
    assert (least, most) == (2, 21)
    assert least <= overall <= most
    assert any_language <= most  # Holm holds the family of languages, however they depend on one another.
    assert by_row > 2 * most  # Rows taken as independent would be wrong about four times as often.


def test_intervals_hold_the_true_difference_also_where_items_have_few_languages() -> None:
    """Items in two to four of five languages, as in MLQA-R; the difference is 0.2 in each language."""
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(NUM_PAIRS):
        a, b = alike(rng, num_items=60, num_languages=5)
        asked = np.argsort(np.argsort(rng.random((60, 5)))) < rng.integers(2, 5, (60, 1))
        rows = [
            [
                ("multilingual", language, "", f"{language}_{item}", float(values[item, column]))
                for column, language in enumerate(LANGUAGES[:5])
                for item in np.flatnonzero(asked[:, column])
            ]
            for values in (a + 0.2, b)
        ]
        overall = compare_systems(table(rows[0]), table(rows[1]), "AP", seed=seed, resamples=199)[0]
        held += overall.low <= 0.2 <= overall.high
    least, most = stats.binom.interval(0.999, NUM_PAIRS, 0.95)
    assert least <= held <= most


def test_a_planted_difference_is_found_where_it_is() -> None:
    rng = np.random.default_rng(2)
    a, b = alike(rng, num_items=300, num_languages=len(LANGUAGES))
    b = a + rng.normal(0.0, 0.1, a.shape)
    b[:, LANGUAGES.index("th")] -= 0.05
    overall, *single = compare_systems(pooled(a), pooled(b), "AP", resamples=4999)
    by_language = {d.language: d for d in single}
    thai = by_language["th"]
    assert thai.p_holm <= 0.05
    assert thai.low < 0.05 < thai.high
    assert thai.difference == pytest.approx((a - b)[:, LANGUAGES.index("th")].mean())
    assert thai.effect == pytest.approx(paired_effect((a - b)[:, LANGUAGES.index("th")]))
    assert [d.language for d in single if d.p_holm <= 0.05] == ["th"]
    assert overall.num_items == thai.num_items == 300
    assert (overall.num_rows, thai.num_rows) == (3300, 300)


def test_figures_are_macro_averages_and_the_test_flips_whole_items() -> None:
    """Item 1 in two languages, item 2 in one: German means 0.6 and 0.2, English 0.8 and 0.4, every mean counts half."""
    a = [("de", "1", 0.9), ("de", "2", 0.3), ("en", "1", 0.8)]
    b = [("de", "1", 0.1), ("de", "2", 0.3), ("en", "1", 0.4)]
    tables = [table(("multilingual", g, "", f"{g}_{i}", v) for g, i, v in rows) for rows in (a, b)]
    overall, german, english = compare_systems(*tables, "AP", resamples=100)
    assert (overall.mean_a, overall.mean_b, overall.difference) == pytest.approx((0.7, 0.3, 0.4))
    assert (german.mean_a, german.mean_b, german.difference) == pytest.approx((0.6, 0.2, 0.4))
    # The items' parts are 0.8/4 + 0.4/2 and 0: two of four flips change the sum's sign, none its size.
    assert (overall.num_items, overall.num_rows, overall.p) == (2, 3, 1.0)
    assert (english.num_items, english.p) == (1, 1.0)


def test_parallel_items_have_the_p_of_their_means() -> None:
    rng = np.random.default_rng(3)
    a, b = alike(rng, num_items=12, num_languages=4)
    overall = compare_systems(pooled(a, LANGUAGES[:4]), pooled(b, LANGUAGES[:4]), "AP", resamples=5000)[0]
    means = (a - b).mean(axis=1)
    theirs = stats.permutation_test((means,), np.mean, permutation_type="samples", n_resamples=5000)
    assert overall.p == pytest.approx(theirs.pvalue)  # 2^12 flips: both enumerate
    assert overall.effect == pytest.approx(means.mean() / means.std(ddof=1))


def test_settings_and_languages_are_families_of_their_own() -> None:
    rng = np.random.default_rng(4)
    pairs = [("monolingual", g, g) for g in ("de", "en")]
    pairs += [("cross-lingual", "de", "en"), ("cross-lingual", "en", "de"), ("cross-lingual", "en", "fr")]
    pairs += [("multilingual", g, "") for g in ("de", "en", "fr")]
    tables = [
        table((s, g, p, f"{g}_{i}", float(rng.normal(shift))) for s, g, p in pairs for i in range(40))
        for shift in (0.5, 0.0)
    ]
    found = compare_systems(*tables, "AP", resamples=999)
    names = [(d.setting, d.language) for d in found]
    assert names == [
        ("cross-lingual", ""), ("cross-lingual", "de"), ("cross-lingual", "en"),
        ("monolingual", ""), ("monolingual", "de"), ("monolingual", "en"),
        ("multilingual", ""), ("multilingual", "de"), ("multilingual", "en"), ("multilingual", "fr"),
    ]  # fmt: skip
    macro = [d for d in found if not d.language]
    assert min(d.p_holm for d in macro) == pytest.approx(3 * min(d.p for d in macro))
    pool = [d for d in found if d.setting == "multilingual" and d.language]
    assert min(d.p_holm for d in pool) == pytest.approx(3 * min(d.p for d in pool))
    english = found[names.index(("cross-lingual", "en"))]
    assert (english.num_items, english.num_rows) == (40, 80)


def test_the_order_of_rows_does_not_matter_and_signs_turn_with_the_systems() -> None:
    rng = np.random.default_rng(5)
    a, b = (pooled(x, LANGUAGES[:3]) for x in alike(rng, 50, 3))
    shuffled = b.take(pa.array(rng.permutation(b.num_rows)))
    there = compare_systems(a, b, "AP", resamples=500, seed=1)
    assert compare_systems(a, shuffled, "AP", resamples=500, seed=1) == there
    back = compare_systems(b, a, "AP", resamples=500, seed=1)
    for one, other in zip(there, back, strict=True):
        assert (one.difference, one.effect, one.p) == pytest.approx((-other.difference, -other.effect, other.p))


def test_settings_without_the_measure_are_left_out() -> None:
    rows = [("multilingual", "de", "", "de_1", 3.0), ("monolingual", "de", "de", "de_1", None)]
    found = compare_systems(table(rows, "RankDistance"), table(rows, "RankDistance"), "RankDistance", resamples=10)
    assert [(d.setting, d.language, d.difference, d.p) for d in found] == [
        ("multilingual", "", 0.0, 1.0),
        ("multilingual", "de", 0.0, 1.0),
    ]
    assert isinstance(found[0], Difference)


def test_tables_that_cannot_be_compared_are_refused() -> None:
    rows: list[Row] = [("multilingual", "de", "", f"de_{i}", 0.5) for i in range(4)]
    whole = table(rows)
    with pytest.raises(TaskError) as error:
        compare_systems(whole, table(rows[:3]), "AP")
    assert error.value.code == "OTHER_QUERIES"
    with pytest.raises(TaskError) as error:
        compare_systems(whole, table([*rows, rows[0]]), "AP")
    assert error.value.code == "INVALID_TABLE"
    with pytest.raises(TaskError) as error:
        compare_systems(whole, whole, "RR")
    assert error.value.code == "INVALID_TABLE"
    with pytest.raises(TaskError) as error:
        compare_systems(whole, table([*rows[:3], (*rows[3][:4], None)]), "AP")
    assert error.value.code == "INVALID_TABLE"
    with pytest.raises(TaskError) as error:
        compare_systems(table((*row[:4], None) for row in rows), whole, "AP")
    assert error.value.code == "INVALID_TABLE"
    with pytest.raises(TaskError) as error:
        compare_systems(whole, whole, "AP", level=1.5)
    assert error.value.code == "INVALID_TABLE"


def test_the_item_is_what_follows_the_language() -> None:
    ids = np.array(["de_17", "zh-Hant_17", "17", "en_17", "de_"])
    assert item_ids(ids, np.array(["de", "zh-Hant", "de", "de", "de"])).tolist() == ["17", "17", "17", "en_17", ""]
