"""Export: the weights of a checkpoint as a SentenceTransformer folder that anyone can load."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hbt_ray.errors import CheckpointError
from hbt_ray.model.lora import merge_adapters
from hbt_ray.model.options import load_for_checkpoint
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import atomic_folder, read_checked_json, with_checksum, write_json
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import EMA, CheckpointInfo, restore_weights
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.record import ValidationRecord, best_step


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """Which weights an exported encoder has."""

    steps: int
    """Of training."""
    best: bool = False
    """By the dev measure; else the newest."""
    averaged: bool = False
    """Over the steps."""
    lora_rank: int | None = None
    """Of the adapters that were merged, if any."""
    measure: str = ""
    """On the dev store, if it was validated there."""
    value: float | None = None

    @classmethod
    def of(cls, run: RunDir) -> ExportRecord | None:
        """What lies in `run.model`; None where nothing does.

        Raises:
            DamagedFile: the record was cut short or changed.
        """
        try:
            return cls(**read_checked_json(run.model_info))
        except FileNotFoundError:
            return None


def export(run: RunDir) -> int:
    """Write `run.model` from the run's best checkpoint, or the newest where `validation.export` says so or nothing was
    validated; from the average of the weights where the run has one. Returns the number of its training steps.

    Raises:
        CheckpointError: there is no checkpoint yet, or the one to export is damaged.
        ModelError: the run trained adapters, and peft is missing here.
    """
    checkpoints = CheckpointDirectory(run.checkpoints)
    if not checkpoints.steps():
        raise CheckpointError(f"run {run.name!r} has no checkpoint yet; train it first", code="NO_CHECKPOINT")
    config = TrainConfig.load(run.config)
    best = best_step(config) if config.validation.export == "best" else None
    encoder = load_for_checkpoint(run.base, config.model)
    if best is None:
        newest = checkpoints.newest()
        assert newest is not None
        state = restore_weights(newest[0], encoder, newest[1], averaged=True)
    else:
        state = restore_weights(checkpoints.path(best), encoder, averaged=True)
    if config.model.lora:
        merge_adapters(encoder)
    with atomic_folder(run.model) as folder:
        encoder.save_pretrained(str(folder), create_model_card=False)
        record = asdict(_described(run, config, state, best=best is not None))
        write_json(folder / run.model_info.name, with_checksum(record))
    return state.step


def _described(run: RunDir, config: TrainConfig, state: CheckpointInfo, *, best: bool) -> ExportRecord:
    measure, lora = config.validation.measure, config.model.lora
    rows = ValidationRecord(run.validation).results() if config.validation.store else {}
    value = rows.get(state.step, {}).get(measure)
    return ExportRecord(
        steps=state.step,
        best=best,
        averaged=EMA in state.files,
        lora_rank=lora.rank if lora else None,
        measure=measure if value is not None else "",
        value=value,
    )
