"""The headline outside the page: for the terminal, and for papers as Markdown or as LaTeX with `booktabs`.

The layout is that of 2408.10536: a row per system, settings × measures as columns. The best of a column is bold; †
marks a significant difference from the baseline, if per-query results allow a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from rich import table as rich_table
from rich.box import SIMPLE_HEAD
from rich.text import Text

from hbt_ray.markdown import inline, pipe_table
from hbt_ray.report.significance import ALPHA, Differences
from hbt_ray.retrieval.compare import MISSING, SEEDS_NOTE, Baseline, Comparison, System, TableCell, compare
from hbt_ray.retrieval.result import EvaluationResult

# Replaced character by character, so that no replacement is escaped again.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "±": r"{\small$\pm$}",
    "†": r"$^\dagger$",
    "↓": r"$\downarrow$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
Headlines = Iterable[tuple[Comparison, Differences | None]]


def headline_table(results: Sequence[EvaluationResult], baseline: Baseline = None) -> rich_table.Table:
    """The headline for the terminal: the best of a column is bold, differences to the baseline are coloured."""
    comparisons = compare(results, baseline)
    # Tasks with different measures share the table, so a system may lack some columns.
    columns = list(dict.fromkeys(column for comparison in comparisons for column in comparison.columns))
    several = len(comparisons) > 1
    notes = [
        "↑ higher is better, ↓ lower is better",
        *(["below: difference to the baseline"] if baseline else []),
        *([SEEDS_NOTE] if any(comparison.has_seeds for comparison in comparisons) else []),
    ]
    task = "" if several else f"{comparisons[0].task}: "
    table = rich_table.Table(title=f"{task}retrieval quality", caption="; ".join(notes), box=SIMPLE_HEAD)
    table.add_column("system", overflow="fold", min_width=10)
    for column in columns:
        # `cross-lingual` → `cross`, and one word a line, so that the columns fit into a terminal.
        setting = column.setting.removesuffix("lingual").removesuffix("-")
        label = column.label.replace(" ", "\n")
        title = f"{setting}\n{label} {'↓' if column.lower_is_better else '↑'}"
        table.add_column(title, justify="right", vertical="top", no_wrap=True, min_width=6)
    for comparison in comparisons:
        if several:
            table.add_row(Text(comparison.task, style="italic"))
        for system, cells in comparison.headline:
            shown = dict(zip(comparison.columns, cells, strict=True))
            name = Text(system.label) + Text(" (baseline)" if system.is_baseline else "", style="dim")
            table.add_row(name, *(_terminal_text(shown.get(column)) for column in columns))
        table.add_section()
    return table


def _terminal_text(cell: TableCell | None) -> Text:
    if cell is None:
        return Text(MISSING, style="dim")
    text = Text(cell.text, style="bold" if cell.best else "")
    if cell.spread:
        text.append(f"\n{cell.spread}", style="dim")
    if cell.change:
        text.append(f"\n{cell.change}", style={True: "green", False: "red", None: "dim"}[cell.better])
    return text


def markdown_tables(headlines: Headlines) -> str:
    """A pipe table for each comparison, in the syntax of GitHub and Pandoc."""
    parts = []
    for comparison, differences in headlines:
        titles = [f"{column.name}{' ↓' * column.lower_is_better}" for column in comparison.columns]
        rows = [
            [inline(system.label), *_cells(comparison, differences, system, cells, inline, "**{}**")]
            for system, cells in comparison.headline
        ]
        table = pipe_table(["system", *map(inline, titles)], rows)
        note = inline(_note(differences))
        parts.append(f"**{inline(comparison.task)}**\n\n{table}\n" + (f"\n{note}\n" if note else ""))
    return "\n".join(parts)


def latex_tables(headlines: Headlines) -> str:
    """A `table` environment for each comparison, for pdfLaTeX and its successors."""
    tables = [_latex_table(comparison, differences) for comparison, differences in headlines]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def _latex_table(comparison: Comparison, differences: Differences | None) -> str:
    columns = comparison.columns
    spans, rules, start = [], [], 2  # LaTeX counts columns from 1; the first holds the systems.
    for setting, group in groupby(columns, key=lambda column: column.setting):
        width = len(list(group))
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{setting.capitalize()}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    titles = [f"{column.label.capitalize()} ↓" if column.lower_is_better else column.label for column in columns]
    rows = [
        [_tex(system.label), *_cells(comparison, differences, system, cells, _tex, r"\textbf{{{}}}")]
        for system, cells in comparison.headline
    ]
    body = "\n".join(rf"{' & '.join(row)} \\" for row in rows)
    caption = f"Retrieval quality on {comparison.task}. {_note(differences)}".strip()
    return rf"""\begin{{table}}[t]
\centering
\caption{{{_tex(caption)}}}
\begin{{tabular}}{{l{"r" * len(columns)}}}
\toprule
& {" & ".join(spans)} \\
{"".join(rules)}
{" & ".join(["System", *map(_tex, titles)])} \\
\midrule
{body}
\bottomrule
\end{{tabular}}
\end{{table}}
"""


def _cells(
    comparison: Comparison,
    differences: Differences | None,
    system: System,
    cells: Iterable[TableCell],
    escape: Callable[[str], str],
    bold: str,
) -> list[str]:
    """The numbers of a system, with the spread over seeds and a dagger if the difference is significant."""
    texts = []
    for column, cell in zip(comparison.columns, cells, strict=True):
        dagger = "†" if differences and differences.tooltip(system, column) else ""
        text = bold.format(escape(cell.text)) if cell.best else escape(cell.text)
        texts.append(text + escape(cell.spread + dagger))
    return texts


def _note(differences: Differences | None) -> str:
    if not differences or not differences.tested:
        return ""
    return f"† differs from {differences.reference.label} (paired randomisation test, Holm, p < {ALPHA})."


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
