"""`hbt train`: store → run with an exported encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_ray.cli.arguments import JsonOption, Overrides
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import blocking_lock, exclusive_lock

if TYPE_CHECKING:
    from rich.table import Table

    from hbt_ray.console import Screen
    from hbt_ray.train.config import TrainConfig
    from hbt_ray.train.driver.trainer import OpenedRun
    from hbt_ray.train.validation.record import RunStatus


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml")],
    overrides: Overrides = None,
    until: Annotated[
        int | None, typer.Option(min=1, help="Stop after this step. The same command without it continues.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder on a store; the same run name continues where it stopped."""
    from hbt_ray.console import Screen
    from hbt_ray.ray_session import session
    from hbt_ray.train.config import TrainConfig
    from hbt_ray.train.driver.trainer import open_run

    screen = Screen(as_json)
    settings = TrainConfig.load(config, overrides or ())
    with exclusive_run(settings):
        opened = open_run(settings)  # Report errors before a cluster starts.
        with session():
            status = train_run(settings, screen, until, opened)
    run = settings.run
    screen.result(
        {
            "run": run.root,
            "steps": status.done,
            "complete": status.complete,
            "stopped_early": status.reason or None,
            "best_step": status.best,
            "best_dev": status.value,
            "model": run.model if status.complete else None,
        }
    )


def train_run(
    config: TrainConfig, screen: Screen, until: int | None = None, opened: OpenedRun | None = None
) -> RunStatus:
    """Train a run to its end, or continue it, and export its encoder. Needs a Ray session.

    Args:
        until: stop after this step of the whole run.
        opened: what `open_run` returned for the same configuration, if it was called already.

    Raises:
        LockedError: another command trains the run.
        ConfigError: a node does not see the run's folder.
        HbtError: see `hbt_ray.train.driver.trainer.fit`.
    """
    from hbt_ray.console import TrainingProgress
    from hbt_ray.doctor.run import check_shared
    from hbt_ray.train.driver.trainer import fit, open_run
    from hbt_ray.train.validation.record import run_status

    with exclusive_run(config):
        if isinstance(config.run.root, Path):
            check_shared(config.run.root)
        steps = config.optimiser.steps
        screen.log(
            f"training {config.run.root}: {config.plan}, {steps:,} steps of {config.plan.batch_size} on "
            f"{config.workers}"
        )
        run = opened or open_run(config)
        # Progress shows the shares of kinds of batches since the first step of the run.
        earlier_kinds = (row["kind"] for row in config.run.curve() if row["step"] < run.step)
        with TrainingProgress(screen, steps, earlier_kinds, _newest_validation(config), _lost_nodes()) as progress:
            done = fit(config, progress.watch, until, opened=run, on_wait=screen.log)
        status = run_status(config, done)
        if status.best is not None:
            screen.table(_validation_table(config, status.best))
        if status.complete:
            _export(config, status, screen)
        else:
            screen.log(f"stopped after step {done:,} of {steps:,}; the same command continues")
        return status


def exclusive_run(config: TrainConfig) -> AbstractContextManager[None]:
    """The run's lock, for commands that write its folder. Reading a finished run needs none."""
    return exclusive_lock(config.run.root, "training")


def write_locked_card(run: RunDir) -> None:
    """Write the model card, one command at a time: it lists the results of all tasks, and several may end at once."""
    from hbt_ray.report.model_card import write_card

    with blocking_lock(run.root / "card"):
        write_card(run)


def _export(config: TrainConfig, status: RunStatus, screen: Screen) -> None:
    from hbt_ray.train.export import export

    exported = export(config.run)
    write_locked_card(config.run)
    if status.reason:
        screen.log(
            f"stopped early at step {status.done:,} of {config.optimiser.steps:,}: {status.reason}; a larger "
            "validation.patience continues"
        )
    which = "" if exported == status.done else f" of step {exported:,}"
    screen.log(f"{status.done:,} steps are done; the encoder{which} is in {config.run.model}")


def _newest_validation(config: TrainConfig) -> Callable[[], str]:
    """A function that names the newest validation. Progress calls it at every step, so it reads only new records."""
    from hbt_ray.train.validation.record import SECONDS_BETWEEN_LISTINGS, ValidationRecord

    record, measure, newest = ValidationRecord(config.run.validation), config.validation.measure, ""

    def read_newest() -> str:
        nonlocal newest
        for step, row in record.fresh(seconds=SECONDS_BETWEEN_LISTINGS).items():
            newest = f"dev {measure} {row[measure]:.3f} at step {step:,}"
        return newest

    return read_newest


def _lost_nodes() -> Callable[[], str]:
    """A function that names the nodes that Ray has lost since now."""
    import ray

    def dead_nodes() -> dict[str, str]:
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"]}

    before = dead_nodes().keys()

    def describe() -> str:
        lost = [address for node, address in dead_nodes().items() if node not in before]
        return f"; Ray has lost {', '.join(sorted(lost))}, and waits for workers on other nodes" if lost else ""

    return describe


def _validation_table(config: TrainConfig, best: int, max_rows: int = 12) -> Table:
    """The newest validations, and the best."""
    from rich.table import Table

    from hbt_ray.train.validation.dev_set import AP, CROSS_AP, MONO_AP, POOL_LOSS
    from hbt_ray.train.validation.record import ValidationRecord

    columns = (MONO_AP, CROSS_AP, AP, POOL_LOSS)
    rows = list(ValidationRecord(config.run.validation).results().values())
    table = Table(box=None, pad_edge=False)
    for name in ("dev: step", *columns, "seconds", ""):
        table.add_column(name, justify="right")
    for row in [row for row in rows[:-max_rows] if row["step"] == best] + rows[-max_rows:]:
        values = (f"{row[name]:.3f}" if name in row else "–" for name in columns)
        table.add_row(f"{row['step']:,}", *values, f"{row['seconds']:.1f}", "best" * (row["step"] == best))
    return table
