"""The encoder: a SentenceTransformer (transformer, pooling, normalisation, prompts), from scratch or pretrained.

Whatever it was built from, training starts from a saved SentenceTransformer folder, the *base*: so pretrained and
from-scratch encoders take one path, and the untrained model can be judged like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hbt_ray.data.stream.tokenise import TokenisingConfig
from hbt_ray.errors import ModelError
from hbt_ray.model.config import PASSAGE_PROMPT, QUESTION_PROMPT, SCRATCH, ModelConfig
from hbt_ray.model.export_parity import require_export_parity
from hbt_ray.model.files import ModelFiles, check_files
from hbt_ray.model.inspection import check_length, tokenizer_kept
from hbt_ray.model.loading import load_encoder, quiet_transformers
from hbt_ray.model.options import check_options
from hbt_ray.model.scratch import write_scratch
from hbt_ray.model.source import find_model
from hbt_ray.storage import temporary_folder

logger = logging.getLogger(__name__)


def build_encoder(config: ModelConfig, texts: Iterable[str] = ()) -> Any:
    """A SentenceTransformer. `texts` train the tokenizer of a scratch encoder and are not read otherwise.

    Raises:
        ModelError: the name or folder gives no usable encoder, the sizes contradict one another, or training would
            give other vectors than the export.
    """
    if config.name == SCRATCH:
        with temporary_folder("encoder") as scratch:
            write_scratch(config, texts, scratch)
            encoder, files = _normalised(load_encoder(scratch, pooling=config.pooling)), None
    else:
        files = check_files(find_model(config.name))
        encoder = _pretrained(config, files)
    check_options(encoder, config)
    longest = max(config.max_question_length, config.max_passage_length)
    check_length(encoder[0].model, longest, Path(config.name), "model.max_question_length or model.max_passage_length")
    encoder = _finished(encoder, config, files)
    with quiet_transformers(), tokenizer_kept(encoder):
        require_export_parity(encoder, tokenising_config(encoder, config), config.name)
    return encoder


def tokenising_config(encoder: Any, config: ModelConfig) -> TokenisingConfig:
    """What the data tasks need to turn texts into this encoder's ids; prompts are those that it was saved with."""
    return TokenisingConfig(
        encoder.tokenizer.backend_tokenizer.to_str(),
        encoder.prompts["query"],
        encoder.prompts["document"],
        config.max_question_length,
        config.max_passage_length,
    )


def _pretrained(config: ModelConfig, files: ModelFiles) -> Any:
    if files.is_static:
        raise ModelError(
            f"{files.folder}: has embeddings of tokens and no transformer, and only encoders with one transformer can "
            "be trained",
            code="MODEL_KIND",
        )
    encoder = load_encoder(files.folder, pooling=config.pooling)
    if files.modules:
        _tell_changes(encoder, config)
    return _normalised(encoder)


def _tell_changes(encoder: Any, config: ModelConfig) -> None:
    """Say what of a SentenceTransformer's own is changed, and what of the configuration has no effect."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    own = next((module.pooling_mode for module in encoder if isinstance(module, Pooling)), None)
    if "pooling" in config.model_fields_set and own != config.pooling:
        logger.warning(
            "model.pooling=%s has no effect: %s is a SentenceTransformer with pooling of its own (%s), which it keeps",
            config.pooling,
            config.name,
            own or "in another module",
        )
    if encoder.similarity_fn_name != "cosine":
        logger.warning(
            "%s compares vectors by %s; in training, as the untrained baseline and in the export they are normalised "
            "and compared by cosine",
            config.name,
            encoder.similarity_fn_name,
        )


def _normalised(encoder: Any) -> Any:
    """The same with vectors of length one at its end."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    if isinstance(encoder[-1], Normalize):
        return encoder
    return SentenceTransformer(modules=[*encoder, Normalize()], device="cpu")


def _finished(encoder: Any, config: ModelConfig, files: ModelFiles | None) -> Any:
    """Set lengths and prompts."""
    transformer = encoder[0]
    transformer.max_seq_length = max(config.max_question_length, config.max_passage_length)
    transformer.query_length, transformer.document_length = config.max_question_length, config.max_passage_length
    encoder.prompts = {
        "query": _prompt("question_prompt", config, files, files.question_prompt if files else None, QUESTION_PROMPT),
        "document": _prompt("passage_prompt", config, files, files.passage_prompt if files else None, PASSAGE_PROMPT),
    }
    encoder.similarity_fn_name = "cosine"
    return encoder


def _prompt(setting: str, config: ModelConfig, files: ModelFiles | None, own: str | None, usual: str) -> str:
    """The one that is set, or the model's own, or the usual one; says what is not the model's own."""
    wanted: str | None = getattr(config, setting)
    if wanted is not None:
        if own is not None and wanted != own:
            logger.warning("model.%s=%r is used in place of the model's own %r", setting, wanted, own)
        return wanted
    if own is not None:
        return own
    if files is None or not files.modules:
        return usual
    if files.prompts:
        return ""  # The model has prompts, and none for this side.
    logger.warning(
        "%s says nothing of prompts, so model.%s=%r is used; write model.%s='' for none",
        config.name,
        setting,
        usual,
        setting,
    )
    return usual
