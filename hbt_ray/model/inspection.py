"""Checks of a loaded model: all of its saved weights are used, it reads texts, and training matches its export.

transformers fills missing weights with random ones, and leaves weights out if the configuration names fewer layers than
the file has. In both cases loading succeeds, and only poor results would show the fault.

Export parity: training must compute the vectors that sentence-transformers computes with the exported encoder. Training
tokenises with the Rust tokenizer alone, pads on the right and passes ids and mask. An encoder for which the library
does more (leaves the prompt out of the pooling, pads or truncates on the left, fills a chat template, …) would be
trained in another way than it is used. Such an encoder is refused, with the reason if it is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hbt_ray.data.stream.tokenise import TokenisingConfig, tokenise
from hbt_ray.errors import ModelError
from hbt_ray.model.files import ModelFiles
from hbt_ray.model.microbatch import encoder_features

TOLERANCE = 1e-6
"""Largest allowed difference of a vector component, for batches of the same shape."""
_PADDING_TOLERANCE = 1e-4
"""Largest allowed difference between paddings on the left and on the right, which change the order of sums."""
_SAMPLE = ["a", "a longer text, so that the other is padded"]
# Casing, white space, accents, right-to-left and unspaced scripts, and a word of many pieces.
_PARITY_TEXTS = [
    "Which currency is used in Kenya?",
    "kenya",
    "  ÜBER Straßen, İstanbul & Ångström\n",
    "ما لون شيء 3؟ สีของสิ่งของ",
    "x" * 40,
]


def inspect_encoder(encoder: Any, files: ModelFiles, report: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a loaded encoder does not match its folder or cannot encode texts.

    Args:
        report: missing and unexpected weights, as transformers reports them.
    """
    _check_finite(encoder, files.folder)
    if not files.is_static:
        _check_weights(encoder[0].model, files.transformer, report)
        _check_reads_text(encoder, files.transformer)
        _check_tokenizer(encoder[0].model, encoder.tokenizer, files.transformer)
        if not files.modules and _is_causal(encoder):
            raise ModelError(
                f"{files.folder}: is a {type(encoder[0].model).__name__}, a decoder, whose tokens do not see what "
                "follows; give an encoder, or a SentenceTransformer folder, which says how its vectors are pooled",
                code="MODEL_KIND",
            )
    _check_vectors(encoder, files.folder)


def inspect_cross_encoder(model: Any, files: ModelFiles, report: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a loaded model is not a cross-encoder with one trained score. See `inspect_encoder`."""
    head, suffix = type(model.model).__name__, "ForSequenceClassification"
    saved = model.config.architectures or [""]
    if head.endswith(suffix) and not saved[0].endswith(suffix):
        # sentence-transformers puts a random head on any encoder, whose scores would be noise.
        raise ModelError(
            f"{files.folder}: is a {saved[0] or 'model'} without a trained head for pairs, so not a cross-encoder; "
            "give the folder of a cross-encoder",
            code="MODEL_KIND",
        )
    if model.num_labels != 1:
        raise ModelError(
            f"{files.folder}: gives {model.num_labels} numbers for a pair; use a cross-encoder that gives one",
            code="MODEL_KIND",
        )
    _check_finite(model, files.folder)
    _check_weights(model.model, files.transformer, report, pooler_is_used=True)
    _check_tokenizer(model.model, model.tokenizer, files.transformer)
    check_length(model.model, model.tokenizer.model_max_length, files.transformer, "the model's own maximum")


def num_positions(model: nn.Module) -> int | None:
    """Maximum number of tokens by a transformer's position embeddings; None if there is no bound."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa and similar models count from behind the padding index: of 514 rows, 512 are for tokens.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def check_length(model: nn.Module, longest: int, transformer: Path, setting: str) -> None:
    """Raise `ModelError` if a text of `longest` tokens exceeds the transformer's positions."""
    positions = num_positions(model)
    if positions is not None and longest > positions:
        raise ModelError(
            f"{transformer}: a length of {longest} tokens ({setting}) is beyond the {positions} positions of the "
            f"model; set it to {positions} or less",
            code="MODEL_LENGTH",
        )


def _is_causal(encoder: Any) -> bool:
    """Whether tokens do not attend to the tokens that follow, as in a decoder."""
    # Two texts that differ in the last token only: a causal model gives equal vectors before it.
    ids = torch.tensor([[5, 6, 7], [5, 6, 8]]) % encoder[0].model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        vectors = encoder[0]({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["token_embeddings"]
    return torch.equal(vectors[0, :2], vectors[1, :2]) and not torch.equal(vectors[0, 2], vectors[1, 2])


def _check_weights(model: Any, transformer: Path, report: Mapping[str, Any], *, pooler_is_used: bool = False) -> None:
    # An encoder's pooler is not used. Heads of other tasks are left over as well, and match no pattern below.
    missing = sorted(
        name for name in report.get("missing_keys", ()) if pooler_is_used or name.split(".")[0] != "pooler"
    )
    if missing:
        raise ModelError(
            f"{transformer}: {len(missing)} weights are missing ({_first_names(missing)}) and would be random; "
            "the weights are of another architecture or cut short, or config.json has too many layers. Copy the folder "
            "anew",
            code="MODEL_WEIGHTS",
        )
    patterns = {_layer_pattern(name) for name in model.state_dict()}
    left_over = sorted(
        name
        for name in report.get("unexpected_keys", ())
        # Names in the file may have a prefix, such as `bert.`.
        if any(_layer_pattern(name).endswith(pattern) for pattern in patterns)
    )
    if left_over:
        raise ModelError(
            f"{transformer}: {len(left_over)} weights have no place in the encoder ({_first_names(left_over)}) and "
            "would be left out; config.json has too few layers, or is another encoder's. Copy the folder anew",
            code="MODEL_WEIGHTS",
        )


def _layer_pattern(name: str) -> str:
    """The name of a weight with its layer number replaced, so that all layers have equal ones."""
    return re.sub(r"\d+", "#", name)


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _check_finite(model: nn.Module, folder: Path) -> None:
    damaged = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if damaged:
        raise ModelError(
            f"{folder}: {len(damaged)} weights are not finite numbers ({_first_names(damaged)}), so its vectors "
            "would not be either; copy the folder anew, or take an earlier checkpoint",
            code="MODEL_WEIGHTS",
        )


def _check_reads_text(encoder: Any, transformer: Path) -> None:
    model = encoder[0].model
    if encoder[0].modality_config.get("text", {}).get("method") != "forward":
        raise ModelError(f"{transformer}: is a {type(model).__name__}, which does not read texts", code="MODEL_KIND")
    if getattr(model.config, "is_encoder_decoder", False) and "Encoder" not in type(model).__name__:
        raise ModelError(
            f"{transformer}: is a {type(model).__name__}, whose vectors are those of a decoder; give an encoder",
            code="MODEL_KIND",
        )


def _check_tokenizer(model: Any, tokenizer: Any, transformer: Path) -> None:
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        raise ModelError(
            f"{transformer}: has no tokenizer for texts; copy the model's tokenizer into the folder",
            code="MODEL_TOKENIZER",
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{transformer}: its tokenizer has no padding token, so texts of different lengths cannot share a batch; "
            "set pad_token in tokenizer_config.json to a token that it has",
            code="MODEL_TOKENIZER",
        )
    largest, rows = max(tokenizer.get_vocab().values(), default=-1), model.get_input_embeddings().num_embeddings
    # A larger id would fail in the embedding, on a GPU as an assertion of a kernel.
    if not 0 <= largest < rows:
        raise ModelError(
            f"{transformer}: the tokenizer has ids up to {largest}, but the encoder has embeddings for {rows} only; "
            "the tokenizer is another encoder's",
            code="MODEL_TOKENIZER",
        )


@contextmanager
def preserved_tokenizer(encoder: Any) -> Iterator[None]:
    """Restore padding and truncation after the block: the library sets them for a batch, and they would be saved."""
    backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
    padding, truncation = getattr(backend, "padding", None), getattr(backend, "truncation", None)
    try:
        yield
    finally:
        if backend is not None:
            backend.enable_padding(**padding) if padding else backend.no_padding()
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()


def _check_vectors(encoder: Any, folder: Path) -> None:
    with preserved_tokenizer(encoder):
        vectors = encoder.encode(_SAMPLE, convert_to_tensor=True, show_progress_bar=False)
    width = encoder.get_embedding_dimension()
    if vectors.shape != (len(_SAMPLE), width) or not torch.isfinite(vectors).all():
        raise ModelError(
            f"{folder}: gives vectors of shape {tuple(vectors.shape)} for {len(_SAMPLE)} texts and a width of {width}, "
            "or some that are not finite; its modules do not fit one another, such as a pooling of another width",
            code="MODEL_KIND",
        )


def require_export_parity(encoder: Any, tokenising: TokenisingConfig, name: str) -> None:
    """Refuse an encoder whose export would give other vectors than training. Sets its tokenizer to pad on the right."""
    if problem := _parity_problem(encoder.eval(), tokenising):
        raise ModelError(
            f"model.name={name!r} cannot be trained so that its export gives the same vectors: {problem}",
            code="MODEL_VECTORS",
        )


def _parity_problem(encoder: Any, tokenising: TokenisingConfig) -> str:
    """Reason why training and the library give different vectors; empty if they give the same."""
    transformer, tokenizer = encoder[0], encoder.tokenizer
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return "it has no fast tokenizer, which data tasks need; save it as tokenizer.json"
    if (tokenising.question_prompt or tokenising.passage_prompt) and any(
        getattr(module, "include_prompt", True) is False for module in encoder
    ):
        return (
            "its pooling leaves the prompt out (include_prompt: false), and training would pool it too; set "
            "model.question_prompt and model.passage_prompt to '', or include_prompt to true in the config.json of its "
            "pooling"
        )
    if tokenizer.truncation_side != "right":
        return "its tokenizer cuts long texts at their beginning; save it with truncation_side='right'"
    if "message" in transformer.modality_config:
        return "it reads texts through a chat template, which training does not fill"
    if getattr(transformer, "query_expansion", None) is not None:
        return "it lengthens questions with further tokens (query_expansion), which training does not"
    if tokenizer.padding_side != "right":
        if _padding_side_matters(encoder):
            return (
                "its tokenizer pads on the left and its positions are absolute, so a text's vector depends on the "
                "others of its batch; save the tokenizer with padding_side='right'"
            )
        tokenizer.padding_side = "right"
    longest = max(tokenising.max_question_length, tokenising.max_passage_length)
    # Longer than any limit. A batch of its own, so that the other texts are compared with their own padding.
    truncated = ["Kenya is a country. " * longest]
    difference = max(_largest_difference(encoder, tokenising, texts) for texts in (_PARITY_TEXTS, truncated))
    if difference > TOLERANCE:
        return (
            f"the same texts get vectors that differ by {difference:.2g}; look at its tokenizer_config.json and "
            "sentence_bert_config.json for settings of padding, truncation or casing"
        )
    return ""


def _padding_side_matters(encoder: Any) -> bool:
    """Whether one padding token before a text of two tokens gives another vector than one behind it."""
    padding = encoder.tokenizer.pad_token_id
    rows = encoder[0].model.get_input_embeddings().num_embeddings
    # Any two ids but the padding will do; the first ids of a vocabulary are often special tokens.
    first, second = [number for number in range(rows - 3, rows) if number != padding][:2]
    ids = torch.tensor([[first, second, padding], [padding, first, second]])
    with torch.no_grad():
        behind, before = encoder({"input_ids": ids, "attention_mask": (ids != padding).long()})["sentence_embedding"]
    return bool((behind - before).abs().max() > _PADDING_TOLERANCE)


def _largest_difference(encoder: Any, tokenising: TokenisingConfig, texts: list[str]) -> float:
    """Largest difference between a component of a vector in training and in the library, over the texts."""
    largest = 0.0
    for library, prompt, length in (
        (encoder.encode_query, tokenising.question_prompt, tokenising.max_question_length),
        (encoder.encode_document, tokenising.passage_prompt, tokenising.max_passage_length),
    ):
        tokens = tokenise(tokenising.tokenizer_json, prompt, texts, length)
        with torch.no_grad():
            batch = encoder_features(tokens, encoder.tokenizer.pad_token_id, torch.device("cpu"))
            ours = encoder(batch)["sentence_embedding"]
        theirs = library(texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)
        largest = max(largest, (ours - theirs).abs().max().item())
    return largest
