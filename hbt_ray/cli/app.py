"""The command `hbt` and its groups, which the other modules of this room fill."""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_ray import __version__

app = typer.Typer(
    name="hbt",
    help="Train multilingual search models with hybrid batches, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(no_args_is_help=True, help="Look into a store.")
index_app = typer.Typer(no_args_is_help=True, help="Make an index of documents, to search by hand.")
app.add_typer(store_app, name="store")
app.add_typer(index_app, name="index")


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"hbt_ray {__version__}")
        raise typer.Exit


@app.callback()
def hbt(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Say the version and exit.")
    ] = False,
) -> None:
    pass
