"""The inspection: whether a loaded encoder is the one that was saved, and can read what it will be given.

A transformer that lacks some of its weights is made with random ones there, and one whose configuration names fewer
layers than the file has is cut; both load without an error, and would show only as poor results.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from hbt_ray.errors import ModelError


def inspect(encoder: Any, transformer: Path, longest: int) -> None:
    """Check a SentenceTransformer against the folder of its transformer.

    Args:
        longest: tokens of the longest text.

    Raises:
        ModelError: weights are missing or left over, the tokenizer is another encoder's, or texts are too long.
    """
    _check_weights(encoder[0].model, transformer)
    _check_tokenizer(encoder, transformer)
    positions = num_positions(encoder[0].model)
    if positions is not None and longest > positions:
        raise ModelError(
            f"a length of {longest} tokens is beyond the {positions} positions of {transformer}; lower "
            "model.max_question_length or model.max_passage_length"
        )


def num_positions(model: nn.Module) -> int | None:
    """Tokens that a transformer can tell apart by their places; None where there is no bound."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa and its kin count from behind the place of padding: of 514 rows, 512 are for tokens.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _check_weights(model: Any, transformer: Path) -> None:
    # Read a second time, as SentenceTransformer does not pass on what transformers found.
    _, found = type(model).from_pretrained(
        transformer, config=model.config, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    # The pooler is not used, and heads of other tasks are rightly left over.
    missing = sorted(name for name in found["missing_keys"] if name.split(".")[0] != "pooler")
    if missing:
        raise ModelError(
            f"{transformer}: {len(missing)} weights are missing ({_some(missing)}) and would be random; the weights "
            "are of another architecture or cut short, or config.json has too many layers. Copy the folder anew"
        )
    own = {_shape(name) for name in model.state_dict()}
    left = sorted(name for name in found["unexpected_keys"] if any(_shape(name).endswith(shape) for shape in own))
    if left:
        raise ModelError(
            f"{transformer}: {len(left)} weights have no place in the encoder ({_some(left)}) and would be left out; "
            "config.json has too few layers, or is another encoder's. Copy the folder anew"
        )


def _shape(name: str) -> str:
    """Equal for the same weight of all layers."""
    return re.sub(r"\d+", "#", name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _check_tokenizer(encoder: Any, transformer: Path) -> None:
    tokenizer, rows = encoder.tokenizer, encoder[0].model.get_input_embeddings().num_embeddings
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"{transformer}: has no fast tokenizer, which data tasks need; save it as tokenizer.json first"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{transformer}: its tokenizer has no padding token, so texts of different lengths cannot share a batch; "
            "set pad_token in tokenizer_config.json to a token that it has"
        )
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"{transformer}: the tokenizer has ids up to {largest}, but the encoder has embeddings for {rows} only; "
            "the tokenizer is another encoder's"
        )
