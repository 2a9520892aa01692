"""Export: the weights of a checkpoint as a SentenceTransformer folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from hbt_ray.errors import CheckpointError
from hbt_ray.model.trainable_encoder import load_for_checkpoint, merge_adapters
from hbt_ray.run_dir import EXPORT_RECORD, RunDir
from hbt_ray.storage import atomic_folder, file_sha256, local_folder, read_checked_json, write_checked_json
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.checkpoint.format import EMA, restore_weights
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.validation.record import ValidationRecord, best_step


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """Origin of the weights of an exported encoder."""

    steps: int
    best: bool = False
    """Whether they are of the best checkpoint by the dev measure; otherwise they are of the newest."""
    averaged: bool = False
    """Whether the weights are averaged over the steps."""
    lora_rank: int | None = None
    """Rank of the adapters that were trained and merged; None without adapters."""
    measure: str = ""
    """Measure on the dev store; empty if the checkpoint was not validated."""
    value: float | None = None
    weights: dict[str, str] = field(default_factory=dict, compare=False)
    """SHA-256 of each file of weights, which is compared whenever the encoder is loaded."""

    @classmethod
    def load(cls, run: RunDir) -> ExportRecord | None:
        """The record of the encoder in `run.model`; None if there is none."""
        try:
            return cls(**read_checked_json(run.model_info))
        except FileNotFoundError:
            return None


def export(run: RunDir) -> int:
    """Write `run.model` from the best checkpoint of the run, with averaged weights if the run has them.

    The newest checkpoint is taken if `validation.export` says so or if none was validated.

    Returns:
        The training steps of the checkpoint.

    Raises:
        CheckpointError: there is no checkpoint yet, or the one to export is damaged.
        ModelError: the run trained adapters, and peft is not installed.
    """
    checkpoints = CheckpointDirectory(run.checkpoints)
    if not checkpoints.steps():
        raise CheckpointError(f"run {run.name!r} has no checkpoint yet; train it first", code="NO_CHECKPOINT")
    config = TrainConfig.of_run(run)
    best = best_step(config) if config.validation.export == "best" else None
    encoder = load_for_checkpoint(local_folder(run.base), config.model)
    if best is None:
        newest = checkpoints.newest()
        assert newest is not None  # There are checkpoints, and `newest` raises if all of them are damaged.
        info = restore_weights(newest[0], encoder, newest[1], averaged=True)
    else:
        info = restore_weights(checkpoints.path(best), encoder, averaged=True)
    measure, lora = config.validation.measure, config.model.lora
    if lora:  # Others load the encoder without peft.
        merge_adapters(encoder)
    results = ValidationRecord(run.validation).results() if config.validation.store else {}
    value = results.get(info.step, {}).get(measure)
    with atomic_folder(run.model) as folder:
        encoder.save_pretrained(str(folder), create_model_card=False)  # We write our own card, with the results.
        weights = sorted(folder.rglob("*.safetensors"))
        record = ExportRecord(
            steps=info.step,
            best=best is not None,
            averaged=EMA in info.files,
            lora_rank=lora.rank if lora else None,
            measure=measure if value is not None else "",
            value=value,
            weights={str(path.relative_to(folder)): file_sha256(path) for path in weights},
        )
        write_checked_json(folder / EXPORT_RECORD, asdict(record))
    return info.step
