"""Comparison of two systems over the same queries: differences, bootstrap intervals, effect sizes and p-values.

The unit of resampling is the item, not the row. The eleven translations of a question fail together, so their rows are
not independent observations; a test that treats them as independent finds differences that do not exist. Query ids are
`<language>_<item>`; a row's item is the part behind the language. In a test over several languages or pairs, all rows
of an item are flipped, or drawn, together. Ids that are equal in two languages by chance do no harm, since flipping
independent rows together is valid too. Items are assumed to be independent of each other.

The figures are the macro averages of a result: means over groups (languages, or ordered pairs) of means over queries.
Such an average is a sum with one number per item, so the tests are those of a mean. If all groups have the same items,
that number is the item's mean over groups. Otherwise (MLQA-R: two to four languages an item) a row weighs
1 / (groups × rows of its group) in the randomisation test, which is exact for the macro average. The interval uses the
linearised values of an average of ratios, as in cluster sampling (Särndal et al. 1992, section 5.5), since the number
of rows of a group varies from draw to draw.

Pure NumPy and SciPy, no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from hbt_ray.errors import TaskError

ROW_KEYS = ("setting", "language", "passage_language", "query_id")
"""Columns that identify a row of a per-query table."""
_TASK = b"task_fingerprint"


@dataclass(frozen=True)
class Difference:
    """System a minus system b in one setting, over all question languages or in one of them."""

    measure: str
    setting: str
    language: str
    """Question language; empty for the macro average over all."""
    num_items: int
    """Number of units of the test: questions, with their translations counted once."""
    num_rows: int
    """Number of rows of the per-query table."""
    mean_a: float
    mean_b: float
    difference: float
    """mean_a - mean_b."""
    low: float
    high: float
    """`low` and `high` are the ends of the bootstrap interval of the difference; infinite for a single item."""
    effect: float
    """Paired Cohen's d: mean over standard deviation of the items' differences; NaN for a single item. An item's mean
    over languages spreads less than one of its rows, so compare effects only among rows with `language`, or without."""
    p: float
    """Two-sided p-value of the paired randomisation test."""
    p_holm: float
    """Holm's correction of `p` over the languages of the setting; for macro averages, over the settings."""


def with_task_fingerprint(table: pa.Table, fingerprint: str) -> pa.Table:
    """The per-query table with the fingerprint of its queries, documents and judgements (`Task.fingerprint`)."""
    return table.replace_schema_metadata({_TASK: fingerprint.encode()})


def compare_systems(
    a: pa.Table, b: pa.Table, measure: str, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> list[Difference]:
    """Compare two systems by one column of their per-query tables, whose rows may be in any order.

    Returns:
        For each setting that has the measure: its macro average, then each question language. Equal tables and seeds
        give equal figures.

    Raises:
        TaskError: a table lacks the measure or a column of `ROW_KEYS`, the tables are of different data or queries, a
            row occurs twice, a value is not finite, or no setting has the measure.
    """
    if resamples < 1 or not 0 < level < 1:
        raise _invalid(f"resamples={resamples}, level={level}: give at least 1 resample and a level between 0 and 1")
    tasks = [(table.schema.metadata or {}).get(_TASK) for table in (a, b)]
    if None not in tasks and tasks[0] != tasks[1]:
        raise TaskError(
            "the two systems were evaluated on different queries, documents or judgements (their fingerprints are "
            f"{' and '.join(task.decode() for task in tasks if task)}). Evaluate both on one task",
            code="OTHER_TASK",
        )
    rows = _paired(_rows(a, "a", measure), _rows(b, "b", measure), measure)

    def difference(part: pa.Table, language: str) -> Difference:
        return _difference(part, measure, language, seed, resamples, level)

    settings = [rows.filter(pc.equal(rows["setting"], name)) for name in rows["setting"].unique().to_pylist()]
    macro = _corrected([difference(part, "") for part in settings])
    differences = []
    for overall, part in zip(macro, settings, strict=True):
        languages = part["language"].unique().to_pylist()
        single = [difference(part.filter(pc.equal(part["language"], name)), name) for name in languages]
        differences += [overall, *_corrected(single)]
    return differences


def item_ids(query_ids: npt.NDArray[np.str_], languages: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """`de_17` in `de` → `17`; an id that does not start with its language is the item itself."""
    pairs = zip(query_ids.tolist(), languages.tolist(), strict=True)
    return np.asarray([query_id.removeprefix(f"{language}_") for query_id, language in pairs], dtype=np.str_)


def _rows(table: pa.Table, system: str, measure: str) -> pa.Table:
    """The rows of the settings that have the measure, sorted by `ROW_KEYS`."""
    if missing := [name for name in (*ROW_KEYS, measure) if name not in table.column_names]:
        raise _invalid(
            f"the table of system {system} has no column {missing[0]!r}; it has {', '.join(table.column_names)}. Give "
            "per-query tables as the evaluation writes them, and one of their measures"
        )
    table = table.select([*ROW_KEYS, measure])
    # Measures of the pool are null in the other settings.
    measured = table.filter(pc.is_valid(table[measure]))["setting"].unique()
    table = table.filter(pc.is_in(table["setting"], value_set=measured))
    if not table.num_rows:
        raise _invalid(f"system {system} has no value of {measure} in any setting, so there is nothing to compare")
    return table.sort_by([(key, "ascending") for key in ROW_KEYS])


def _paired(a: pa.Table, b: pa.Table, measure: str) -> pa.Table:
    """`ROW_KEYS` and the values `a` and `b` of both systems, which must have the same rows."""
    names = [list(zip(*(table[key].to_pylist() for key in ROW_KEYS), strict=True)) for table in (a, b)]
    for system, rows in zip("ab", names, strict=True):
        if repeated := len(rows) - len(set(rows)):
            raise _invalid(f"{repeated} of the {len(rows)} rows of system {system} occur twice, so pairs are ambiguous")
    only_a, only_b = sorted(set(names[0]) - set(names[1])), sorted(set(names[1]) - set(names[0]))
    if only_a or only_b:
        first = " ".join(filter(None, (only_a or only_b)[0]))
        raise TaskError(
            f"the two systems do not have the same queries: {len(names[0])} rows of a and {len(names[1])} of b, of "
            f"which {len(only_a)} are only in a and {len(only_b)} only in b, the first is {first!r}. Evaluate "
            "both on one task with the same languages",
            code="OTHER_QUERIES",
        )
    # Both tables are sorted by equal keys, so row n of one belongs to row n of the other.
    paired = a.select(ROW_KEYS)
    for system, table in (("a", a), ("b", b)):
        paired = paired.append_column(system, table[measure].cast(pa.float64()))
    # Neither system has a value for a query without a defined measure; a value of one system only is an error.
    paired = paired.filter(pc.or_(pc.is_valid(paired["a"]), pc.is_valid(paired["b"])))
    for system in "ab":
        finite = pc.fill_null(pc.is_finite(paired[system]), False)
        if bad := len(paired) - pc.sum(finite).as_py():
            raise _invalid(
                f"{bad} of the {len(paired)} values of {measure} of system {system} are missing or not finite"
            )
    return paired


def _invalid(message: str) -> TaskError:
    return TaskError(message, code="INVALID_TABLE")


def _difference(rows: pa.Table, measure: str, language: str, seed: int, resamples: int, level: float) -> Difference:
    languages, passage_languages, query_ids = (np.asarray(rows[key].to_pylist(), np.str_) for key in ROW_KEYS[1:])
    a, b = (rows[system].to_numpy() for system in "ab")
    # [rows]: the number of the group (question language, passage language) and of the item.
    _, group = np.unique(np.char.add(np.char.add(languages, "\t"), passage_languages), return_inverse=True)
    items, item = np.unique(item_ids(query_ids, languages), return_inverse=True)
    counts = np.bincount(group)
    weights = 1 / (len(counts) * counts[group])  # [rows], so that `weights @ a` is the macro average
    gaps = a - b
    mean_of_group = np.bincount(group, gaps) / counts
    # [items] twice: the shares sum to the difference, the linearised values have it as their mean.
    shares = np.bincount(item, weights * gaps)
    linearised = len(items) * np.bincount(item, weights * (gaps - mean_of_group[group])) + mean_of_group.mean()
    low, high = mean_interval(linearised, level=level, resamples=resamples, seed=seed)
    p = sign_flip_p(shares, resamples=resamples, seed=seed)
    return Difference(
        measure=measure,
        setting=rows["setting"][0].as_py(),
        language=language,
        num_items=len(items),
        num_rows=len(gaps),
        mean_a=float(weights @ a),
        mean_b=float(weights @ b),
        difference=float(mean_of_group.mean()),
        low=low,
        high=high,
        effect=paired_effect(linearised),
        p=p,
        p_holm=p,
    )


def _corrected(family: list[Difference]) -> list[Difference]:
    adjusted = holm([member.p for member in family]).tolist()
    return [replace(member, p_holm=p) for member, p in zip(family, adjusted, strict=True)]


Floats = npt.NDArray[np.float64]
_ELEMENTS = 1 << 22  # signs at a time: 32 MiB for any number of values and resamples


def sign_flip_p(values: npt.ArrayLike, *, resamples: int, seed: int) -> float:
    """Two-sided p-value of the paired randomisation test: values [n] that are symmetric around 0 under the null.

    Swapping the two systems on a unit flips the sign of its difference; p is the share of flips with a sum at least as
    far from 0 as the observed one. If there are at most `resamples` flips (2^n), all are taken and p is exact.
    Otherwise p is (b + 1) / (resamples + 1) if b of `resamples` random flips are as extreme, as in
    `scipy.stats.permutation_test`, and never 0. See Phipson and Smyth (2010) on the + 1 and Smucker et al. (CIKM 2007)
    on the test for retrieval. Time grows with n × resamples, memory does not.
    """
    array = np.asarray(values, dtype=np.float64)
    exact = 2 ** min(len(array), 62) <= resamples  # The limit only avoids huge integers.
    # The tolerance makes sums equal that differ in their last bits because of the order of addition.
    extreme = abs(array.sum()) - 1e-10 * np.abs(array).sum()
    total = 2 ** len(array) if exact else resamples
    step = max(1, _ELEMENTS // max(1, len(array)))
    rng = np.random.default_rng(seed)
    num_extreme = 0
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        flips = _all_flips(rows, len(array)) if exact else _random_flips(rng, len(rows), len(array))
        # Flipping the sign of a value takes it away from the sum twice.
        num_extreme += int((np.abs(array.sum() - 2 * (flips.astype(np.float64) @ array)) >= extreme).sum())
    return num_extreme / total if exact else (num_extreme + 1) / (total + 1)


def _all_flips(numbers: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.uint8]:
    """The binary digits of numbers: [rows] → [rows, n]."""
    return ((numbers[:, None] >> np.arange(n)) & 1).astype(np.uint8)


def _random_flips(rng: np.random.Generator, rows: int, n: int) -> npt.NDArray[np.uint8]:
    # Eight signs per random byte, instead of one draw per sign.
    return np.unpackbits(rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8), axis=1, count=n)


def mean_interval(values: npt.ArrayLike, *, level: float, resamples: int, seed: int) -> tuple[float, float]:
    """The bootstrap interval of the mean of values [n], low and high (BCa, Efron 1987; `scipy.stats.bootstrap`).

    BCa instead of percentiles, since differences of ranks are skewed. The interval of equal values has width zero; that
    of a single value, whose spread is unknown, is (-inf, inf).
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return -math.inf, math.inf
    if _all_equal(array):  # BCa would divide by a spread of zero
        return float(array.min()), float(array.max())
    interval = stats.bootstrap(
        (array,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, _ELEMENTS // len(array)),
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_effect(values: npt.ArrayLike) -> float:
    """Cohen's d for paired values: mean / standard deviation of the differences [n] (Cohen 1988, d_z).

    0 if all differences are 0, infinite if all are one other number, NaN for a single difference.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return math.nan
    mean = float(array.mean())
    if _all_equal(array):
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / float(array.std(ddof=1))


def _all_equal(values: Floats) -> bool:
    """Whether the values differ in their last bits at most."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's step-down correction (1979): p-values [m] → adjusted p-values, in the same order.

    Rejecting adjusted values of at most 0.05 keeps the chance of any false rejection among the m tests below 5 %, even
    if they depend on each other. SciPy only corrects the false discovery rate.
    """
    array = np.asarray(p, dtype=np.float64)
    order = np.argsort(array)
    scaled = array[order] * np.arange(len(array), 0, -1)
    adjusted = np.empty_like(array)
    # Step down: no p-value may be adjusted below a smaller one.
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedInterval:
    """A mean over training seeds, with Student's confidence interval."""

    values: tuple[float, ...]
    """One value per seed."""
    mean: float
    interval: tuple[float, float] | None
    """Low and high; None for one seed."""

    @classmethod
    def from_values(cls, values: Sequence[float]) -> SeedInterval:
        """Mean and interval of at least one value."""
        mean = sum(values) / len(values)
        if len(values) < 2:
            return cls(tuple(values), mean, None)
        half = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        return cls(tuple(values), mean, (mean - half, mean + half))

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width; None for one seed."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2

    def overlaps(self, other: SeedInterval) -> bool | None:
        """Whether the intervals share a value; None if one of them is missing."""
        if self.interval is None or other.interval is None:
            return None
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]
