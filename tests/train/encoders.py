"""Encoders small enough for any test, of the shape of a SentenceTransformer."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class TinyEncoder(nn.Module):
    """Mean of embeddings, a layer, unit length."""

    def __init__(self, kind: torch.dtype, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(50, 16, dtype=kind)
        self.layer = nn.Linear(16, 16, dtype=kind)
        self.dropout = nn.Dropout(dropout)
        self.tokenizer = SimpleNamespace(pad_token_id=0)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = features["attention_mask"].unsqueeze(-1)
        mean = (self.embedding(features["input_ids"]) * mask).sum(1) / mask.sum(1)
        return {"sentence_embedding": nn.functional.normalize(self.dropout(torch.tanh(self.layer(mean))))}
