"""Precision: what the loss is computed in, whatever the encoder is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def wide(vectors: Tensor) -> Tensor:
    """At least float32: logits of bf16 vectors would be too coarse for a temperature of 0.01."""
    return vectors if vectors.dtype == torch.float64 else vectors.float()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products of float32 matrices are of float32: TF32 has ten bits, so at a temperature of 0.01 a score would be off
    by a twentieth, and autocast would make bf16 of it.

    Asked of each backend: the older `get_float32_matmul_precision` raises in a process that has set one of these.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # made at import
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
