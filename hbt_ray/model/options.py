"""The options: how an encoder runs while it is trained. None of them is part of the folders that are written."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hbt_ray.errors import ModelError
from hbt_ray.model.config import FLASH, ModelConfig
from hbt_ray.model.loading import load_encoder
from hbt_ray.model.lora import adapter_targets, add_adapters

_DROPOUTS = {
    "attention_dropout",
    "attention_probs_dropout_prob",
    "dropout",
    "dropout_rate",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
}
"""What configurations of encoders call it."""


def load_for_training(folder: Path, config: ModelConfig) -> Any:
    """The SentenceTransformer of a run's base, with adapters and options, on the CPU.

    Raises:
        ModelError: this machine or this encoder does not have what an option needs.
    """
    if config.attention == FLASH and not torch.cuda.is_available():
        raise ModelError(f"model.attention={FLASH} needs a GPU, and this worker has none; write sdpa, or workers.gpu")
    encoder = _loaded(folder, config)
    if config.gradient_checkpointing:
        # Not reentrant: that one needs inputs with gradients, which frozen embeddings below adapters do not give.
        how = {"use_reentrant": False, "preserve_rng_state": True}
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # Its new name is not in 5.0.
            encoder[0].model.gradient_checkpointing_enable(how)
    _train_parts(encoder, config)
    if config.compile:
        _compile(encoder[0].model)
    return encoder


def load_for_checkpoint(folder: Path, config: ModelConfig) -> Any:
    """The same without options; what has a gradient is what a checkpoint holds."""
    return _train_parts(load_encoder(folder), config)


def check_options(encoder: Any, config: ModelConfig) -> None:
    """What can be known of the options without the machine that trains.

    Raises:
        ModelError: a package is missing, or the encoder does not have what an option needs.
    """
    model = encoder[0].model
    if config.attention == FLASH and not any(map(importlib.util.find_spec, ("flash_attn", "kernels"))):
        raise ModelError(
            f"model.attention={FLASH} needs the package flash-attn, which is not installed: pip install flash-attn "
            "--no-build-isolation, or write sdpa"
        )
    if config.attention not in ("auto", FLASH):
        try:
            model.set_attn_implementation(config.attention)
        except (ValueError, ImportError) as error:
            raise ModelError(f"model.attention={config.attention}: {_line(error)}; write auto") from error
    if config.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ModelError(
            f"model.gradient_checkpointing: {type(model).__name__} does not offer it; lower optimiser.activation_tokens"
        )
    if config.dropout is not None and not _dropouts(model.config):
        raise ModelError(f"model.dropout: the configuration of {type(model).__name__} has no dropout; write null")
    if config.lora:
        adapter_targets(model, config.lora)


def _train_parts(encoder: Any, config: ModelConfig) -> Any:
    """Adapters alone, all but the token embeddings, or everything."""
    if config.lora:
        return add_adapters(encoder, config.lora, config.seed)
    if config.freeze_embeddings:
        encoder[0].model.get_input_embeddings().requires_grad_(False)
    return encoder


def _loaded(folder: Path, config: ModelConfig) -> Any:
    from transformers import AutoConfig

    dropouts = {}
    if config.dropout is not None:
        known = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        dropouts = dict.fromkeys(_dropouts(known), config.dropout)
    attention = {} if config.attention == "auto" else {"attn_implementation": config.attention}
    try:
        return load_encoder(folder, attention, dropouts)
    except (ImportError, ValueError) as error:
        raise ModelError(f"model.attention={config.attention} cannot be used here: {_line(error)}") from error


def _dropouts(config: Any) -> set[str]:
    return _DROPOUTS & set(vars(config))


def _compile(model: nn.Module) -> None:
    """Compile the layers in place: names of weights stay, and equal layers are compiled once.

    Not the transformer as a whole: SentenceTransformer calls its forward method, which passes by what `compile` made.
    """
    if not torch.cuda.is_available() and not shutil.which(os.environ.get("CXX", "g++")):
        raise ModelError("model.compile needs a C++ compiler, and this worker has none; install g++, or write false")
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    # The longest list of modules is where transformers keep their layers, whatever they call it.
    for layer in max(lists, key=len, default=[]):
        # Eager random numbers: dropout draws as without compilation.
        layer.compile(dynamic=True, options={"fallback_random": True})


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
