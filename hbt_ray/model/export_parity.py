"""Export parity: training must compute the vectors that sentence-transformers computes with the exported encoder.

Training tokenises with the Rust tokenizer alone, pads on the right and passes ids and mask, so an encoder whose library
path does more (leaves the prompt out of the pooling, pads or truncates on the left, fills a chat template, …) would be
trained in another way than it is used. Such an encoder is refused, with the reason if it is known.
"""

from __future__ import annotations

from typing import Any

import torch

from hbt_ray.data.stream.tokenise import TokenisingConfig, tokenise
from hbt_ray.errors import ModelError
from hbt_ray.model.microbatch import encoder_features

TOLERANCE = 1e-6
"""Largest allowed difference of a vector component, for batches of the same shape."""
_PADDING_TOLERANCE = 1e-4
"""Largest allowed difference if only the side of the padding differs, which changes the order of sums."""
_TEXTS = [
    "Which currency is used in Kenya?",
    "kenya",
    "  ÜBER Straßen, İstanbul & Ångström\n",
    "ما لون شيء 3؟ สีของสิ่งของ",
    "x" * 40,
]


def require_export_parity(encoder: Any, tokenising: TokenisingConfig, name: str) -> None:
    """Encode short and truncated texts in both ways and compare. Sets the tokenizer to pad on the right.

    Raises:
        ModelError: the vectors differ.
    """
    encoder.eval()
    if reason := _known_reason(encoder, tokenising):
        raise _refusal(name, reason)
    if encoder.tokenizer.padding_side != "right":
        if _padding_side_matters(encoder):
            raise _refusal(
                name,
                "its tokenizer pads on the left and its positions are absolute, so a text's vector depends on the "
                "others of its batch; save the tokenizer with padding_side='right'",
            )
        encoder.tokenizer.padding_side = "right"
    longest = max(tokenising.max_question_length, tokenising.max_passage_length)
    differences = [_difference(encoder, tokenising, texts) for texts in (_TEXTS, ["Kenya is a country. " * longest])]
    if max(differences) > TOLERANCE:
        raise _refusal(
            name,
            f"the same texts get vectors that differ by {max(differences):.2g}; look at its tokenizer_config.json and "
            "sentence_bert_config.json for settings of padding, truncation or casing",
        )


def _padding_side_matters(encoder: Any) -> bool:
    """Whether one padding token before a text of two tokens gives another vector than one behind it."""
    padding = encoder.tokenizer.pad_token_id
    rows = encoder[0].model.get_input_embeddings().num_embeddings
    first, second = [number for number in range(rows - 3, rows) if number != padding][:2]
    ids = torch.tensor([[first, second, padding], [padding, first, second]])
    with torch.no_grad():
        behind, before = encoder({"input_ids": ids, "attention_mask": (ids != padding).long()})["sentence_embedding"]
    return bool((behind - before).abs().max() > _PADDING_TOLERANCE)


def _known_reason(encoder: Any, tokenising: TokenisingConfig) -> str:
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
    return ""


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(
        f"model.name={name!r} cannot be trained so that its export gives the same vectors: {reason}",
        code="MODEL_VECTORS",
    )


def _difference(encoder: Any, tokenising: TokenisingConfig, texts: list[str]) -> float:
    """Largest difference of a component between training's vectors of the texts and the library's."""
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
