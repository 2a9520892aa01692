"""Gauges of the training on Ray's Prometheus endpoint, set by rank 0; tagged with the run's name."""

from __future__ import annotations

from ray.util.metrics import Gauge

from hbt_ray.train.step.loop import StepOutcome

_TOLD = {
    "step": "Steps that are done.",
    "loss": "Of the last global batch.",
    "learning_rate": "Of the last step.",
    "gradient_norm": "Of the last step, before clipping.",
    "pairs_per_second": "Of the last step, over all ranks.",
    "stall_seconds": "How long the last step waited for its batch.",
}


class TrainingGauges:
    """`hbt_train_<name>`."""

    def __init__(self, run: str) -> None:
        self._gauges = {name: Gauge(f"hbt_train_{name}", text, tag_keys=("run",)) for name, text in _TOLD.items()}
        self._tags = {"run": run}

    def show(self, outcome: StepOutcome) -> None:
        for name, gauge in self._gauges.items():
            value = outcome.step + 1 if name == "step" else getattr(outcome, name)
            gauge.set(value, tags=self._tags)
