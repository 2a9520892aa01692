"""The inspection: whether a loaded model is the one that was saved, and can read what it will be given.

A transformer that lacks some of its weights is made with random ones there, and one whose configuration names fewer
layers than the file has is cut; both load without an error, and would show only as poor results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hbt_ray.errors import ModelError
from hbt_ray.model.files import ModelFiles

_PROBE = ["a", "a longer text, so that the other is padded"]


def inspect_encoder(encoder: Any, files: ModelFiles, report: Mapping[str, Any]) -> None:
    """Check a SentenceTransformer.

    Args:
        report: what transformers found when it loaded the weights.

    Raises:
        ModelError: weights are missing, left over or not finite, or the encoder cannot read a batch of texts.
    """
    _check_finite(encoder, files.folder)
    if not files.is_static:
        _check_weights(encoder[0].model, files.transformer, report)
        _check_reads_text(encoder, files.transformer)
        _check_tokenizer(encoder[0].model, encoder.tokenizer, files.transformer)
        _check_pooling(encoder, files.folder)
        if not files.modules and _is_causal(encoder):
            raise ModelError(
                f"{files.folder}: is a {type(encoder[0].model).__name__}, a decoder, whose tokens do not see what "
                "follows; give an encoder, or a SentenceTransformer folder, which says how its vectors are pooled",
                code="MODEL_KIND",
            )
    _check_probe(encoder, files.folder)


def inspect_cross_encoder(model: Any, files: ModelFiles, report: Mapping[str, Any]) -> None:
    """The same for a CrossEncoder, which needs a trained head with one output."""
    head, wanted = type(model.model).__name__, "ForSequenceClassification"
    trained = model.config.architectures or [""]
    if head.endswith(wanted) and not trained[0].endswith(wanted):
        # sentence-transformers puts a random head on any encoder, whose scores would be noise.
        raise ModelError(
            f"{files.folder}: is a {trained[0] or 'model'} without a trained head for pairs, so no cross-encoder",
            code="MODEL_KIND",
        )
    if model.num_labels != 1:
        raise ModelError(
            f"{files.folder}: gives {model.num_labels} numbers a pair; take a cross-encoder that gives one",
            code="MODEL_KIND",
        )
    _check_finite(model, files.folder)
    _check_weights(model.model, files.transformer, report, pooler_is_used=True)
    _check_tokenizer(model.model, model.tokenizer, files.transformer)
    check_length(model.model, model.tokenizer.model_max_length, files.transformer, "the model's own maximum")


def num_positions(model: nn.Module) -> int | None:
    """Tokens that a transformer can tell apart by their places; None where there is no bound."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa and its kin count from behind the place of padding: of 514 rows, 512 are for tokens.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def check_length(model: nn.Module, longest: int, transformer: Path, setting: str) -> None:
    """Raises: ModelError where a text of `longest` tokens is beyond the transformer's positions."""
    positions = num_positions(model)
    if positions is not None and longest > positions:
        raise ModelError(
            f"{transformer}: a length of {longest} tokens ({setting}) is beyond the {positions} positions of the "
            f"model; set it to {positions} or less",
            code="MODEL_LENGTH",
        )


def _is_causal(encoder: Any) -> bool:
    """Whether a transformer's tokens do not see those that follow, as in a decoder."""
    first = torch.tensor([[5, 6, 7], [5, 6, 8]]) % encoder[0].model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        vectors = encoder[0]({"input_ids": first, "attention_mask": torch.ones_like(first)})["token_embeddings"]
    return torch.equal(vectors[0, :2], vectors[1, :2]) and not torch.equal(vectors[0, 2], vectors[1, 2])


def _check_weights(model: Any, transformer: Path, report: Mapping[str, Any], *, pooler_is_used: bool = False) -> None:
    # An encoder's pooler is not used, and heads of other tasks are rightly left over.
    missing = sorted(
        name for name in report.get("missing_keys", ()) if pooler_is_used or name.split(".")[0] != "pooler"
    )
    if missing:
        raise ModelError(
            f"{transformer}: {len(missing)} weights are missing ({_some(missing)}) and would be random; the weights "
            "are of another architecture or cut short, or config.json has too many layers. Copy the folder anew",
            code="MODEL_WEIGHTS",
        )
    own = {_shape(name) for name in model.state_dict()}
    left = sorted(
        name for name in report.get("unexpected_keys", ()) if any(_shape(name).endswith(shape) for shape in own)
    )
    if left:
        raise ModelError(
            f"{transformer}: {len(left)} weights have no place in the encoder ({_some(left)}) and would be left out; "
            "config.json has too few layers, or is another encoder's. Copy the folder anew",
            code="MODEL_WEIGHTS",
        )


def _shape(name: str) -> str:
    """Equal for the same weight of all layers."""
    return re.sub(r"\d+", "#", name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _check_finite(model: nn.Module, folder: Path) -> None:
    damaged = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if damaged:
        raise ModelError(
            f"{folder}: {len(damaged)} weights are not finite numbers ({_some(damaged)}), so neither are its vectors; "
            "copy the folder anew, or take an earlier checkpoint",
            code="MODEL_WEIGHTS",
        )


def _check_reads_text(encoder: Any, transformer: Path) -> None:
    model = encoder[0].model
    reads = encoder[0].modality_config.get("text", {}).get("method")
    if reads != "forward":
        raise ModelError(f"{transformer}: is a {type(model).__name__}, which reads no texts", code="MODEL_KIND")
    if getattr(model.config, "is_encoder_decoder", False) and "Encoder" not in type(model).__name__:
        raise ModelError(
            f"{transformer}: is a {type(model).__name__}, whose vectors are those of a decoder; give an encoder",
            code="MODEL_KIND",
        )


def _check_tokenizer(model: Any, tokenizer: Any, transformer: Path) -> None:
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        raise ModelError(f"{transformer}: has no tokenizer of texts", code="MODEL_TOKENIZER")
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{transformer}: its tokenizer has no padding token, so texts of different lengths cannot share a batch; "
            "set pad_token in tokenizer_config.json to a token that it has",
            code="MODEL_TOKENIZER",
        )
    largest, rows = max(tokenizer.get_vocab().values(), default=-1), model.get_input_embeddings().num_embeddings
    if not 0 <= largest < rows:
        raise ModelError(
            f"{transformer}: the tokenizer has ids up to {largest}, but the encoder has embeddings for {rows} only; "
            "the tokenizer is another encoder's",
            code="MODEL_TOKENIZER",
        )


def _check_pooling(encoder: Any, folder: Path) -> None:
    width = encoder[0].get_embedding_dimension()
    for module in encoder:
        pooled = getattr(module, "embedding_dimension", None)
        if type(module).__name__ in ("Pooling", "WeightedLayerPooling") and pooled != width:
            raise ModelError(
                f"{folder}: {type(module).__name__} is for vectors of {pooled} numbers, and the transformer makes "
                f"{width}; correct embedding_dimension in its config.json",
                code="MODEL_KIND",
            )


@contextmanager
def tokenizer_kept(encoder: Any) -> Iterator[None]:
    """Restore padding and truncation, which the library sets for a batch and would save and fingerprint."""
    backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
    padding, truncation = getattr(backend, "padding", None), getattr(backend, "truncation", None)
    try:
        yield
    finally:
        if backend is not None:
            backend.enable_padding(**padding) if padding else backend.no_padding()
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()


def _check_probe(encoder: Any, folder: Path) -> None:
    with tokenizer_kept(encoder):
        vectors = encoder.encode(_PROBE, convert_to_tensor=True, show_progress_bar=False)
    width = encoder.get_embedding_dimension()
    if vectors.shape != (len(_PROBE), width) or not torch.isfinite(vectors).all():
        raise ModelError(
            f"{folder}: gives vectors of shape {tuple(vectors.shape)} for {len(_PROBE)} texts and a width of {width}, "
            "or such that are not finite; its modules do not fit one another",
            code="MODEL_KIND",
        )
