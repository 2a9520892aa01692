"""The command `hbt`: the table of all commands.

Modules of commands import torch, Ray and pyarrow inside functions, so that `hbt --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_ray import __version__
from hbt_ray.cli.demo import demo
from hbt_ray.cli.doctor import doctor
from hbt_ray.cli.evaluate import evaluate
from hbt_ray.cli.index import build, search
from hbt_ray.cli.mine import mine
from hbt_ray.cli.posthoc import posthoc
from hbt_ray.cli.report import report
from hbt_ray.cli.settings_help import SettingsCommand, config
from hbt_ray.cli.store import inspect_store, prepare, verify_store
from hbt_ray.cli.submit import submit
from hbt_ray.cli.train import train
from hbt_ray.cli.tune import tune

app = typer.Typer(
    name="hbt",
    help="Train multilingual search models with hybrid batches, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(no_args_is_help=True, help="Show and verify stores.")
index_app = typer.Typer(no_args_is_help=True, help="Build an index of documents, to search by hand.")


def _print_version(requested: bool) -> None:
    if requested:
        print(f"hbt_ray {__version__}")
        raise typer.Exit


@app.callback()
def hbt(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (prepare, mine, train, posthoc, evaluate):
    app.command(cls=SettingsCommand)(command)
app.command()(report)
app.add_typer(index_app, name="index")
index_app.command("build", cls=SettingsCommand)(build)
app.command()(search)
app.command(cls=SettingsCommand)(tune)
app.add_typer(store_app, name="store")
store_app.command("inspect")(inspect_store)
store_app.command("verify")(verify_store)
app.command(cls=SettingsCommand)(doctor)
# Options end where the submitted command begins, with or without a `--` between.
app.command(context_settings={"allow_interspersed_args": False})(submit)
app.command(cls=SettingsCommand)(demo)
app.command()(config)
