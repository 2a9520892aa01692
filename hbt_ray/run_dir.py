"""The run folder: the paths of a run's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.storage import (
    AnyPath,
    as_path,
    folder_file,
    local_twin,
    names_in,
    read_json_lines,
    valid_name,
)

EXPORT_RECORD = "hbt_ray.json"
"""File of an exported encoder with the origin and the checksums of its weights."""


class _RunPath:
    """Attribute of `RunDir`: a path below its root."""

    def __init__(self, relative: str) -> None:
        self._relative = relative

    def __get__(self, run: RunDir, owner: type[RunDir]) -> AnyPath:
        return run.root / self._relative


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of a run, on a file system or in an object store; it need not exist."""

    root: AnyPath

    # No annotations from here on, or the dataclass would make fields of the paths.
    config = _RunPath("config.yaml")
    """The configuration, exactly as it was used."""
    base = _RunPath("base")
    """The encoder before training: a SentenceTransformer folder."""
    checkpoints = _RunPath("checkpoints")
    """Folder of checkpoints; training continues from the newest."""
    metrics = _RunPath("metrics.jsonl")
    """One line per step."""
    validation = _RunPath("validation")
    """One file per validated checkpoint, if the run has a dev store."""
    placement_group = _RunPath("placement_group")
    """Id of the workers' placement group in hexadecimal digits, while they run."""
    trackers = _RunPath("trackers.json")
    """Position of each tracker. Trackers without a server write to `tensorboard/`, `mlflow.db` and `wandb/`."""
    model = _RunPath("model")
    """The trained encoder: a SentenceTransformer folder, with transforms of its vectors in `posthoc/`."""
    report = _RunPath("report.html")

    @classmethod
    def at(cls, location: str | AnyPath) -> RunDir:
        """The run at a path or a URI, such as `runs/a` or `s3://bucket/runs/a`."""
        return cls(as_path(location).absolute())

    @property
    def model_info(self) -> AnyPath:
        """Origin of the exported weights; in the model's folder, so that both are replaced together."""
        return folder_file(self.model, EXPORT_RECORD)

    @property
    def local_root(self) -> Path:
        """The folder on this machine for files that are written piece by piece, such as those of trackers.

        It is the run's own folder; for a run in an object store it is a folder of this node (`local_twin`).
        """
        return self.root if isinstance(self.root, Path) else local_twin(self.root)

    @property
    def vectors(self) -> Path:
        """Cached vectors of the texts of tasks on this machine, so that none is encoded twice; may be deleted."""
        return self.local_root / "vectors"

    @property
    def name(self) -> str:
        return self.root.name

    def result(self, task: str, *, of_base: bool = False, variant: str = "") -> AnyPath:
        """The folder of one result (`result.json`, per-query results, failures): `results/TASK[+VARIANT][@base]`.

        Args:
            task: name of the task.
            of_base: the result is that of the untrained encoder.
            variant: transform or precision of the vectors; empty for none.

        Raises:
            InputError: task or variant cannot be part of a folder's name.
        """
        name = valid_name(task, "task") + (f"+{variant}" if variant else "") + ("@base" if of_base else "")
        return self.root / "results" / valid_name(name, "the result")

    def results(self, *, of_base: bool = False) -> list[AnyPath]:
        """The `result.json` files of the trained or of the untrained encoder, sorted by task."""
        folders = [self.root / "results" / name for name in names_in(self.root / "results")]
        # Hidden folders are being written.
        shown = [folder for folder in folders if not folder.name.startswith(".")]
        return [
            folder / "result.json"
            for folder in shown
            if folder.name.endswith("@base") == of_base and folder_file(folder, "result.json").exists()
        ]

    def curve(self) -> list[dict[str, Any]]:
        """One row of metrics per step, in order. While steps are repeated after a restart, the last row counts."""
        by_step = {row["step"]: row for row in read_json_lines(self.metrics) if "step" in row}
        return [by_step[step] for step in sorted(by_step)]
