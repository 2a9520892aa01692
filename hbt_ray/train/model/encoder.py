"""The encoder: a SentenceTransformer (transformer, pooling, normalisation, prompts), from scratch or pretrained.

Whatever it was built from, training starts from a saved SentenceTransformer folder, the *base*: so pretrained and
from-scratch encoders take one path, and the untrained model can be judged like any other.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.stream.local import TokenisingConfig
from hbt_ray.errors import ModelError

logger = logging.getLogger(__name__)

SCRATCH = "scratch"
_DROPOUTS = {"hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"}
"""What configurations of encoders call it."""


class ModelConfig(Config):
    """Which encoder, and how it reads texts."""

    name: str = SCRATCH
    """A Hugging Face name, a local folder (plain or SentenceTransformer), or `scratch` for a new small encoder."""
    pooling: Literal["mean", "cls"] = "mean"
    """How token vectors become one; a SentenceTransformer folder keeps its own."""
    question_prompt: str = "query: "
    passage_prompt: str = "passage: "
    max_question_length: int = Field(64, gt=2)
    """Tokens, special ones included."""
    max_passage_length: int = Field(256, gt=2)
    layers: int = Field(2, gt=0)
    """Of a scratch encoder, as are the next three."""
    width: int = Field(128, gt=0)
    heads: int = Field(4, gt=0)
    vocabulary: int = Field(8_000, gt=100)
    dropout: float | None = Field(None, ge=0, lt=1)
    """In training; null leaves what the encoder says, 0.1 of a scratch one."""
    seed: int = 0
    """Of the initial weights."""


def build(config: ModelConfig, texts: Iterable[str] = ()) -> Any:
    """A SentenceTransformer. `texts` train the tokenizer of a scratch encoder and are not read otherwise.

    Raises:
        ModelError: the name or folder gives no usable encoder, or the sizes contradict one another.
    """
    if config.name == SCRATCH:
        with tempfile.TemporaryDirectory() as scratch:
            _write_scratch(config, texts, Path(scratch))
            return _assemble(config, scratch)
    folder = Path(config.name)
    if folder.exists() and not (folder / "config.json").exists() and not (folder / "modules.json").exists():
        raise ModelError(
            f"{folder}: neither config.json nor modules.json is there; give an encoder's folder or a hub name"
        )
    try:
        return _finish(load(folder), config) if (folder / "modules.json").exists() else _assemble(config, config.name)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"model.name={config.name!r} cannot be loaded as an encoder: {' '.join(str(error).split())[:400]}"
        ) from error


def tokenising(encoder: Any, config: ModelConfig) -> TokenisingConfig:
    """What the data tasks need to turn texts into this encoder's ids."""
    backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"model.name={config.name!r} has no fast tokenizer, which data tasks need; save it as tokenizer.json first"
        )
    return TokenisingConfig(
        backend.to_str(),
        config.question_prompt,
        config.passage_prompt,
        config.max_question_length,
        config.max_passage_length,
    )


def load(folder: Path) -> Any:
    """The SentenceTransformer of a folder, on the CPU, without the parameters that would never get a gradient."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(folder), device="cpu")
    # The pooler's output is never used; DistributedDataParallel would wait for its gradient.
    if getattr(encoder[0].model, "pooler", None) is not None:
        encoder[0].model.pooler = None
    return encoder


def _assemble(config: ModelConfig, name: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(name)
    pooling = Pooling(transformer.get_embedding_dimension(), config.pooling)
    return _finish(SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu"), config)


def _finish(encoder: Any, config: ModelConfig) -> Any:
    """Set lengths and prompts."""
    transformer = encoder[0]
    longest = max(config.max_question_length, config.max_passage_length)
    limit = getattr(transformer.model.config, "max_position_embeddings", None)
    if limit and longest > limit:
        raise ModelError(
            f"a length of {longest} tokens is beyond the {limit} positions of {config.name!r}; lower model.max_*_length"
        )
    transformer.max_seq_length = longest
    transformer.query_length, transformer.document_length = config.max_question_length, config.max_passage_length
    if config.dropout is not None:
        for name in _DROPOUTS & vars(transformer.model.config).keys():
            setattr(transformer.model.config, name, config.dropout)  # Read where the saved folder is loaded.
    encoder.prompts = {"query": config.question_prompt, "document": config.passage_prompt}
    encoder.similarity_fn_name = "cosine"
    if getattr(transformer.auto_model, "pooler", None) is not None:
        transformer.auto_model.pooler = (
            None  # Its output is never used; DistributedDataParallel would wait for its gradient.
        )
    return encoder


def _write_scratch(config: ModelConfig, texts: Iterable[str], folder: Path) -> None:
    from transformers import BertConfig, BertModel

    if config.width % config.heads:
        raise ModelError(f"model.width={config.width} does not divide among model.heads={config.heads}")
    tokenizer = _train_tokenizer(texts, config.vocabulary)
    tokenizer.save_pretrained(folder)
    sizes = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        max_position_embeddings=max(config.max_question_length, config.max_passage_length),
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        BertModel(sizes, add_pooling_layer=False).save_pretrained(folder)


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Byte-pair pieces that keep the space before them, over NFKC text.

    Not the unigram model of XLM-R: its trainer gives another vocabulary at every call, and no run could be repeated.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
