"""The headline as tables for papers, in the layout of 2408.10536: a row a system, settings × measures as columns.

One table a task, as Markdown or as LaTeX with `booktabs`. Bold is the best of a column, as on the page; † marks what
differs from the baseline beyond chance, where the results' evidence allows a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from hbt_ray.report.differences import ALPHA, Differences
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
    return "\n".join(_markdown(comparison, found) for comparison, found in headlines)


def latex(headlines: Headlines) -> str:
    """`table` environments for pdfLaTeX and its successors."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(comparison, found) for comparison, found in headlines)


def _markdown(comparison: Comparison, found: Differences | None) -> str:
    titles = [_md(f"{column.name}{' ↓' * column.lower_is_better}") for column in comparison.columns]
    rows = [["system", *titles], ["---", *["---:"] * len(titles)]]
    for system, cells in comparison.headline:
        shown = (
            (f"**{cell.text}**" if cell.best else cell.text) + cell.spread + _sign(found, system, column)
            for column, cell in zip(comparison.columns, cells, strict=True)
        )
        rows.append([_md(system.label), *shown])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"**{_md(comparison.task)}**", "", *lines, "", *_note(found, "{}\n", _md)])


def _latex(comparison: Comparison, found: Differences | None) -> str:
    columns = comparison.columns
    groups = [(setting, len(list(of))) for setting, of in groupby(columns, key=lambda column: column.setting)]
    spans, rules, start = [], [], 2
    for setting, width in groups:
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{setting.capitalize()}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    titles = [_tex(f"{column.label.capitalize()} ↓" if column.lower_is_better else column.label) for column in columns]
    body = [
        " & ".join(
            [_tex(system.label), *(_latex_cell(found, system, *pair) for pair in zip(columns, cells, strict=True))]
        )
        for system, cells in comparison.headline
    ]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            r"\caption{Retrieval quality on " + _tex(comparison.task) + "." + "".join(_note(found, " {}", _tex)) + "}",
            r"\begin{tabular}{l" + "r" * len(columns) + "}",
            r"\toprule",
            " & ".join(["", *spans]).lstrip() + r" \\",
            "".join(rules),
            " & ".join(["System", *titles]) + r" \\",
            r"\midrule",
            *(rf"{row} \\" for row in body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(found: Differences | None, system: System, column: Column, cell: TableCell) -> str:
    text = _tex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    return text + _tex(cell.spread + _sign(found, system, column))


def _sign(found: Differences | None, system: System, column: Column) -> str:
    return "†" if found and found.mark(system, column) else ""


def _note(found: Differences | None, frame: str, escaped: Callable[[str], str]) -> list[str]:
    if not found or not found.tested:
        return []
    test = f"† differs from {found.reference.label} (paired randomisation test, Holm, p < {ALPHA})."
    return [frame.format(escaped(test))]


def _md(text: str) -> str:
    """What Markdown takes for its own within a line. Round brackets stay: some readers take `\\(` for mathematics."""
    return "".join(f"\\{character}" if character in r"\`*_[]<>|~&$" else character for character in text)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
