"""The learner: what one rank does in one optimiser step.

What a step does is a function of (weights, optimiser state, step, rank): the learning rate comes from the step, and the
random numbers of dropout are seeded from (seed, step, rank, chunk). So a checkpoint needs no generator state, and a run
that was stopped and continued is the run that was not, bit for bit on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.errors import NonFiniteLoss
from hbt_ray.train.loss.objective import Objective
from hbt_ray.train.step.ema import Ema
from hbt_ray.train.step.encoder_inputs import EncoderInputs
from hbt_ray.train.step.grad_cache import EncodeLimits, GradCacheEncoder, autocast
from hbt_ray.train.step.optimizer import OptimiserConfig, make_optimiser, set_rates
from hbt_ray.train.step.teacher import Teacher


class StepResult(NamedTuple):
    """What a step did, equal on all ranks."""

    loss: float
    """Of the global batch, terms included."""
    gradient_norm: float
    """Before clipping."""
    parts: dict[str, float]
    """Of the loss, by name, as weighted; they sum to it."""
    temperature: float | None
    """That the step was made with, where it is learned."""


class TrainStep:
    """One rank's encoder, objective and optimiser.

    Args:
        sizes: rows of every rank's slice, in rank order.
        teacher: what distillation learns from, if anything.
        before_update: is told the step once its gradients are there and the weights are still the old ones.
    """

    def __init__(
        self,
        encoder: nn.Module,
        config: OptimiserConfig,
        objective: Objective,
        *,
        padding_id: int,
        rank: int = 0,
        sizes: tuple[int, ...],
        device: torch.device | None = None,
        teacher: Teacher | None = None,
        before_update: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.config, self.sizes = config, sizes
        self._rank, self._device = rank, device or torch.device("cpu")
        self._teacher, self.before_update = teacher, before_update
        self.encoder, self.objective = encoder.to(self._device).train(), objective.to(self._device)
        # TF32 is set, never inherited: other code in the process may have switched it either way.
        torch.backends.cuda.matmul.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
        self._tower = GradCacheEncoder(
            self.encoder,
            padding_id=padding_id,
            budget=EncodeLimits(config.chunk_rows, config.activation_tokens),
            world_size=len(sizes),
            device=self._device,
            autocast=partial(autocast, config.precision, self._device),
        )
        self.optimiser = make_optimiser(self.encoder, self.objective, config)
        self.average = Ema(self.encoder, config.average) if config.average else None

    def learn(self, batch: RankBatch) -> StepResult:
        """One optimiser step.

        Raises:
            NonFiniteLoss: on every rank alike, before the weights change.
        """
        sides = EncoderInputs(batch)
        encoding = self._tower.encode(sides.tokens, self.config.seed, batch.step, self._rank)
        vectors = encoding.vectors.requires_grad_()
        taught = self._teacher.versions(batch, vectors.shape[1]) if self._teacher else {}
        parts = self.objective.parts(sides.encoded(vectors, taught), self.sizes)

        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()  # On vectors alone: all that the ranks tell one another.
        encoding.backward(_gradient(vectors))
        self._add_up(*(p.grad for p in self.objective.parameters() if p.grad is not None))
        norm = nn.utils.clip_grad_norm_(self._trained(), self.config.max_gradient_norm)
        learned = self._learned(parts, norm)
        if not math.isfinite(learned.loss + learned.gradient_norm):
            raise NonFiniteLoss(batch.step, learned.loss, learned.gradient_norm)

        self.before_update(batch.step)
        set_rates(self.optimiser, self.config, batch.step)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.encoder)
        return learned

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in (*self.encoder.parameters(), *self.objective.parameters()) if p.requires_grad]

    def _add_up(self, *values: Tensor) -> None:
        """Sum over the ranks, in place."""
        if len(self.sizes) > 1:
            for value in values:
                dist.all_reduce(value)

    def _learned(self, parts: Mapping[str, Tensor], norm: Tensor) -> StepResult:
        numbers = torch.stack([part.detach().to(norm.dtype) for part in parts.values()])
        self._add_up(numbers)
        heat = self.objective.temperature
        others = [norm, heat] if isinstance(heat, Tensor) else [norm]
        # One transfer from the device for all that people and checks want to know.
        told = torch.cat([numbers, *(other.detach().to(norm.dtype).reshape(1) for other in others)]).tolist()
        values, (gradient_norm, *learned_heat) = told[: len(parts)], told[len(parts) :]
        named = dict(zip(parts, values, strict=True))
        return StepResult(sum(values), gradient_norm, named, learned_heat[0] if learned_heat else None)


def _gradient(vectors: Tensor) -> Tensor:
    return torch.zeros_like(vectors) if vectors.grad is None else vectors.grad
