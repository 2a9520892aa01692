"""Options of an encoder in training: adapters, dropout, attention, gradient checkpointing, compilation.

None of these options is saved with an encoder.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hbt_ray.errors import ModelError
from hbt_ray.model.config import FLASH, LoraConfig, ModelConfig
from hbt_ray.model.loading import load_encoder

_DROPOUT_SETTINGS = {
    "attention_dropout",
    "attention_probs_dropout_prob",
    "dropout",
    "dropout_rate",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
}
"""Names of the dropout settings in the configurations of encoders."""


def load_for_training(folder: Path, config: ModelConfig) -> Any:
    """Load the SentenceTransformer of a run's base on the CPU, with adapters and options."""
    if config.attention == FLASH and not torch.cuda.is_available():
        raise ModelError(
            f"model.attention={FLASH} needs a GPU, and this worker has none; write sdpa, or set workers.gpu",
            code="MODEL_OPTION",
        )
    encoder = _load_with_options(folder, config)
    if config.gradient_checkpointing:
        # Not reentrant: that variant needs inputs with gradients, which frozen embeddings below adapters do not have.
        options = {"use_reentrant": False, "preserve_rng_state": True}
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # Its new name is not in 5.0.
            encoder[0].model.gradient_checkpointing_enable(options)
    _choose_trained_parameters(encoder, config)
    # Last: adapters replace modules within the layers.
    if config.compile:
        _compile_layers(encoder[0].model)
    return encoder


def load_for_checkpoint(folder: Path, config: ModelConfig) -> Any:
    """Load the base encoder without options. Its parameters with a gradient are those that a checkpoint holds."""
    return _choose_trained_parameters(load_encoder(folder), config)


def check_options(encoder: Any, config: ModelConfig) -> None:
    """Check the options as far as possible on a machine other than the one that trains."""
    model = encoder[0].model
    if config.attention == FLASH and not any(map(importlib.util.find_spec, ("flash_attn", "kernels"))):
        raise ModelError(
            f"model.attention={FLASH} needs the package flash-attn, which is not installed: pip install flash-attn "
            "--no-build-isolation, or write sdpa",
            code="MISSING_PACKAGE",
        )
    if config.attention not in ("auto", FLASH):
        try:
            # A trial: transformers raises an error if the architecture does not support it.
            model.set_attn_implementation(config.attention)
        except (ValueError, ImportError) as error:
            raise ModelError(
                f"model.attention={config.attention}: {_one_line(error)}; write auto", code="MODEL_OPTION"
            ) from error
    if config.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ModelError(
            f"model.gradient_checkpointing: {type(model).__name__} does not offer it; lower "
            "optimiser.activation_tokens instead",
            code="MODEL_OPTION",
        )
    if config.dropout is not None and not _dropout_settings(model.config):
        raise ModelError(
            f"model.dropout: the configuration of {type(model).__name__} has no dropout; write null",
            code="MODEL_OPTION",
        )
    if config.lora:
        adapter_targets(model, config.lora)


def _choose_trained_parameters(encoder: Any, config: ModelConfig) -> Any:
    if config.lora:
        return add_adapters(encoder, config.lora, config.seed)
    if config.freeze_embeddings:
        encoder[0].model.get_input_embeddings().requires_grad_(False)
    return encoder


def _load_with_options(folder: Path, config: ModelConfig) -> Any:
    from transformers import AutoConfig

    dropouts: dict[str, float] = {}
    if config.dropout is not None:
        transformer = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        dropouts = dict.fromkeys(_dropout_settings(transformer), config.dropout)
    attention = {} if config.attention == "auto" else {"attn_implementation": config.attention}
    try:
        return load_encoder(folder, attention, dropouts)
    except (ImportError, ValueError) as error:
        raise ModelError(
            f"model.attention={config.attention} cannot be used here: {_one_line(error)}", code="MODEL_OPTION"
        ) from error


def _dropout_settings(transformer_config: Any) -> set[str]:
    return _DROPOUT_SETTINGS & set(vars(transformer_config))


def _compile_layers(model: nn.Module) -> None:
    """Compile the layers in place: the names of weights do not change, and equal layers are compiled once.

    The transformer as a whole is not compiled: SentenceTransformer calls its `forward`, which bypasses `compile`.
    """
    if not torch.cuda.is_available() and not shutil.which(os.environ.get("CXX", "g++")):
        raise ModelError(
            "model.compile needs a C++ compiler, and this worker has none; install g++, or write false",
            code="MODEL_OPTION",
        )
    for layer in find_layers(model)[1]:
        # Eager random numbers: dropout draws as without compilation.
        layer.compile(dynamic=True, options={"fallback_random": True})


def find_layers(encoder: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and content of the longest module list, which holds the layers in every transformer.

    Lists within a list are parts of a layer, such as its experts, and may be longer, so they are left out.
    """
    lists = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = {name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    return max(outer.items(), key=lambda item: len(item[1]), default=("", nn.ModuleList()))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def add_adapters(encoder: Any, config: LoraConfig, seed: int) -> Any:
    """Add adapters to a SentenceTransformer in place and freeze all other parameters."""
    layers = adapter_targets(encoder[0].model, config)
    # After `adapter_targets`, which reports a missing peft with a remedy.
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel

    peft_config = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # It may be fractional.
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
    """Add the adapters to the weights in place, which makes the encoder an ordinary one again."""
    encoder[0].model = encoder[0].model.merge_and_unload()
    return encoder


def adapter_targets(model: nn.Module, config: LoraConfig) -> list[str]:
    """Full names of the layers of a transformer that get an adapter."""
    # Looked up without importing it: peft is slow to import.
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
    """The names as a list in which those that differ only in the layer's number occur once."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)) or "no linear layer at all"
