"""Training: store → run with an exported encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from rich.table import Table

from hbt_ray.console import Screen, TrainingProgress
from hbt_ray.doctor.shared_storage import check_shared
from hbt_ray.report.model_card import write_card
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import blocking_lock, exclusive_lock
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import fit
from hbt_ray.train.export import export
from hbt_ray.train.validation.dev_set import AP, CROSS_AP, MONO_AP, POOL_LOSS
from hbt_ray.train.validation.record import RunStatus, ValidationRecord, run_status

DEV_COLUMNS = (MONO_AP, CROSS_AP, AP, POOL_LOSS)


def train_run(config: TrainConfig, screen: Screen, until: int | None = None) -> RunStatus:
    """Store → run with an exported encoder. Needs a Ray session.

    Raises:
        LockedError: another command trains the run.
        ConfigError: a node does not see where the run is written.
        HbtError: see `hbt_ray.train.driver.trainer.fit`.
    """
    with exclusive_run(config):
        return _train(config, screen, until)


def exclusive_run(config: TrainConfig) -> AbstractContextManager[None]:
    """The run's lock, for commands that write its folder. Reading a finished run needs none.

    Raises:
        LockedError: another command holds it.
    """
    return exclusive_lock(config.run.root, "training")


def _train(config: TrainConfig, screen: Screen, until: int | None) -> RunStatus:
    check_shared(config.run.root)
    steps = config.optimiser.steps
    screen.say(
        f"training {config.run.root}: {config.plan}, {steps:,} steps of {config.plan.batch_size} on {config.workers}"
    )
    newest = CheckpointDirectory(config.run.checkpoints).newest()
    so_far = (row["kind"] for row in config.run.curve() if newest and row["step"] < newest[1].step)
    with TrainingProgress(screen, steps, so_far, _dev_news(config), _lost_nodes()) as progress:
        done = fit(config, progress.watch, until, say=screen.say)
    end = run_status(config, done)
    if end.best is not None:
        screen.table(_dev_table(config, end))
    if not end.complete:
        screen.say(f"stopped after step {done:,} of {steps:,}; the same command continues")
        return end
    with writing_card(config.run):
        exported = export(config.run)
        write_card(config.run)
    if end.reason:
        screen.say(f"stopped early at step {done:,} of {steps:,}: {end.reason}; a larger validation.patience continues")
    which = "" if exported == done else f" of step {exported:,}"
    screen.say(f"{done:,} steps are done; the encoder{which} is in {config.run.model}")
    return end


def writing_card(run: RunDir) -> AbstractContextManager[None]:
    """Wait for other commands that write the model's card: a card lists the results of all tasks, and evaluations on
    several tasks may end at the same time."""
    return blocking_lock(run.root / "card")


def _dev_news(config: TrainConfig) -> Callable[[], str]:
    """What the newest validation found, read again only when the record has grown: progress asks at every step."""
    record, measure, news = ValidationRecord(config.run.validation), config.validation.measure, ""

    def tell() -> str:
        nonlocal news
        for step, row in record.fresh().items():
            news = f"dev {measure} {row[measure]:.3f} at step {step:,}"
        return news

    return tell


def _lost_nodes() -> Callable[[], str]:
    """Names the nodes that Ray has given up since now."""
    import ray

    def dead() -> dict[str, str]:
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"]}

    before = dead().keys()

    def tell() -> str:
        lost = [address for node, address in dead().items() if node not in before]
        return f"; Ray has lost {', '.join(sorted(lost))}, and waits for workers on other nodes" if lost else ""

    return tell


def _dev_table(config: TrainConfig, end: RunStatus, most: int = 12) -> Table:
    """The newest validations, and the best."""
    rows = list(ValidationRecord(config.run.validation).results().values())
    table = Table(box=None, pad_edge=False)
    for name in ("dev: step", *DEV_COLUMNS, "seconds", ""):
        table.add_column(name, justify="right")
    for row in [row for row in rows[:-most] if row["step"] == end.best] + rows[-most:]:
        values = (f"{row[name]:.3f}" if name in row else "–" for name in DEV_COLUMNS)
        table.add_row(f"{row['step']:,}", *values, f"{row['seconds']:.1f}", "best" * (row["step"] == end.best))
    return table
