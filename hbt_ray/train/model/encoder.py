"""The encoder: a SentenceTransformer (transformer, pooling, normalisation, prompts), from scratch or pretrained.

Whatever it was built from, training starts from a saved SentenceTransformer folder, the *base*: so pretrained and
from-scratch encoders take one path, and the untrained model can be judged like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from hbt_ray.data.stream.local import TokenisingConfig
from hbt_ray.errors import ModelError
from hbt_ray.storage import temporary_folder
from hbt_ray.train.model.config import SCRATCH, ModelConfig
from hbt_ray.train.model.inspection import inspect
from hbt_ray.train.model.loading import assembled, load, quiet
from hbt_ray.train.model.options import check_options
from hbt_ray.train.model.scratch import write_scratch
from hbt_ray.train.model.source import check_files, locate

logger = logging.getLogger(__name__)


def build(config: ModelConfig, texts: Iterable[str] = ()) -> Any:
    """A SentenceTransformer. `texts` train the tokenizer of a scratch encoder and are not read otherwise.

    Raises:
        ModelError: the name or folder gives no usable encoder, or the sizes contradict one another.
    """
    if config.name == SCRATCH:
        with temporary_folder("encoder") as scratch:
            write_scratch(config, texts, scratch)
            encoder = assembled(scratch, config.pooling)
    else:
        encoder = _pretrained(config)
    check_options(encoder, config)
    return _finished(encoder, config)


def tokenising(encoder: Any, config: ModelConfig) -> TokenisingConfig:
    """What the data tasks need to turn texts into this encoder's ids."""
    return TokenisingConfig(
        encoder.tokenizer.backend_tokenizer.to_str(),
        config.question_prompt,
        config.passage_prompt,
        config.max_question_length,
        config.max_passage_length,
    )


def _pretrained(config: ModelConfig) -> Any:
    folder = locate(config.name)
    transformer = check_files(folder)
    try:
        encoder = load(folder) if (folder / "modules.json").exists() else assembled(folder, config.pooling)
        with quiet():
            inspect(encoder, transformer, max(config.max_question_length, config.max_passage_length))
    except ModelError:
        raise
    except Exception as error:  # What is wrong with a foreign folder shows anywhere in what reads it.
        raise ModelError(
            f"model.name={config.name!r} cannot be loaded as an encoder: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}"
        ) from error
    return _normalising(encoder, config)


def _normalising(encoder: Any, config: ModelConfig) -> Any:
    """The same with vectors of length one at its end; says where its pooling is not the one that was asked for."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    own = next((module.pooling_mode for module in encoder if isinstance(module, Pooling)), None)
    if "pooling" in config.model_fields_set and own != config.pooling:
        logger.warning(
            "model.pooling=%s has no effect: %s is a SentenceTransformer with pooling of its own (%s), which it keeps",
            config.pooling,
            config.name,
            own or "in another module",
        )
    if isinstance(encoder[-1], Normalize):
        return encoder
    return SentenceTransformer(modules=[*encoder, Normalize()], device="cpu")


def _finished(encoder: Any, config: ModelConfig) -> Any:
    """Set lengths and prompts."""
    transformer = encoder[0]
    transformer.max_seq_length = max(config.max_question_length, config.max_passage_length)
    transformer.query_length, transformer.document_length = config.max_question_length, config.max_passage_length
    encoder.prompts = {"query": config.question_prompt, "document": config.passage_prompt}
    encoder.similarity_fn_name = "cosine"
    return encoder
