"""Chunks: texts that go through the encoder together, of about equal length, so that little of them is padding.

All texts of a batch, questions and passages alike, are sorted by length and cut. A chunk ends after `chunk_rows` texts,
or earlier where one more text would waste more padding than another pass through the encoder costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_ray.data.stream.tokenise import Tokens

PASS_TOKENS = {"cpu": 64, "cuda": 2_048}
"""Tokens whose encoding takes about as long as what a pass costs besides, by the kind of device."""


def microbatch_rows(lengths: NDArray[np.int32], chunk_rows: int, pass_tokens: int) -> list[NDArray[np.int64]]:
    """The rows of every chunk, the longest first."""
    # Stable, so that equal lengths give equal chunks on any machine.
    order = np.argsort(-lengths, kind="stable")
    chunks, start = [], 0
    while start < len(order):
        some = lengths[order[start : start + chunk_rows]].astype(np.int64)
        waste = some[0] * np.arange(1, len(some) + 1) - np.cumsum(some)
        end = start + int(np.searchsorted(waste, pass_tokens, side="right"))
        chunks.append(order[start:end])
        start = end
    return chunks


def encoder_features(tokens: Tokens, padding_id: int, device: torch.device) -> dict[str, Tensor]:
    """Ids and attention mask, [rows, longest row], as the encoder takes them."""
    ids = to_device(tokens.padded(padding_id), device).long()
    lengths = to_device(tokens.lengths, device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array there; on a GPU by way of pinned memory, so that the copy runs beside the computation."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())  # The stream's arrays are read-only.
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
