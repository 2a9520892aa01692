"""Micro-batches: texts that go through the encoder together, of about equal length to save padding.

All texts of a batch, questions and passages alike, are sorted by length and cut. A micro-batch ends after `max_rows`
texts, or earlier if one more text would waste more on padding than another pass through the encoder costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_ray.data.stream.tokenise import Tokens

PASS_TOKENS = {"cpu": 64, "cuda": 2_048}
"""Type of device → number of tokens whose encoding takes about as long as the fixed cost of one pass."""


def microbatch_rows(lengths: NDArray[np.int32], max_rows: int, pass_tokens: int) -> list[NDArray[np.int64]]:
    """The rows of every micro-batch, the longest texts first."""
    # A stable sort: equal lengths give equal micro-batches on any machine.
    order = np.argsort(-lengths, kind="stable")
    microbatches, start = [], 0
    while start < len(order):
        candidates = lengths[order[start : start + max_rows]].astype(np.int64)
        # Padding tokens if the micro-batch ended after 1, 2, … candidates; the first one is the longest.
        padding = candidates[0] * np.arange(1, len(candidates) + 1) - np.cumsum(candidates)
        # `padding` ascends from 0, so at least one text is taken.
        end = start + int(np.searchsorted(padding, pass_tokens, side="right"))
        microbatches.append(order[start:end])
        start = end
    return microbatches


def encoder_features(tokens: Tokens, padding_id: int, device: torch.device) -> dict[str, Tensor]:
    """Token ids and attention mask, [texts, longest text], as the encoder takes them."""
    # Converted on the device: int32 halves the copy.
    ids = to_device(tokens.padded(padding_id), device).long()
    lengths = to_device(tokens.lengths, device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; for a GPU through pinned memory, so that the copy overlaps with computation."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())  # The stream's arrays are read-only.
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
