"""Metrics that rank 0 writes: `metrics.jsonl` of the run, and gauges for Prometheus.

`metrics.jsonl` has exactly one row per step, even if processes were killed. Only rank 0 writes it, as only rank 0
makes checkpoints. All rows up to a checkpoint's step are on the disk before the checkpoint counts, and training that
continues from a checkpoint first truncates the file to it. So a kill loses only rows beyond the newest checkpoint, and
those steps are trained and written again.
"""

from __future__ import annotations

import time
from typing import Any

from ray.util.metrics import Gauge

from hbt_ray.storage import AnyPath, ObjectPath, append_json_lines, read_json_lines, write_json_lines
from hbt_ray.train.step.train_step import StepMetrics

_SECONDS_BETWEEN_WRITES = 1.0
"""A write on shared storage may take as long as a short step."""
_READ_AGAIN_SECONDS = (0.5, 2.0)
"""Waits before the rows of an object store that lack a step are read again."""
_GAUGES = {
    "step": "Finished steps.",
    "loss": "Loss of the last global batch.",
    "learning_rate": "Learning rate of the last step.",
    "gradient_norm": "Gradient norm of the last step, before clipping.",
    "pairs_per_second": "Pairs per second in the last step, over all ranks.",
    "stall_seconds": "Seconds that the last step waited for its batch.",
}


class MetricsFile:
    """The file at `path`, which need not exist yet."""

    def __init__(self, path: AnyPath) -> None:
        self._path = path
        self._pending: list[dict[str, Any]] = []
        self._last_write = time.monotonic()

    def truncate(self, step: int) -> None:
        """Keep one row for each step before `step`, at which training continues."""
        by_step: dict[int, dict[str, Any]] = {}
        for seconds in (*_READ_AGAIN_SECONDS, 0.0):
            # A row without a step is not ours; the default drops it.
            by_step = {row["step"]: row for row in read_json_lines(self._path) if row.get("step", step) < step}
            if len(by_step) == step or not isinstance(self._path, ObjectPath):
                break
            time.sleep(seconds)  # An object store may still answer with the content before the last write.
        write_json_lines(self._path, (by_step[at] for at in sorted(by_step)))

    def add(self, row: dict[str, Any]) -> None:
        """Add the row of the next step; it is written within about a second."""
        self._pending.append(row)
        if time.monotonic() - self._last_write > _SECONDS_BETWEEN_WRITES:
            self.flush(durable=False)

    def flush(self, *, durable: bool = True) -> None:
        """Write all rows so far; if `durable`, they survive a crash of the machine."""
        append_json_lines(self._path, self._pending, durable=durable)
        self._pending = []
        self._last_write = time.monotonic()


class TrainingGauges:
    """Gauges `hbt_train_<name>` on Ray's Prometheus endpoint, tagged with the run's name."""

    def __init__(self, run: str) -> None:
        self._gauges = {name: Gauge(f"hbt_train_{name}", text, tag_keys=("run",)) for name, text in _GAUGES.items()}
        self._tags = {"run": run}

    def set(self, metrics: StepMetrics) -> None:
        """Set all gauges to the metrics of a step."""
        for name, gauge in self._gauges.items():
            value = metrics.step + 1 if name == "step" else getattr(metrics, name)
            gauge.set(value, tags=self._tags)
