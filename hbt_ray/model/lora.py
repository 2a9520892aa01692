"""LoRA (2106.09685): the weights stay as they are, and products of two narrow matrices are learned beside them.

    y = W x + (alpha / rank) · B A x          A: [rank, in], random; B: [out, rank], zero, so that training starts at W

Only A and B are trained, kept in checkpoints and sent between ranks. The export adds the products to the weights, so
that what people load is an ordinary encoder.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from hbt_ray.config import Config
from hbt_ray.errors import ModelError


class LoraConfig(Config):
    """Adapters of low rank."""

    rank: int = Field(8, gt=0)
    alpha: float = Field(16, gt=0)
    """The adapters' part is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of what goes into the adapters."""
    targets: tuple[str, ...] | Literal["all-linear"] | None = None
    """Linear layers that get an adapter, by the ends of their names, such as `query` or `output.dense`; by default the
    projections that peft names for the architecture: queries and values."""


def add_adapters(encoder: Any, config: LoraConfig, seed: int) -> Any:
    """Put adapters into a SentenceTransformer, in place; from then on nothing else has a gradient.

    Args:
        seed: of their initial weights, which do not depend on what was drawn before.

    Raises:
        ModelError: peft is missing, or a target names no linear layer.
    """
    names = adapter_targets(encoder[0].model, config)
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel

    how = PeftConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names)  # type: ignore[arg-type]  # alpha may be fractional
    encoder.requires_grad_(False)  # Also what lies behind the transformer.
    # peft asks transformers by a name that is on its way out.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.manual_seed(seed)
        encoder[0].model = PeftModel(encoder[0].model, how)
    return encoder


def merge_adapters(encoder: Any) -> Any:
    """Add the adapters to the weights, in place; the encoder is an ordinary one again."""
    encoder[0].model = encoder[0].model.merge_and_unload()
    return encoder


def adapter_targets(model: nn.Module, config: LoraConfig) -> list[str]:
    """Full names of the layers of a transformer that get an adapter.

    Raises:
        ModelError: peft is missing, or a target names no linear layer.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModelError("model.lora needs the package peft, which is not installed: pip install 'hbt-ray[lora]'")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if config.targets == "all-linear":
        return linear
    wanted = _usual(model, linear) if config.targets is None else config.targets
    unknown = [end for end in wanted if not any(_ends(name, end) for name in linear)]
    if unknown or not wanted:
        raise ModelError(
            f"model.lora.targets: {', '.join(map(repr, unknown)) or 'an empty list'} names no linear layer of this "
            f"encoder, so nothing would be trained there. It has {_told(linear)}; give ends of these names, or "
            "all-linear"
        )
    return [name for name in linear if any(_ends(name, end) for end in wanted)]


def _usual(model: nn.Module, linear: list[str]) -> tuple[str, ...]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as BY_ARCHITECTURE

    kind = getattr(model.config, "model_type", "")
    usual = BY_ARCHITECTURE.get(kind)
    if not isinstance(usual, list):
        raise ModelError(
            f"model.lora.targets: peft knows no usual layers for the architecture {kind!r}; write targets: all-linear, "
            f"or ends of these names: {_told(linear)}"
        )
    return tuple(usual)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _told(names: list[str]) -> str:
    """The names, equal ones of all layers once."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)) or "no linear layer at all"
