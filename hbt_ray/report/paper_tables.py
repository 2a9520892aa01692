"""The headline as tables for papers, in the layout of 2408.10536: a row a system, settings × measures as columns.

One table a task, as Markdown or as LaTeX with `booktabs`. Bold is the best of a column, as on the page; † marks what
differs from the baseline beyond chance, if per-query results allow a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from hbt_ray.markdown import inline, pipe_table
from hbt_ray.report.significance import ALPHA, Differences
from hbt_ray.retrieval.compare import Column, Comparison, System, TableCell

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


def markdown(headlines: Headlines) -> str:
    """Pipe tables, as GitHub and Pandoc read them."""
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


def latex(headlines: Headlines) -> str:
    """`table` environments for pdfLaTeX and its successors."""
    tables = [_latex_table(comparison, differences) for comparison, differences in headlines]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def _latex_table(comparison: Comparison, differences: Differences | None) -> str:
    columns = comparison.columns
    spans, rules, start = [], [], 2
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
    """The numbers of a system, with the spread over seeds and a dagger for what differs beyond chance."""

    def cell_text(column: Column, cell: TableCell) -> str:
        dagger = "†" if differences and differences.tooltip(system, column) else ""
        text = escape(cell.text)
        return (bold.format(text) if cell.best else text) + escape(cell.spread + dagger)

    return [cell_text(*pair) for pair in zip(comparison.columns, cells, strict=True)]


def _note(differences: Differences | None) -> str:
    if not differences or not differences.tested:
        return ""
    return f"† differs from {differences.reference.label} (paired randomisation test, Holm, p < {ALPHA})."


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
