"""LoRA (2106.09685): the weights are frozen, and products of two narrow matrices are trained beside them.

    y = W x + (alpha / rank) · B A x          A: [rank, in], random; B: [out, rank], zero, so that training starts at W

Only A and B are trained, stored in checkpoints and exchanged between ranks. The export adds the products to the
weights, so that it is an ordinary encoder.
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
    """Low-rank adapters."""

    rank: int = Field(8, gt=0)
    """Width of the adapter matrices."""
    alpha: float = Field(16, gt=0)
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the adapters."""
    targets: tuple[str, ...] | Literal["all-linear"] | None = None
    """Linear layers that get an adapter, by the ends of their names, such as `query` or `output.dense`. null: the
    layers that peft names for the architecture, as a rule the query and value projections."""


def add_adapters(encoder: Any, config: LoraConfig, seed: int) -> Any:
    """Add adapters to a SentenceTransformer, in place; all other parameters lose their gradients."""
    layers = adapter_targets(encoder[0].model, config)
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel

    peft_config = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # It may be fractional.
        lora_dropout=config.dropout,
        target_modules=layers,
    )
    encoder.requires_grad_(False)  # Modules behind the transformer too.
    # peft uses a name of transformers that is deprecated.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.manual_seed(seed)
        encoder[0].model = PeftModel(encoder[0].model, peft_config)
    return encoder


def merge_adapters(encoder: Any) -> Any:
    """Add the adapters to the weights, in place; the encoder is an ordinary one again."""
    encoder[0].model = encoder[0].model.merge_and_unload()
    return encoder


def adapter_targets(model: nn.Module, config: LoraConfig) -> list[str]:
    """Full names of the layers of a transformer that get an adapter."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError(
            "model.lora needs the package peft, which is not installed: pip install 'hbt-ray[lora]'",
            code="MISSING_PACKAGE",
        )
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if config.targets == "all-linear":
        return linear
    targets = _default_targets(model, linear) if config.targets is None else config.targets
    unknown = [target for target in targets if not any(_ends_with(name, target) for name in linear)]
    if unknown or not targets:
        raise ModelError(
            f"model.lora.targets: {', '.join(map(repr, unknown)) or 'an empty list'} names no linear layer of this "
            f"encoder, so nothing would be trained there. It has {_layer_list(linear)}; give ends of these names, or "
            "all-linear",
            code="LORA_TARGETS",
        )
    return [name for name in linear if any(_ends_with(name, target) for target in targets)]


def _default_targets(model: nn.Module, linear: list[str]) -> tuple[str, ...]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as BY_ARCHITECTURE

    architecture = getattr(model.config, "model_type", "")
    targets = BY_ARCHITECTURE.get(architecture)
    if not isinstance(targets, list):
        raise ModelError(
            f"model.lora.targets: peft has no default layers for the architecture {architecture!r}; write targets: "
            f"all-linear, or ends of these names: {_layer_list(linear)}",
            code="LORA_TARGETS",
        )
    return tuple(targets)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _layer_list(names: list[str]) -> str:
    """The names, with equal ones of all layers once."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)) or "no linear layer at all"
