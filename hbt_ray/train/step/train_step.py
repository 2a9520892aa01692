"""One optimiser step of one rank, and the loop over batches in plain torch.

A step is a function of (weights, optimiser state, step, rank): the learning rate comes from the step, and dropout is
seeded from (seed, step, rank, micro-batch). So a checkpoint needs no generator state, and on the CPU a run that was
stopped and continued equals the uninterrupted run bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.errors import NonFiniteLoss
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.step.encoder_inputs import EncoderInputs, Teacher
from hbt_ray.train.step.grad_cache import EncodeLimits, GradCacheEncoder, autocast
from hbt_ray.train.step.optimizer import Ema, OptimiserConfig, learning_rate, make_optimiser, set_learning_rates


class StepResult(NamedTuple):
    """Measurements of one `TrainStep.run`; equal on all ranks."""

    loss: float
    """Loss of the global batch, terms included."""
    gradient_norm: float
    parts: dict[str, float]
    """Weighted parts of the loss by name; they sum to it."""
    temperature: float | None
    """Temperature that the step used, if it is learned."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Metrics of one step; equal on all ranks except for the speed and the stall."""

    step: int
    kind: str
    language: str
    loss: float
    learning_rate: float
    gradient_norm: float
    pairs_per_second: float
    stall_seconds: float
    """Seconds that the step waited for its batch."""
    parts: dict[str, float] = field(default_factory=dict)
    """Weighted parts of the loss by name; empty if it has only one."""
    temperature: float | None = None
    """Temperature that the step used, if it is learned."""


class TrainStep:
    """One rank's encoder, objective and optimiser.

    Args:
        rank_sizes: rows of every rank's slice of a batch, in rank order.
        teacher: encoder that the student imitates, if the loss has that term.
        before_update: called with the step when gradients are complete and the weights are still the old ones.
    """

    def __init__(
        self,
        encoder: nn.Module,
        config: OptimiserConfig,
        objective: Objective,
        *,
        padding_id: int,
        rank: int = 0,
        rank_sizes: tuple[int, ...],
        device: torch.device | None = None,
        teacher: Teacher | None = None,
        before_update: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.config, self.rank_sizes = config, rank_sizes
        self._rank, self._device = rank, device or torch.device("cpu")
        self._teacher, self.before_update = teacher, before_update
        self.encoder, self.objective = encoder.to(self._device).train(), objective.to(self._device)
        # TF32 is set, never inherited: other code in the process may have switched it either way.
        torch.backends.cuda.matmul.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
        self._cached_encoder = GradCacheEncoder(
            self.encoder,
            padding_id=padding_id,
            limits=EncodeLimits(config.chunk_rows, config.activation_tokens),
            world_size=len(rank_sizes),
            device=self._device,
            autocast=partial(autocast, config.precision, self._device),
        )
        self.optimiser = make_optimiser(self.encoder, self.objective, config)
        self.ema = Ema(self.encoder, config.ema) if config.ema else None

    def run(self, batch: RankBatch) -> StepResult:
        """One optimiser step.

        Raises:
            NonFiniteLoss: on every rank alike, before the weights change.
        """
        inputs = EncoderInputs(batch)
        encoding = self._cached_encoder.encode(inputs.tokens, self.config.seed, batch.step, self._rank)
        vectors = encoding.vectors.requires_grad_()
        teacher_vectors = self._teacher.encode(batch, vectors.shape[1]) if self._teacher else {}
        losses = self.objective.rank_losses(inputs.loss_inputs(vectors, teacher_vectors), self.rank_sizes)

        self.optimiser.zero_grad(set_to_none=True)
        # This backward pass ends at the vectors; all that the ranks exchange for the loss is here.
        torch.stack(list(losses.values())).sum().backward()
        # Without a gradient the rank still passes on zeros: the encoder's backward pass holds an all-reduce.
        encoding.backward(torch.zeros_like(vectors) if vectors.grad is None else vectors.grad)
        self._all_reduce(*(p.grad for p in self.objective.parameters() if p.grad is not None))
        # Gradients are summed over the ranks by now, so every rank computes the same norm without a collective.
        norm = nn.utils.clip_grad_norm_(self._trained_parameters(), self.config.max_gradient_norm)
        result = self._result(losses, norm)
        if not math.isfinite(result.loss + result.gradient_norm):
            raise NonFiniteLoss(batch.step, result.loss, result.gradient_norm)

        self.before_update(batch.step)
        set_learning_rates(self.optimiser, self.config, batch.step)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.encoder)
        return result

    def _trained_parameters(self) -> list[nn.Parameter]:
        return [p for p in (*self.encoder.parameters(), *self.objective.parameters()) if p.requires_grad]

    def _all_reduce(self, *values: Tensor) -> None:
        if len(self.rank_sizes) > 1:
            for value in values:
                dist.all_reduce(value)

    def _result(self, losses: Mapping[str, Tensor], norm: Tensor) -> StepResult:
        values = torch.stack([loss.detach().to(norm.dtype) for loss in losses.values()])
        self._all_reduce(values)
        temperature = self.objective.temperature
        scalars = [norm, temperature] if isinstance(temperature, Tensor) else [norm]
        # One transfer from the device for all numbers.
        numbers = torch.cat([values, *(scalar.detach().to(norm.dtype).reshape(1) for scalar in scalars)]).tolist()
        parts = dict(zip(losses, numbers[: len(losses)], strict=True))
        gradient_norm, *learned = numbers[len(losses) :]
        return StepResult(sum(parts.values()), gradient_norm, parts, learned[0] if learned else None)


def train(
    train_step: TrainStep,
    batches: Iterator[RankBatch],
    on_step: Callable[[StepMetrics], None],
    on_step_end: Callable[[int], None],
) -> None:
    """Run one step per batch.

    Args:
        on_step: called with the metrics of each step after its update.
        on_step_end: called after `on_step` with the number of finished steps; makes checkpoints.
    """
    num_rows = sum(train_step.rank_sizes)
    begin = time.perf_counter()
    for batch in batches:
        arrived = time.perf_counter()
        result = train_step.run(batch)
        end = time.perf_counter()
        on_step(
            StepMetrics(
                step=batch.step,
                kind=batch.kind,
                language=batch.language,
                loss=result.loss,
                learning_rate=learning_rate(train_step.config, batch.step),
                gradient_norm=result.gradient_norm,
                pairs_per_second=num_rows / (end - begin),
                stall_seconds=arrived - begin,
                parts=result.parts if len(result.parts) > 1 else {},
                temperature=result.temperature,
            )
        )
        begin = end  # So the wait of the next step includes the callbacks of this one.
        on_step_end(batch.step + 1)
