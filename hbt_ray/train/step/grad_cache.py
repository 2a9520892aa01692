"""Gradient-cached encoder: the memory of activations does not grow with the batch size.

Gradient caching (2101.06983): a micro-batch goes through the encoder without a graph, the loss gives the gradient of
its vectors, and the micro-batch goes through once more, now with a graph, to pass that gradient on to the weights. The
second forward pass is done only for micro-batches beyond a budget of tokens; the graphs of the others are kept. Dropout
is seeded for every micro-batch, so both passes draw the same random numbers, and any budget gives the same gradients.

    encode     micro-batches within the budget with a graph, the others without         → vectors
    backward   the kept graphs, then the others one by one, encoded again               → gradients, in one all-reduce
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hbt_ray.data.index.permutation import make_key
from hbt_ray.data.stream.tokenise import Tokens
from hbt_ray.model.microbatch import PASS_TOKENS, encoder_features, microbatch_rows, to_device
from hbt_ray.train.loss.tiles import upcast


class Microbatch(NamedTuple):
    """Texts that go through the encoder together."""

    features: dict[str, Tensor]
    seed: int
    """Seed for dropout."""


class MicrobatchedEncoder(nn.Module):
    """Several micro-batches in one forward pass: DistributedDataParallel allows one per gradient synchronisation."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, microbatches: list[Microbatch]) -> list[Tensor]:
        """Normalised vectors of each micro-batch, [rows, width]."""
        vectors = []
        for microbatch in microbatches:
            torch.manual_seed(microbatch.seed)
            # A copy, because the encoder adds its outputs to the dictionary, which would keep them alive.
            vectors.append(self.encoder(dict(microbatch.features))["sentence_embedding"])
        return vectors


@dataclass(frozen=True, slots=True)
class EncodeLimits:
    """Bounds of a micro-batch and of the activations that are kept."""

    chunk_rows: int
    """Most texts of a micro-batch; 0 for no bound."""
    activation_tokens: int | None
    """Tokens, padding included, whose graph is kept from the first pass; None keeps all."""


@dataclass(frozen=True, slots=True)
class CachedEncoding:
    """Vectors of texts, and the function that passes their gradient on to the weights."""

    vectors: Tensor
    """[rows, width], float32 or float64, without a graph."""
    backward: Callable[[Tensor], None]
    """Takes the gradient of `vectors`, [rows, width], and adds to the gradients of the weights, summed over ranks."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bf16 if `precision` is bf16, or auto on a GPU; else a context that does nothing."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


class GradCacheEncoder:
    """One rank's encoder in micro-batches.

    Args:
        limits: bounds of micro-batches and of kept activations.
        world_size: number of ranks; with several, gradients are summed over them.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        padding_id: int,
        limits: EncodeLimits,
        world_size: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._padding_id, self._limits, self._world_size = padding_id, limits, world_size
        self._device, self._autocast = device, autocast
        self._local = MicrobatchedEncoder(encoder)
        self._model: nn.Module = self._local
        if world_size > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Buffers are constants (position ids), so they are not sent at every step. Gradients are views of the
            # all-reduce buckets, which saves a second copy of them.
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch 2.6 lacks the new name.
                self._model = DistributedDataParallel(
                    self._local, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
                )

    def encode(self, tokens: Tokens, *seed: int) -> CachedEncoding:
        """Vectors of the texts, in their order. Dropout is a function of `seed` and the position of a micro-batch."""
        rows = microbatch_rows(tokens.lengths, self._limits.chunk_rows or len(tokens), PASS_TOKENS[self._device.type])
        microbatches = [
            Microbatch(encoder_features(tokens[part], self._padding_id, self._device), make_key(*seed, number))
            for number, part in enumerate(rows)
        ]
        num_kept = self._num_kept(microbatches)
        kept, repeated = microbatches[:num_kept], microbatches[num_kept:]
        # DistributedDataParallel decides in the forward pass whether the backward pass all-reduces.
        with self._gradient_sync(enabled=not repeated), self._autocast():
            graphs = self._model(kept) if kept else []
        # An autocast context of its own: a shared one would reuse weights that were cast with a graph.
        with torch.no_grad(), self._autocast():
            cached = [self._local([microbatch])[0] for microbatch in repeated]
        # Micro-batches are sorted by length; put the vectors back into the order of the texts.
        order = to_device(np.concatenate(rows), self._device)
        sorted_vectors = torch.cat([upcast(vectors.detach()) for vectors in (*graphs, *cached)])
        vectors = torch.empty_like(sorted_vectors).index_copy_(0, order, sorted_vectors)

        def backward(gradient: Tensor) -> None:
            # DistributedDataParallel averages over ranks, but the ranks' shares of the loss are to be summed.
            parts = (gradient * self._world_size)[order].split([len(part) for part in rows])
            if graphs:
                _backward(graphs, parts[:num_kept])
            for number, (microbatch, part) in enumerate(zip(repeated, parts[num_kept:], strict=True), start=1):
                with self._gradient_sync(enabled=number == len(repeated)):
                    with self._autocast():
                        vectors_again = self._model([microbatch])
                    _backward(vectors_again, [part])

        return CachedEncoding(vectors, backward)

    def _num_kept(self, microbatches: list[Microbatch]) -> int:
        budget = self._limits.activation_tokens
        if budget is None:
            return len(microbatches)
        # Padding counts, since its activations are kept too.
        totals = accumulate(microbatch.features["input_ids"].numel() for microbatch in microbatches)
        return sum(total <= budget for total in totals)

    def _gradient_sync(self, *, enabled: bool) -> AbstractContextManager[object]:
        """All-reduce gradients in the last backward pass of a step alone.

        Ranks differ in their number of micro-batches, but each takes part in exactly one all-reduce.
        """
        if isinstance(self._model, DistributedDataParallel) and not enabled:
            return self._model.no_sync()
        return nullcontext()


def _backward(vectors: list[Tensor], gradients: list[Tensor] | tuple[Tensor, ...]) -> None:
    cast = [gradient.to(vector.dtype) for vector, gradient in zip(vectors, gradients, strict=True)]
    torch.autograd.backward(vectors, cast)
