"""The training loop, in plain torch: a learner that takes one optimiser step, and the loop over local batches.

What a step does is a function of (weights, optimiser state, step, rank): the learning rate comes from the step, and the
random numbers of dropout are seeded from (seed, step, rank). So a checkpoint needs no generator state, and a run that
was stopped and continued is the run that was not, bit for bit on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from hbt_ray.config import Config
from hbt_ray.data.plan.keyed import make_key
from hbt_ray.data.stream.local import LocalBatch
from hbt_ray.data.stream.tokens import Tokens
from hbt_ray.errors import NonFiniteLoss
from hbt_ray.train.engine.chunks import Chunks, chunked, on_device
from hbt_ray.train.loss.encoded import Mined
from hbt_ray.train.loss.info_nce import LossConfig, info_nce
from hbt_ray.train.model.encoder import BiEncoder


class OptimiserConfig(Config):
    """AdamW with linear warm-up and decay."""

    steps: int = Field(1_000, gt=0)
    learning_rate: float = Field(3e-5, gt=0)
    """At its peak; 3e-5 is the paper's for pretrained encoders, a scratch encoder wants some 1e-3."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    decay: Literal["linear", "none"] = "linear"
    """To zero at the last step, or constant."""
    weight_decay: float = Field(0.01, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast on a GPU, fp32 elsewhere."""
    chunk_rows: int = Field(256, ge=0)
    """Rows of about equal length that go through the encoder together, so that little is padded; 0 takes all at once.
    The loss is the same. On a CPU 32 saves most; so few at a time would leave a GPU idle."""
    seed: int = 0
    """Of dropout."""

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = self.warmup * self.steps
        if step < rise:
            return self.learning_rate * (step + 1) / (rise + 1)
        if self.decay == "none":
            return self.learning_rate
        return self.learning_rate * (self.steps - step) / (self.steps - rise)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did, equal on all ranks but for the two times."""

    step: int
    kind: str
    language: str
    loss: float
    learning_rate: float
    gradient_norm: float
    pairs_per_second: float
    stall_seconds: float
    """How long the step waited for its batch."""


class Learner:
    """One rank's encoder and optimiser.

    Args:
        sizes: rows of every rank's slice, in rank order.
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimiser: OptimiserConfig,
        loss: LossConfig,
        *,
        padding_id: int,
        rank: int = 0,
        sizes: tuple[int, ...],
        device: torch.device | None = None,
    ) -> None:
        self.config, self._loss = optimiser, loss
        self._padding_id, self._rank, self.sizes = padding_id, rank, sizes
        self._device = device or torch.device("cpu")
        self.encoder = encoder.to(self._device).train()
        model: nn.Module = BiEncoder(self.encoder)
        if len(sizes) > 1:
            ids = [self._device.index] if self._device.type == "cuda" else None
            # Buffers are constants (position ids); sending them at every step would buy nothing.
            model = nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
        self._model = model
        self.optimiser = torch.optim.AdamW(self.encoder.parameters(), weight_decay=optimiser.weight_decay, fused=True)

    def learn(self, batch: LocalBatch) -> tuple[float, float]:
        """One optimiser step. Returns the loss of the global batch and the norm of the gradient.

        Raises:
            NonFiniteLoss: on every rank alike, before the weights change.
        """
        torch.manual_seed(make_key(self.config.seed, batch.step, self._rank))
        with self._autocast():
            sides = (batch.questions, _with_negatives(batch))
            questions, passages = self._model(*map(self._chunked, sides))
        keys = on_device(batch.passage_keys, self._device)
        mined = _mined(batch, passages)
        part = info_nce(questions, passages[: len(keys)], keys, self._loss.temperature, self.sizes, mined)
        total = part.detach().clone()
        if len(self.sizes) > 1:
            dist.all_reduce(total)
        if not torch.isfinite(total):
            raise NonFiniteLoss(batch.step, total.item())
        self.optimiser.zero_grad(set_to_none=True)
        # DistributedDataParallel averages over ranks, but the parts of the loss are to be summed.
        (part * len(self.sizes)).backward()
        norm = nn.utils.clip_grad_norm_(self.encoder.parameters(), self.config.max_gradient_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate(batch.step)
        self.optimiser.step()
        return total.item(), norm.item()

    def _chunked(self, tokens: Tokens) -> Chunks:
        return chunked(tokens, self.config.chunk_rows or len(tokens), self._padding_id, self._device)

    def _autocast(self) -> AbstractContextManager[object]:
        wanted = self.config.precision
        if wanted == "bf16" or (wanted == "auto" and self._device.type == "cuda"):
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        return nullcontext()


def _with_negatives(batch: LocalBatch) -> Tokens:
    """The passages, then the mined ones that are there.

    They go through the encoder together: a rank whose rows have no negative at all then takes part in every collective
    like the others, and no empty text is ever pooled.
    """
    passages, negatives = batch.passages, batch.negatives
    if not len(negatives.ids):
        return passages
    lengths = np.concatenate([passages.lengths, negatives.lengths[negatives.lengths > 0]])
    return Tokens(np.concatenate([passages.ids, negatives.ids]), lengths)


def _mined(batch: LocalBatch, vectors: Tensor) -> Mined | None:
    """The mined negatives, from the vectors of `_with_negatives`; nothing where the plan asks for none."""
    if not len(batch.negative_keys):
        return None
    num_rows = len(batch.passage_keys)
    shape = (num_rows, len(batch.negative_keys) // num_rows)
    present = batch.negatives.lengths > 0
    keys, there, places = (
        torch.from_numpy(column).to(vectors.device)
        for column in (batch.negative_keys.copy(), present, np.flatnonzero(present))
    )
    mined = vectors.new_zeros(len(present), vectors.shape[1]).index_copy(0, places, vectors[num_rows:])
    return Mined(mined.unflatten(0, shape), keys.view(shape), there.view(shape))


def train(
    learner: Learner, batches: Iterator[LocalBatch], record: Callable[[Outcome], None], save: Callable[[int], None]
) -> None:
    """Learn from every batch; `record` its outcome; offer every finished step to `save`."""
    num_rows = sum(learner.sizes)
    begin = time.perf_counter()
    for batch in batches:
        arrived = time.perf_counter()
        loss, norm = learner.learn(batch)
        end = time.perf_counter()
        rate = learner.config.rate(batch.step)
        record(
            Outcome(batch.step, batch.kind, batch.language, loss, rate, norm, num_rows / (end - begin), arrived - begin)
        )
        begin = end
        save(batch.step + 1)
