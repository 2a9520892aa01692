"""The tower: texts to vectors, and gradients of vectors back to the weights, in memory that no batch size changes.

Gradient caching (2101.06983): a chunk goes through the encoder without a graph, the loss gives the gradient of its
vectors, and the chunk goes through once more, now with a graph, to pass that gradient on. That costs a second forward
pass, so it is done only for the chunks beyond a budget of tokens; the graphs of the others are kept. The random numbers
of dropout are seeded anew for every chunk, so both passes draw the same, and any budget gives the same gradients.

    encode     kept chunks with a graph, the others without                       → vectors
    backward   kept chunks, then the others one by one, encoded again             → gradients, in one all-reduce
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


class Microbatch(NamedTuple):
    """What the encoder takes at once."""

    features: dict[str, Tensor]
    seed: int
    """Of its dropout."""


class MicrobatchedEncoder(nn.Module):
    """The encoder over chunks, one after the other in one forward pass, as DistributedDataParallel wants it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, chunks: list[Microbatch]) -> list[Tensor]:
        """Normalised vectors of each, [rows, width]."""
        vectors = []
        for chunk in chunks:
            torch.manual_seed(chunk.seed)
            # A copy, as the encoder writes what it made of the tokens into what it is given, where it would stay.
            vectors.append(self.encoder(dict(chunk.features))["sentence_embedding"])
        return vectors


@dataclass(frozen=True, slots=True)
class EncodeLimits:
    """How much goes through the encoder at once, and how much of it stays."""

    chunk_rows: int
    """Texts of a chunk at most."""
    activation_tokens: int | None
    """Tokens, padding included, whose graph is kept from the first pass; None keeps all."""


class CachedEncoding:
    """The vectors of some texts, and the way back."""

    def __init__(self, vectors: Tensor, backward: Callable[[Tensor], None]) -> None:
        self.vectors = vectors
        """[rows, width], at least float32, without a graph."""
        self.backward = backward
        """Takes their gradient, [rows, width], and adds to the gradients of the weights, summed over the ranks."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 where `OptimiserConfig.precision` says so."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


class GradCacheEncoder:
    """One rank's encoder.

    Args:
        autocast: makes the context of a forward pass.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        padding_id: int,
        budget: EncodeLimits,
        world_size: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._padding_id, self._budget, self._world_size = padding_id, budget, world_size
        self._device, self._autocast = device, autocast
        self._plain = MicrobatchedEncoder(encoder)
        self._model: nn.Module = self._plain
        if world_size > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Buffers are constants (position ids); sending them at every step would buy nothing.
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # The new name is not in torch 2.6.
                self._model = DistributedDataParallel(
                    self._plain, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
                )

    def encode(self, tokens: Tokens, *seed: int) -> CachedEncoding:
        """Vectors of the texts, in their order; dropout is a function of `seed` and the place of a chunk."""
        rows = microbatch_rows(tokens.lengths, self._budget.chunk_rows or len(tokens), PASS_TOKENS[self._device.type])
        chunks = [
            Microbatch(encoder_features(tokens[some], self._padding_id, self._device), make_key(*seed, number))
            for number, some in enumerate(rows)
        ]
        split = self._num_kept(chunks)
        kept, others = chunks[:split], chunks[split:]
        with self._sends(not others), self._autocast():
            graphs = self._model(kept) if kept else []
        with torch.no_grad(), self._autocast():  # A context of its own: it remembers weights that it cast.
            cached = [self._plain([chunk])[0] for chunk in others]
        order = to_device(np.concatenate(rows), self._device)
        sorted_vectors = torch.cat([_wide(vectors.detach()) for vectors in (*graphs, *cached)])
        vectors = torch.empty_like(sorted_vectors).index_copy_(0, order, sorted_vectors)

        def backward(gradient: Tensor) -> None:
            # DistributedDataParallel averages over ranks, but the parts of the loss are to be summed.
            parts = (gradient * self._world_size)[order].split([len(some) for some in rows])
            if graphs:
                _back(graphs, parts[:split])
            for number, (chunk, part) in enumerate(zip(others, parts[split:], strict=True), start=1):
                with self._sends(number == len(others)):
                    with self._autocast():
                        again = self._model([chunk])
                    _back(again, [part])

        return CachedEncoding(vectors, backward)

    def _num_kept(self, chunks: list[Microbatch]) -> int:
        budget = self._budget.activation_tokens
        if budget is None:
            return len(chunks)
        sizes = accumulate(chunk.features["input_ids"].numel() for chunk in chunks)
        return sum(size <= budget for size in sizes)

    def _sends(self, whether: bool) -> AbstractContextManager[object]:
        """Gradients go to the other ranks with the last backward pass of a step and no other."""
        if isinstance(self._model, DistributedDataParallel) and not whether:
            return self._model.no_sync()
        return nullcontext()


def _back(vectors: list[Tensor], gradients: list[Tensor] | tuple[Tensor, ...]) -> None:
    same_kind = [gradient.to(vector.dtype) for vector, gradient in zip(vectors, gradients, strict=True)]
    torch.autograd.backward(vectors, same_kind)


def _wide(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()
