"""Chunks: a side of the local batch in parts of rows of about equal length, so that little of it is padding.

The encoder sees the parts one after the other in one forward pass, and the vectors go back into the order of the rows:
loss and gradients are those of the whole side at once. All parts stay in memory until the backward pass.

Measured on 16,384 questions with their paragraphs, cut to 64 and 256 tokens: of a batch of 256 rows, 24 % of what
the encoder sees is padding, 11 % in chunks of 64, 6 % of 32; of 1,024 rows in chunks of 256, 11 % instead of 25 %.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hbt_ray.data.stream.tokens import Tokens


class Chunks(NamedTuple):
    """What the encoder takes, part by part."""

    parts: list[dict[str, Tensor]]
    places: Tensor | None
    """Where each row's vector is among those of the parts, [rows]; None where it is in its place already."""


def chunked(tokens: Tokens, chunk_rows: int, padding_id: int, device: torch.device) -> Chunks:
    """Parts of at most `chunk_rows` rows, the longest rows first; one part in the given order if all fit into it."""
    if len(tokens) <= chunk_rows:
        return Chunks([features(tokens, padding_id, device)], None)
    # Stable, so that equal lengths give equal parts on any machine.
    order = np.argsort(-tokens.lengths, kind="stable")
    rows = (order[start : start + chunk_rows] for start in range(0, len(order), chunk_rows))
    parts = [features(tokens.take(some), padding_id, device) for some in rows]
    return Chunks(parts, on_device(np.argsort(order), device))


def encode(encoder: nn.Module, chunks: Chunks) -> Tensor:
    """Normalised vectors in the order of the rows, [rows, width]."""
    vectors: list[Tensor] = [encoder(part)["sentence_embedding"] for part in chunks.parts]
    return vectors[0] if chunks.places is None else torch.cat(vectors).index_select(0, chunks.places)


def features(tokens: Tokens, padding_id: int, device: torch.device) -> dict[str, Tensor]:
    """Ids and attention mask, [rows, longest row], as the encoder takes them."""
    ids = on_device(tokens.padded(padding_id), device).long()
    lengths = on_device(tokens.lengths, device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array there; on a GPU by way of pinned memory, so that the copy runs beside the computation."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())  # The stream's arrays are read-only.
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
