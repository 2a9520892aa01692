"""`hbt report`: the results of runs → one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption

if TYPE_CHECKING:
    from hbt_ray.run_dir import RunDir


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Evaluated runs, such as s3://bucket/runs/*.")],
    out: Annotated[Path | None, typer.Option(help="Output file. Default: report.html in the first run.")] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Show runs that differ only by their seeds as one, with intervals.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write the headline here, as Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Also write the headline here, for LaTeX with booktabs.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare evaluated runs on one self-contained HTML page."""
    from hbt_ray.console import Screen
    from hbt_ray.report.headline import headline_table
    from hbt_ray.report.runs import load_results, make_report

    screen = Screen(as_json)
    folders = [run for location in runs for run in _runs_at(location)]
    page = make_report(folders, out or folders[0].report, seeds=seeds, markdown=markdown, latex=latex)
    screen.table(headline_table(*load_results(folders, seeds=seeds)))
    tables = [path for path in (markdown, latex) if path]
    screen.log(f"open {page}")
    for path in tables:
        screen.log(f"the headline is also in {path}")
    screen.result({"report": page, "tables": tables})


def _runs_at(location: str) -> list[RunDir]:
    """The run at a location; for a URI that ends with `*`, which no shell expands, all evaluated runs there."""
    from hbt_ray.run_dir import RunDir

    run = RunDir.at(location)
    if isinstance(run.root, Path) or run.name != "*":
        return [run]
    folders = (run.root.with_name(name) for name in run.root.parent.names())
    return [RunDir(folder) for folder in folders if (folder / "results").names()]
