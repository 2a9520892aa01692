"""`hbt report`: the results of runs → one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hbt_ray.cli.arguments import JsonOption


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of evaluated runs.")],
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
    from hbt_ray.run_dir import RunDir

    screen = Screen(as_json)
    folders = [RunDir(path.absolute()) for path in runs]
    page = make_report(folders, out or folders[0].report, seeds=seeds, markdown=markdown, latex=latex)
    screen.table(headline_table(*load_results(folders, seeds=seeds)))
    tables = [path for path in (markdown, latex) if path]
    screen.log(f"open {page}")
    for path in tables:
        screen.log(f"the headline is also in {path}")
    screen.result({"report": page, "tables": tables})
