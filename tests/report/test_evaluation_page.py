"""The report shows the numbers it was given, stands alone, and says better or worse as it is."""

from __future__ import annotations

import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hbt_ray.errors import TaskError
from hbt_ray.report.charts import MAX_POINTS
from hbt_ray.report.evaluation_page import write_evaluation_page
from hbt_ray.report.formatting import duration, size
from hbt_ray.report.headline import headline_table
from hbt_ray.report.training import target_share
from hbt_ray.retrieval.compare import COLUMNS, Column, compare
from hbt_ray.retrieval.result import EvaluationResult

LANGUAGES = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
VOID = {"meta", "br", "wbr"}


def sample(
    model: str, quality: float, distance: float, task: str = "xquad-r", languages: list[str] = LANGUAGES
) -> EvaluationResult:
    """A result as evaluation would give it: the diagonal is best, some languages are weaker, means are macro."""
    rng = np.random.default_rng([len(model), len(languages), int(quality * 1000)])
    ease = dict(zip(languages, rng.uniform(0.8, 1.0, len(languages)), strict=True))

    def measures(q: str, p: str) -> dict[str, float]:
        ap = quality * ease[q] * ease[p] * (1.12 if q == p else 0.95)
        return {"AP": ap, "R@1": ap * 0.87, "R@10": ap * 1.08}

    pairs = {q: {p: measures(q, p) for p in languages} for q in languages}
    pool = {
        q: {"AP": quality * 0.85 * ease[q], "R@10": quality * 0.78 * ease[q], "RankDistance": distance / ease[q] ** 3}
        for q in languages
    }

    def mean(rows: list[dict[str, float]]) -> dict[str, float]:
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    return EvaluationResult(
        task=task,
        model=model,
        task_fingerprint="0123456789abcdef",
        fingerprint=f"{int(quality * 1e19):016x}",
        languages=languages,
        num_queries=dict.fromkeys(languages, 1190),
        num_documents={tag: 1180 + 7 * i for i, tag in enumerate(languages)},
        settings={
            "monolingual": mean([pairs[tag][tag] for tag in languages]),
            "cross-lingual": mean([pairs[q][p] for q in languages for p in languages if q != p]),
            "multilingual": mean(list(pool.values())),
        },
        pairs=pairs,
        pool=pool,
        seconds={"encode": 412.3, "search": 7.84},
        peak_memory_bytes=3_650_722_201,
    )


def sample_curve(num_steps: int = 600) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    rows: list[dict[str, Any]] = []
    for step in range(num_steps):
        mono = int((step + 1) * 0.5 + 0.3) > int(step * 0.5 + 0.3)
        floor = 0.35 if mono else 0.62
        rows.append(
            {
                "step": step,
                "loss": floor + 4.9 * np.exp(-step / 70) + rng.gamma(4, 0.03),
                "kind": "mono" if mono else "cross",
                "language": LANGUAGES[(step // 2) % 11] if mono else "",
                "learning_rate": 2e-5 * min(1, step / 60) * (1 - step / num_steps),
                "pairs_per_second": 1450 + rng.normal(0, 40) - 500 * (step % 97 == 0),
                "stall_seconds": 0.002 + 0.4 * (step % 97 == 0),
            }
        )
    return rows


def sample_dev() -> list[dict[str, Any]]:
    values = ((100, 0.4, 0.2), (200, 0.6, 0.5), (300, 0.5, 0.4))
    return [{"step": s, "AP": ap, "mono_AP": 0.8, "cross_AP": c, "pool_loss": 1 - ap} for s, ap, c in values]


BASELINE, TRAINED = sample("xlm-r-base", 0.016, 2310), sample("hybrid-0.5", 0.74, 84)


class Page(HTMLParser):
    """Tags must nest; keeps attributes, the text, and the text by tag (with class) of the elements asked for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.source = html
        self.open: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[tuple[str, str], list[str]] = {}
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class") or ""))
            self.texts.setdefault(self.open[-1], []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        last, _ = self.open.pop()
        assert last == tag, f"</{tag}> closes <{last}>"

    def handle_data(self, data: str) -> None:
        for element in set(self.open):
            self.texts[element][-1] += data
        if any(tag in ("td", "th") for tag, _ in self.open):
            self.tables[-1][-1][-1] += data

    def text(self, tag: str, style: str = "") -> list[str]:
        return [" ".join(text.split()) for text in self.texts.get((tag, style), [])]


def page(tmp_path: Path, **inputs: Any) -> Page:
    inputs = {"title": "A run", "results": [TRAINED]} | inputs
    return Page(write_evaluation_page(tmp_path / "report.html", **inputs).read_text(encoding="utf-8"))


def changed(result: EvaluationResult, **settings: dict[str, float]) -> EvaluationResult:
    named = {key.replace("_", "-"): value for key, value in settings.items()}
    merged = {name: result.settings[name] | named.get(name, {}) for name in result.settings}
    return result.model_copy(update={"settings": merged, "model": "other"})


FULL: dict[str, Any] = {"baseline": BASELINE, "metrics": sample_curve(), "policy": "hybrid(0.5)"}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "one system": {},
    "four systems": {"results": [sample(f"s{i}", 0.7 + i / 50, 300 - i) for i in range(4)]},
    "two tasks": {"results": [TRAINED, sample("b", 0.6, 70, "mlqa-r", ["de", "en"])], "baseline": BASELINE},
    "two languages": {"results": [sample("a", 0.7, 1.2, languages=["de", "zh-Hant"])]},
    "bare curve": {"metrics": [{"step": 3}, {"loss": 1.0}, {"step": 4, "loss": float("nan"), "kind": None}]},
    "one step": {"metrics": [{"step": 0, "loss": 2.5, "kind": "mono", "language": "de", "learning_rate": 0.0}]},
    "no numbers": {"results": [TRAINED.model_copy(update={"settings": {}, "pairs": {}, "pool": {}})]},
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page of everything, written once: its charts take a second."""
    return page(tmp_path_factory.mktemp("full"), **FULL)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stands_alone_and_is_well_formed(tmp_path: Path, variant: str) -> None:
    html = page(tmp_path, **VARIANTS[variant])
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not [a for a in html.attributes if a[1] in ("src", "href", "srcset", "data", "action")]
    assert not re.search(r"https?://|@import|url\(", source)
    visible = re.sub(r"(?s)<(style|script)>.*?</\1>|<meta [^>]*>|<svg .*?</svg>", "", source)
    assert not re.search(r"\b(nan|inf|none|undefined)\b", visible.lower())
    assert not re.search(r"NaN|Infinity| id=|var\(--undefined", "".join(re.findall(r"(?s)<svg .*?</svg>", source)))
    assert ("html", "lang", "en") in html.attributes
    assert len(html.text("h1")) == 1
    assert len(source) < 500_000
    described = [value for i, (tag, name, value) in enumerate(html.attributes)
                 if (tag, name) == ("div", "aria-label") and html.attributes[i - 1][2] == "img"]  # fmt: skip
    assert len(described) == source.count("<svg ")
    assert all(text.endswith(".") for text in described)


def test_points_say_what_they_are_and_lines_do_not(full: Page) -> None:
    loss = re.findall(r'<path aria-label="(step [^"]*: loss [^"]*)"', full.source)
    assert len(loss) == MAX_POINTS
    rows = sample_curve()
    kinds = {"mono": "monolingual", "cross": "cross-lingual"}
    assert set(loss) <= {f"step {row['step']}, {kinds[row['kind']]}: loss {row['loss']:.4g}" for row in rows}
    assert not re.search(r'aria-label="[^"]*(datum|undefined|axis|legend)', full.source)


def test_headline_shows_every_number_and_difference(full: Page) -> None:
    rows = full.tables[0]
    for row, result in zip(rows[2:], (BASELINE, TRAINED), strict=True):
        assert row[0].split()[0] == result.model
        for shown, column in zip(row[1:], COLUMNS, strict=True):
            value = result.settings[column.setting][column.measure]
            text = f"{value:,.0f}" if column.measure == "RankDistance" else f"{value:.3f}".lstrip("0")
            assert shown.split()[0].startswith(text)
    assert rows[3][1] == ".694 +.680"
    assert rows[3][7] == "113 −3,422"


def test_heat_maps_hold_every_pair_and_share_one_scale(full: Page) -> None:
    for table, result in zip(full.tables[1:3], (BASELINE, TRAINED), strict=True):
        assert table[0] == ["", *LANGUAGES, "all"]
        for row, question in zip(table[1:], LANGUAGES, strict=True):
            values = [result.pairs[question][passage]["AP"] for passage in LANGUAGES]
            assert row == [question, *(f"{v:.3f}".lstrip("0") for v in [*values, result.pool[question]["AP"]])]
    styles = [v for tag, name, v in full.attributes if (tag, name) == ("td", "class") and v.startswith("cell")]
    outlined = [i for i, style in enumerate(styles[:132]) if " own" in style]
    assert outlined == [row * 12 + row for row in range(11)]
    levels = [float(v[8:]) for _, name, v in full.attributes if name == "style" and v.startswith("--level:")]
    assert len(levels) > 2 * 11 * 12, "the families come after"
    assert max(levels[:132]) < 0.04, "on a shared scale the bad baseline stays at the pale end"
    assert min(levels[132:264]) > 0.5
    assert ("abbr", "title", "Vietnamese") in full.attributes


def test_the_colour_scale_is_even_and_readable(full: Page) -> None:
    """Every cell has a contrast above 5 to its text, black on light screens and white on dark ones."""
    scales = re.findall(r"background: oklch\(((?:calc\([^()]*\(--level\)\) ?){3})\)", full.source)
    for scale, dark in zip(scales, (False, True), strict=True):
        terms = re.findall(r"calc\(([\d.]+) ([+-]) ([\d.]+)", scale)
        light = []
        for step in range(41):
            lightness, chroma, hue = (float(a) + float(sign + b) * step / 40 for a, sign, b in terms)
            rgb = linear_srgb(lightness, chroma, hue)
            assert all(-0.003 <= channel <= 1.003 for channel in rgb), "a screen can show it"
            light.append(sum(w * channel for w, channel in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)))
        assert light == sorted(light, reverse=not dark)
        assert min(1.05 / (y + 0.05) if dark else (y + 0.05) / 0.05 for y in light) > 5


def linear_srgb(lightness: float, chroma: float, hue: float) -> tuple[float, ...]:
    """Björn Ottosson's OKLab, inverse matrices of 2021-01-25."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    rows = ((0.3963377774, 0.2158037573), (-0.1055613458, -0.0638541728), (-0.0894841775, -1.2914855480))
    cones = [(lightness + x * a + y * b) ** 3 for x, y in rows]
    to_rgb = (
        (4.0767416621, -3.3077115913, 0.2309699292),
        (-1.2684380046, 2.6097574011, -0.3413193965),
        (-0.0041960863, -0.7034186147, 1.7076147010),
    )
    return tuple(sum(factor * cone for factor, cone in zip(row, cones, strict=True)) for row in to_rgb)


def test_table_by_language(full: Page) -> None:
    rows = full.tables[3][2:]
    assert [row[0].split()[0] for row in rows] == LANGUAGES
    thai = rows[LANGUAGES.index("th")]
    for i, measure in enumerate(("AP", "R@10")):
        expected = [f"{v.pool['th'][measure]:.3f}".lstrip("0") for v in (BASELINE, TRAINED)]
        assert thai[1 + 2 * i : 3 + 2 * i] == expected
    assert thai[5:] == [f"{v.pool['th']['RankDistance']:,.0f}" for v in (BASELINE, TRAINED)]
    widths = [float(value[4:-1]) for _, name, value in full.attributes if name == "style" and value.startswith("--w:")]
    assert max(widths[:22]) == 100.0
    assert widths[0] / widths[1] == pytest.approx(4026 / 90, rel=0.05)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ((0.012, 2310), (0.61, 84), "AP rose from .012 to .610 and rank distance fell from 2,310 to 84."),
        ((0.61, 84), (0.48, 312), "AP fell from .610 to .480 and rank distance rose from 84 to 312: worse than the"),
        ((0.5, 84), (0.6, 90), "AP rose from .500 to .600 but rank distance rose from 84 to 90."),
        ((0.5, 90), (0.5001, 80), "AP stayed at .500 but rank distance fell from 90 to 80."),
    ],
)
def test_sentence_says_what_happened(
    tmp_path: Path, old: tuple[float, float], new: tuple[float, float], sentence: str
) -> None:
    before, after = (changed(TRAINED, multilingual={"AP": ap, "RankDistance": rank}) for ap, rank in (old, new))
    html = page(tmp_path, results=[after], baseline=before, metrics=sample_curve(6), policy="hybrid(0.5)")
    assert html.text("p", "lead")[0].startswith("After 6 steps of hybrid(0.5) batches, multilingual " + sentence)


def test_losses_elsewhere_are_named(tmp_path: Path, full: Page) -> None:
    worse = changed(TRAINED, monolingual={"AP": 0.5})
    assert page(tmp_path, results=[worse], baseline=TRAINED).text("p", "summary")[0] == (
        "Worse than the baseline on xquad-r: monolingual AP (.694 → .500)."
    )
    everything = page(tmp_path, results=[BASELINE], baseline=TRAINED).text("p", "summary")[0]
    assert everything == "Every measure on xquad-r is worse than the baseline."
    assert "Worse" not in full.text("p", "summary")[0]


def test_sentence_for_several_systems(tmp_path: Path) -> None:
    a, b = sample("a", 0.7, 200), sample("b", 0.75, 300)
    lead = page(tmp_path, results=[a, b]).text("p", "lead")[0]
    assert lead.startswith("Of two systems, b has the highest multilingual AP")
    assert "and a has the lowest rank distance" in lead
    lead = page(tmp_path, results=[a, b], baseline=sample("base", 0.9, 250)).text("p", "lead")[0]
    assert lead.endswith("No system beats the baseline in multilingual AP.")


def test_input_is_escaped(tmp_path: Path) -> None:
    name = "<b>&</script>"
    model = TRAINED.model_copy(update={"model": name})
    html = page(tmp_path, title=name, results=[model], policy=name, config_yaml=f"a: {name}")
    assert html.text("h1") == [name]
    assert html.tables[0][2][0] == name
    assert html.text("code")[-1] == f"a: {name}"


def test_training_section_counts_the_last_of_repeated_steps(tmp_path: Path) -> None:
    rows = sample_curve()
    resumed = [row | {"kind": "mono", "language": "th", "stall_seconds": 0} for row in rows[:100]]
    html = page(tmp_path, metrics=[*resumed, *rows], policy="hybrid(0.5)")
    summary = next(text for text in html.text("p", "summary") if "steps" in text)
    assert summary.startswith("600 steps of hybrid(0.5) batches: 300 monolingual, 300 cross-lingual; 4.0 s spent")
    assert "target: 50%" in html.text("text")
    assert [text.split()[0] for text in html.text("figcaption")] == ["Loss", "Share", "Pairs"]


def test_marks_the_best_including_ties_and_the_baseline() -> None:
    tied = changed(TRAINED, multilingual={"AP": TRAINED.settings["multilingual"]["AP"] + 1e-5})
    comparison = compare([TRAINED, tied], baseline=changed(BASELINE, multilingual={"RankDistance": 5}))[0]
    best = {c: [row[i].best for _, row in comparison.headline] for i, c in enumerate(comparison.columns)}
    assert best[Column("multilingual", "AP")] == [False, True, True]
    assert best[Column("multilingual", "RankDistance")] == [True, False, False]
    assert not any(cell.best for _, row in compare([TRAINED])[0].headline for cell in row)


def test_terminal_table_agrees_with_the_page(tmp_path: Path, full: Page) -> None:
    console = Console(width=160, record=True, file=(tmp_path / "out.txt").open("w"))
    console.print(headline_table([TRAINED.model_copy(update={"model": "[bold]x"})], BASELINE))
    shown = console.export_text()
    numbers = [word for row in full.tables[0][2:] for cell in row[1:] for word in re.findall(r"[+−]?[.,\d]+", cell)]
    assert len(numbers) == 21
    assert all(word in shown for word in numbers)
    assert "[bold]x" in shown


def test_terminal_table_keeps_its_numbers_at_80_columns() -> None:
    console = Console(width=80, record=True, quiet=False)
    tasks = [TRAINED, sample("intfloat/multilingual-e5-small", 0.6, 12_070, "mlqa-r")]
    console.print(headline_table(tasks, [BASELINE, sample("xlm-r-base", 0.5, 13_070, "mlqa-r")]))
    shown = console.export_text()
    for comparison in compare(tasks, [BASELINE, sample("xlm-r-base", 0.5, 13_070, "mlqa-r")]):
        assert comparison.task in shown
        assert all(cell.text in shown and cell.change in shown for _, row in comparison.headline for cell in row)


def test_errors_name_the_remedy_and_spare_the_file(tmp_path: Path) -> None:
    path = write_evaluation_page(tmp_path / "deep" / "report.html", title="x", results=[TRAINED])
    before = path.read_bytes()
    with pytest.raises(TaskError, match="run `hbt evaluate"):
        write_evaluation_page(path, title="x", results=[])
    other_data = sample("b", 0.5, 9).model_copy(update={"task_fingerprint": "other"})
    for baseline in (sample("b", 0.5, 9, "mlqa-r"), other_data):
        with pytest.raises(TaskError) as caught:
            write_evaluation_page(path, title="x", results=[TRAINED], baseline=baseline)
        assert caught.value.code == "OTHER_TASK"
    with pytest.raises(TaskError, match="baseline itself"):
        headline_table([TRAINED], TRAINED)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_failed_write_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_evaluation_page(tmp_path / "report.html", title="x", results=[TRAINED])
    assert list(tmp_path.iterdir()) == []


def test_results_of_one_task_on_other_data_are_not_compared(tmp_path: Path, full: Page) -> None:
    other = sample("other", 0.7, 90).model_copy(update={"task_fingerprint": "fedcba9876543210"})
    assert [(c.task, [s.label for s in c.systems]) for c in compare([TRAINED, other], [other.model_copy(
        update={"model": "untrained"}
    )])] == [
        ("xquad-r (data 0123456)", ["hybrid-0.5"]),
        ("xquad-r (data fedcba9)", ["untrained", "other"]),
    ]  # fmt: skip
    html = page(tmp_path, results=[TRAINED, other])
    assert len(html.text("p", "warning")) == 2
    assert full.text("p", "warning") == []


def test_what_is_odd_about_a_task_is_said(tmp_path: Path) -> None:
    odd = TRAINED.model_copy(update={"num_identical_ids": 12, "num_missing": 3})
    notes = " ".join(page(tmp_path, results=[odd]).text("p", "note"))
    assert "12 of the 13,090 questions are documents themselves" in notes
    assert "3 documents that answer a question are not in the corpus" in notes


def test_measures_of_another_task_are_shown(tmp_path: Path) -> None:
    miracl = TRAINED.model_copy(
        update={"settings": {"monolingual": {"nDCG@10": 0.4148}}, "pool": {}, "pairs": {"de": {"de": {"nDCG@10": 0.4}}}}
    )
    html = page(tmp_path, results=[miracl])
    assert html.text("p", "lead") == ["With hybrid-0.5, monolingual nDCG@10 is .415."]
    assert html.tables[0][1:] == [["System", "nDCG@10"], ["hybrid-0.5", ".415"]]
    assert ["de German", ".400"] in html.tables[1]


def test_numbers_as_people_write_them() -> None:
    ap = COLUMNS[0]
    assert [ap.text(v) for v in (0.797, 1.0, 0.0, -0.012, None)] == [".797", "1.000", ".000", "−.012", "–"]
    assert [ap.round(v) for v in (0.00049, float("nan"))] == [0.0, None]
    times = [duration(s).replace("\u00a0", " ") for s in (0.4, 9.97, 59.6, 192, 7440)]
    assert times == ["0.4 s", "10 s", "1 min 0 s", "3 min 12 s", "2 h 4 min"]
    assert [size(n).replace("\u00a0", " ") for n in (512, 851_443_712, 3_650_722_201)] == [
        "512 B",
        "812 MiB",
        "3.4 GiB",
    ]
    assert [target_share(p) for p in ("hybrid(0.5)", "mono", "cross", "mixed", "hybrid(.25)")] == [
        0.5,
        1,
        0,
        None,
        0.25,
    ]


def test_a_page_without_validation_says_nothing_of_it_and_counts_the_steps_of_what_it_judged(tmp_path: Path) -> None:
    def page(**more: Any) -> str:
        path = write_evaluation_page(
            tmp_path / "x.html", title="x", results=[TRAINED], metrics=sample_curve(250), **more
        )
        return path.read_text(encoding="utf-8")

    without, validated = (
        page(policy="hybrid(0.5)"),
        page(policy="hybrid(0.5)", dev=sample_dev(), best_step=200, num_steps=200),
    )
    assert "Dev " not in without
    assert "best checkpoint: step" not in without
    assert "After 250 steps" in without
    assert "After 200 steps" in validated
    assert validated.index(">Loss<") < validated.index(">Dev AP<") < validated.index(">Dev loss over the")
