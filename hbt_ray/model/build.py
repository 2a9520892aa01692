"""Build the encoder that a run starts from: a SentenceTransformer, from scratch or from a pretrained model.

A SentenceTransformer is transformer, pooling, normalisation and prompts. Training always starts from a saved folder,
the *base* of the run, so pretrained and scratch encoders are loaded alike, and the untrained encoder can be evaluated
like any other. A scratch encoder is a small BERT with its own tokenizer, equal for equal configurations and texts.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.tokenise import TokenisingConfig
from hbt_ray.errors import DamagedFile, ModelError
from hbt_ray.model.config import PASSAGE_PROMPT, QUESTION_PROMPT, SCRATCH, ModelConfig
from hbt_ray.model.files import ModelFiles, check_files
from hbt_ray.model.inspection import check_length, preserved_tokenizer, require_export_parity
from hbt_ray.model.loading import find_model, load_encoder, quiet_transformers
from hbt_ray.model.trainable_encoder import check_options
from hbt_ray.storage import (
    CHECKSUMS,
    AnyPath,
    atomic_folder,
    blocking_lock,
    file_sha256,
    folder_exists,
    local_folder,
    read_checked_json,
    temporary_folder,
    text_sha256,
    write_checked_json,
)

logger = logging.getLogger(__name__)


def provide_base(
    base: AnyPath, config: ModelConfig, store: Store, languages: tuple[str, ...], shared: AnyPath | None
) -> None:
    """Write the base encoder of a run, unless it exists.

    An existing base is only verified: building imports transformers, which takes longer than the start of a short run.

    Args:
        languages: languages of the texts that train a scratch tokenizer.
        shared: folder of base encoders that the runs of a search share; equal ones are built once. It is not used in
            an object store, which has no links.
    """
    if folder_exists(base):
        verify_base(base)
        return
    if not isinstance(shared, Path):
        with atomic_folder(base) as folder:
            _build_base(folder, config, store, languages)
        return
    # Everything that the weights and the tokenizer depend on.
    identity = json.dumps([config.identity, store.manifest.checksum, languages])
    common = shared / text_sha256(identity)[:16]
    common.parent.mkdir(parents=True, exist_ok=True)
    # Trials that start together wait for the first one to build.
    with blocking_lock(common.with_name(f"{common.name}.building")):
        if not common.exists():
            with atomic_folder(common) as folder:
                _build_base(folder, config, store, languages)
    with atomic_folder(base) as folder:
        # A copy of its own, so that a run stays complete if the shared folder is deleted.
        shutil.copytree(common, folder, copy_function=_link_or_copy, dirs_exist_ok=True)


def _build_base(folder: Path, config: ModelConfig, store: Store, languages: tuple[str, ...]) -> None:
    encoder = build_encoder(config, store.sample_texts(languages))
    encoder.save_pretrained(str(folder), create_model_card=False)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_checked_json(folder / CHECKSUMS, {str(path.relative_to(folder)): file_sha256(path) for path in files})


def verify_base(base: AnyPath) -> None:
    """Compare the files of a base encoder with their checksums.

    Adapters are trained for these weights and merged into them, so a changed bit would silently give another encoder.
    """
    base = local_folder(base)
    try:
        checksums = read_checked_json(base / CHECKSUMS)
    except FileNotFoundError:
        raise DamagedFile(str(base), f"{CHECKSUMS} is missing") from None
    for name, checksum in checksums.items():
        path = base / name
        if not path.is_file() or file_sha256(path) != checksum:
            raise DamagedFile(str(path), "its checksum does not match its content" if path.exists() else "missing")


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it if the file system has no links: weights may be gigabytes and never change."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def build_encoder(config: ModelConfig, texts: Iterable[str] = ()) -> Any:
    """Build a SentenceTransformer. `texts` train the tokenizer of a scratch encoder; otherwise they are not read."""
    if config.name == SCRATCH:
        with temporary_folder("encoder") as folder:
            _write_scratch(config, texts, folder)
            # Loaded like any other model, so that both paths give the same modules.
            encoder, files = _normalised(load_encoder(folder, pooling=config.pooling)), None
    else:
        files = check_files(find_model(config.name))
        encoder = _pretrained(config, files)
    check_options(encoder, config)
    longest = max(config.max_question_length, config.max_passage_length)
    check_length(encoder[0].model, longest, Path(config.name), "model.max_question_length or model.max_passage_length")
    _set_lengths_and_prompts(encoder, config, files)
    # The check encodes texts, which changes the padding and truncation of the tokenizer.
    with quiet_transformers(), preserved_tokenizer(encoder):
        require_export_parity(encoder, tokenising_config(encoder, config), config.name)
    return encoder


def tokenising_config(encoder: Any, config: ModelConfig) -> TokenisingConfig:
    """The settings by which data tasks convert texts to this encoder's ids, with the prompts that it was saved with."""
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
        _warn_of_changes(encoder, config)
    return _normalised(encoder)


def _warn_of_changes(encoder: Any, config: ModelConfig) -> None:
    """Warn if a SentenceTransformer overrides the configuration, or the configuration changes it."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = next((module.pooling_mode for module in encoder if isinstance(module, Pooling)), None)
    # Only if the user set it: the default does not contradict the model.
    if "pooling" in config.model_fields_set and pooling != config.pooling:
        logger.warning(
            "model.pooling=%s has no effect: %s is a SentenceTransformer with pooling of its own (%s), which it keeps",
            config.pooling,
            config.name,
            pooling or "in another module",
        )
    if encoder.similarity_fn_name != "cosine":
        logger.warning(
            "%s compares vectors by %s; in training, as the untrained baseline and in the export they are normalised "
            "and compared by cosine",
            config.name,
            encoder.similarity_fn_name,
        )


def _normalised(encoder: Any) -> Any:
    """Return the encoder with normalisation as its last module."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    if isinstance(encoder[-1], Normalize):
        return encoder
    return SentenceTransformer(modules=[*encoder, Normalize()], device="cpu")


def _set_lengths_and_prompts(encoder: Any, config: ModelConfig, files: ModelFiles | None) -> None:
    transformer = encoder[0]
    # The library cuts questions and passages at their own lengths, other texts at this one.
    transformer.max_seq_length = max(config.max_question_length, config.max_passage_length)
    transformer.query_length, transformer.document_length = config.max_question_length, config.max_passage_length
    own_prompts = (files.question_prompt, files.passage_prompt) if files else (None, None)
    encoder.prompts = {
        "query": _prompt("question_prompt", config, files, own_prompts[0], QUESTION_PROMPT),
        "document": _prompt("passage_prompt", config, files, own_prompts[1], PASSAGE_PROMPT),
    }
    encoder.similarity_fn_name = "cosine"


def _prompt(setting: str, config: ModelConfig, files: ModelFiles | None, model_prompt: str | None, default: str) -> str:
    """The configured prompt, or the model's, or the default; warns if it is not the model's."""
    configured: str | None = getattr(config, setting)
    if configured is not None:
        if model_prompt is not None and configured != model_prompt:
            logger.warning("model.%s=%r is used in place of the model's own %r", setting, configured, model_prompt)
        return configured
    if model_prompt is not None:
        return model_prompt
    if files is None or not files.modules:
        return default
    if files.prompts:
        return ""  # The model defines prompts, but none for this side.
    logger.warning(
        "%s does not define prompts, so model.%s=%r is used; write model.%s='' for none",
        config.name,
        setting,
        default,
        setting,
    )
    return default


def _write_scratch(config: ModelConfig, texts: Iterable[str], folder: Path) -> None:
    """Write a random transformer and a trained tokenizer as a Hugging Face folder."""
    from transformers import BertConfig, BertModel

    if config.width % config.heads:
        raise ModelError(
            f"model.width={config.width} is not a multiple of model.heads={config.heads}; change one of them",
            code="MODEL_SIZES",
        )
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
    # The seed must not change the random state of the caller. Weights are drawn on the CPU.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        BertModel(sizes, add_pooling_layer=False).save_pretrained(folder)


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-pair tokenizer on NFKC text; pieces keep the space before them.

    The unigram model of XLM-R is not used: its trainer gives another vocabulary at every call, so runs would differ.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    # The order gives the ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, as in XLM-R.
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    special = dict(zip(names, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), strict=True))
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    # Metaspace marks the space before a word; punctuation becomes tokens of its own.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
