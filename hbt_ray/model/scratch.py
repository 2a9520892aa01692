"""The scratch encoder: a small BERT with a tokenizer of its own, equal for equal configurations and texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hbt_ray.errors import ModelError
from hbt_ray.model.config import ModelConfig


def write_scratch(config: ModelConfig, texts: Iterable[str], folder: Path) -> None:
    """Write a transformer and its tokenizer, as Hugging Face folders are.

    Args:
        texts: what the tokenizer is trained on.

    Raises:
        ModelError: the sizes contradict one another.
    """
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
