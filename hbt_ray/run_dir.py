"""The run folder: where each file of a run lies.

RUN/config.yaml        the configuration, exactly as it was used
RUN/base/              the encoder before training (SentenceTransformer folder)
RUN/checkpoints/       what training continues from
RUN/metrics.jsonl      one line per step
RUN/validation.jsonl   one line per validated checkpoint, if the run has a dev store
RUN/placement_group    id of the Ray placement group of the workers, while they run
RUN/trackers.json      what each tracker has received
RUN/tensorboard/       event files; RUN/mlflow.db and RUN/wandb/ if those trackers are used without a server
RUN/model/             the trained encoder (SentenceTransformer folder), with `posthoc/` transforms of its vectors
RUN/results/<task>/    result.json, per-query results and failures of the trained encoder; `<task>+<variant>` with a
                       transform of its vectors or in another precision, `<task>@base` of the untrained encoder
RUN/vectors/           cached vectors of the texts of tasks, so that none is encoded twice; may be deleted
RUN/report.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_ray.storage import read_json_lines, valid_name

EXPORT_RECORD = "hbt_ray.json"
"""File of an exported encoder that says which weights it has, with their checksums."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of a run. Nothing needs to exist."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def placement_group(self) -> Path:
        """Holds the id of the workers' placement group in hexadecimal digits, while they run."""
        return self.root / "placement_group"

    @property
    def validation(self) -> Path:
        return self.root / "validation.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def trackers(self) -> Path:
        return self.root / "trackers.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def model_info(self) -> Path:
        """Says which weights were exported; in the model's folder, so that both are replaced together."""
        return self.model / EXPORT_RECORD

    @property
    def vectors(self) -> Path:
        return self.root / "vectors"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def result(self, task: str, *, of_base: bool = False, variant: str = "") -> Path:
        """The folder of one result.

        Args:
            task: name of the task.
            of_base: the result is that of the untrained encoder.
            variant: transform or precision of the vectors; empty for none.

        Raises:
            InputError: task or variant cannot be part of a folder's name.
        """
        name = valid_name(task, "task") + (f"+{variant}" if variant else "") + ("@base" if of_base else "")
        return self.root / "results" / valid_name(name, "the result")

    def results(self, *, of_base: bool = False) -> list[Path]:
        """The `result.json` files of the trained or of the untrained encoder, sorted by task."""
        paths = sorted(self.root.glob("results/[!.]*/result.json"))  # Hidden folders are being written.
        return [path for path in paths if path.parent.name.endswith("@base") == of_base]

    def curve(self) -> list[dict[str, Any]]:
        """One row of metrics per step, in order. While steps are repeated after a restart, the last row counts."""
        by_step = {row["step"]: row for row in read_json_lines(self.metrics) if "step" in row}
        return [by_step[step] for step in sorted(by_step)]
