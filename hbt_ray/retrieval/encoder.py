"""Encoders: their configuration, and the vectors of many texts.

`encode` runs a pool of Ray Data actors with one model each; `encode_texts` runs a loaded model in this process. Every
distinct text is encoded once, so equal texts get equal vectors to the last bit. Texts of similar length in tokens share
a batch, so that little is spent on padding. A cache keeps the vectors, so that no text is encoded again.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.errors import ModelError
from hbt_ray.host import keep_freed_memory, usable_cpus
from hbt_ray.model.files import ModelKind, check_files
from hbt_ray.model.inspection import check_length
from hbt_ray.model.loading import find_local_model, find_model, load_encoder
from hbt_ray.retrieval.vectors import QUESTIONS, SIDES, Texts, TextSet, VectorCache, Vectors
from hbt_ray.run_dir import EXPORT_RECORD

_OTHER_FILES = ("README.md", "posthoc", EXPORT_RECORD, ".cache", ".gitattributes")
"""Files in a model's folder that do not change its vectors."""
_BATCHES = 16
"""Forward passes per block of Ray Data. Texts are sorted by characters before they are cut into blocks, and by tokens
within a block."""


class EncodingConfig(Config):
    """Settings of encoding that any model has."""

    question_prompt: str | None = None
    """Text before every question, such as `query: `. Default: the model's own prompt."""
    passage_prompt: str | None = None
    """Text before every passage, such as `passage: `. Default: the model's own prompt."""
    max_length: int | None = Field(None, gt=2)
    """Longest text in tokens; longer texts are truncated. Default: the model's own limit."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of weights and activations. Vectors are normalised and kept in fp32."""
    batch_size: int = Field(64, gt=0)
    """Number of texts in one forward pass."""
    workers: int = Field(1, gt=0)
    """Number of encoding processes. Without GPUs they share the CPU cores."""
    gpu: bool = False
    """Give each encoding process one GPU."""


class EncoderConfig(EncodingConfig):
    """A model, and the settings with which it encodes texts."""

    model: str
    """A SentenceTransformer or Hugging Face folder, or a hub name."""

    def identity(self) -> str:
        """Checksum of the model's files and of all settings that change its vectors.

        It takes about a second per GB and loads no model, unlike the fingerprint in `EncodedTexts`.

        Raises:
            ModelError: see `find_model`.
        """
        folder = find_model(self.model)
        digest = hashlib.sha256(
            repr((self.question_prompt, self.passage_prompt, self.max_length, self.precision)).encode()
        )
        # Names relative to the folder: a copy of the model has the same identity.
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            if name.parts[0] not in _OTHER_FILES:
                with path.open("rb") as file:
                    digest.update(f"{name.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()[:16]


def local_model_folder(model: str, kind: ModelKind = "encoder") -> Path | None:
    """The folder of a local model, whose files are checked but not loaded; None for a hub name, which is not fetched.

    Raises:
        ModelError: see `find_local_model` and `check_files`.
    """
    if folder := find_local_model(model):
        check_files(folder, kind)
    return folder


def fetch_model(model: str, kind: ModelKind = "encoder") -> None:
    """Download a hub model and check its files. It may take long, so call it after all other checks.

    Raises:
        ModelError: see `find_model` and `check_files`.
    """
    check_files(find_model(model), kind)


def encode_texts(model: Any, texts: Sequence[str], side: int, batch_size: int) -> Vectors:
    """Vectors of texts by a loaded `SentenceTransformer`, in this process: [texts, width].

    They have unit length unless the model compares vectors by the dot product.

    Args:
        side: `QUESTIONS` or `PASSAGES`, whose prompts may differ.
        batch_size: number of texts in one forward pass.
    """
    import torch

    run = model.encode_query if side == QUESTIONS else model.encode_document
    vectors = np.empty((len(texts), model.get_embedding_dimension()), np.float32)
    # Sort by tokens, not characters: one script has three times as many tokens per character as another, and batches
    # by characters would be a quarter padding. Models that need no padding have no mask.
    mask = model.preprocess(list(texts)).get("attention_mask") if len(texts) else None
    order = np.arange(len(texts)) if mask is None else np.argsort(-mask.sum(1).numpy(), kind="stable")
    unit = model.similarity_fn_name != "dot"
    for start in range(0, len(texts), batch_size):
        rows = order[start : start + batch_size]
        batch = run(
            [texts[row] for row in rows], batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
        ).float()
        # Normalise in fp32: in half precision the model's own normalisation gives vectors of about unit length.
        vectors[rows] = (torch.nn.functional.normalize(batch) if unit else batch).cpu().numpy()
    return vectors


class EncoderActor:
    """One model in one process, which Ray Data calls with tables of number, side and text."""

    def __init__(self, config: EncoderConfig) -> None:
        import torch

        if not config.gpu:
            keep_freed_memory()
            torch.set_num_threads(max(1, usable_cpus() // config.workers))
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
        self._model = load_encoder(find_model(config.model), dtype=dtype).to("cuda" if config.gpu else "cpu", dtype)
        for name, prompt in (("query", config.question_prompt), ("document", config.passage_prompt)):
            if prompt is not None:
                self._model.prompts[name] = prompt
        if config.max_length:
            if hasattr(self._model[0], "model"):
                check_length(self._model[0].model, config.max_length, Path(config.model), "encoder.max_length")
            self._model.max_seq_length = config.max_length
            # These lengths would take precedence over `max_seq_length`.
            self._model[0].query_length = self._model[0].document_length = None
        self._batch_size = config.batch_size
        self._fingerprint = _fingerprint(self._model)

    def __call__(self, batch: pa.Table) -> pa.Table:
        sides, texts = batch["side"].to_numpy(), batch["text"].to_pylist()
        vectors = np.empty((len(texts), self._model.get_embedding_dimension()), np.float32)
        for side in SIDES:
            rows = np.flatnonzero(sides == side)
            if len(rows):
                vectors[rows] = encode_texts(self._model, [texts[row] for row in rows], side, self._batch_size)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB.
        return pa.table(
            {
                "number": batch["number"],
                "side": batch["side"],
                "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
                "fingerprint": [self._fingerprint] * len(texts),
                "memory": [memory] * len(texts),
            }
        )


def _fingerprint(model: Any) -> str:
    """Checksum of weights, tokenizer, prompts and length of a loaded model."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        # The pooler is not used. If the folder lacks it, its weights are random in each process.
        if "pooler" in name.split("."):
            continue
        digest.update(name.encode())
        # Hash bytes, since NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy())
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    digest.update((backend.to_str() if backend else repr(model.tokenizer)).encode())
    digest.update(repr((sorted(model.prompts.items()), model.max_seq_length, model.similarity_fn_name)).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTexts:
    """Vectors of all texts. They have unit length unless the model compares them by dot product."""

    questions: Vectors
    """[questions, width]"""
    passages: Vectors
    """[passages, width]"""
    fingerprint: str = ""
    """Checksum of the model's weights, tokenizer, prompts and length."""
    peak_memory_bytes: int = 0
    """Largest resident set of any encoder process; 0 if all vectors were cached."""


def encode(
    config: EncoderConfig,
    questions: Texts,
    passages: Texts,
    advance: Callable[[int], None] = lambda _: None,
    *,
    cache: Path | None = None,
) -> EncodedTexts:
    """Vectors of questions and passages, in order; needs a Ray session unless all vectors are cached.

    Args:
        advance: called after each batch with the number of given texts that are finished, repeated ones included.
        cache: folder that keeps the vectors, and from which they are memory-mapped. Default: hold them in memory.

    Raises:
        ModelError: the model cannot be loaded, or a vector is zero or not finite.
        ResourceError: the encoder's processes ran out of memory or died.
    """
    sets = [TextSet.of(side, texts) for side, texts in zip(SIDES, (questions, passages), strict=True)]
    vector_cache = VectorCache(cache, config.identity()) if cache else None
    vectors = {each.side: cached for each in sets if vector_cache and (cached := vector_cache.find(each)) is not None}
    missing = [each for each in sets if each.side not in vectors and len(each)]
    for each in sets:
        if each.side in vectors:
            advance(len(each.rows))
    fingerprint, peak = (vector_cache.fingerprint or "") if vector_cache else "", 0
    if missing or not vectors:
        encoded, fingerprint, peak = _encode(config, missing, advance, vector_cache)
        vectors |= encoded
    # A side without texts is neither cached nor encoded.
    empty = np.empty((0, next(iter(vectors.values())).shape[1]), np.float32)
    question_vectors, passage_vectors = (each.expand(vectors.get(each.side, empty)) for each in sets)
    return EncodedTexts(question_vectors, passage_vectors, fingerprint, peak)


def _encode(
    config: EncoderConfig, sets: list[TextSet], advance: Callable[[int], None], cache: VectorCache | None
) -> tuple[dict[int, Vectors], str, int]:
    """Vectors by side, the model's fingerprint, and the peak memory of a process in bytes."""
    blocks = _blocks(config, sets)
    if not blocks:
        raise ModelError("there is no text to encode; give questions or passages", code="NO_TEXTS")
    occurrences = {each.side: np.bincount(each.rows, minlength=len(each)) for each in sets}
    vectors: dict[int, Vectors] = {}
    fingerprint, peak, failure = "", 0, f"{config.model!r} could not encode"
    with ExitStack() as stack:
        for batch in map_blocks(blocks, EncoderActor, (config,), config.workers, gpu=config.gpu, failure=failure):
            block = np.stack(batch["vector"].to_numpy())
            _check_vectors(config, block)
            sides, numbers = batch["side"].to_numpy(), batch["number"].to_numpy()
            # The first batch gives the width, which the arrays need.
            for each in sets if not vectors else ():
                shape = (len(each), block.shape[1])
                opened = stack.enter_context(cache.writing(each, shape[1])) if cache else np.empty(shape, np.float32)
                vectors[each.side] = opened
            for side in vectors:
                mask = sides == side
                vectors[side][numbers[mask]] = block[mask]
                advance(int(occurrences[side][numbers[mask]].sum()))
            fingerprint, peak = batch["fingerprint"][0].as_py(), max(peak, batch["memory"][-1].as_py())
    if cache:  # The files have their final names only now, after `stack` has closed.
        cache.write_fingerprint(fingerprint)
        vectors = {each.side: cached for each in sets if (cached := cache.find(each)) is not None}
    return vectors, fingerprint, peak


def map_blocks(
    blocks: list[pa.Table], actor: type, arguments: tuple[Any, ...], workers: int, *, gpu: bool, failure: str
) -> Iterator[pa.Table]:
    """Call an actor on each block with Ray Data, and yield the results in any order.

    Args:
        actor: class that each of `workers` processes makes once with `arguments`, then calls with each block.
        gpu: give each process one GPU.
        failure: start of the error message.

    Raises:
        HbtError: the error of the actor, unchanged.
        ResourceError: a process died too often.
    """
    import ray.data

    from hbt_ray.ray_errors import WORKER_LIMITS, Guarded, guarded_batches

    dataset = ray.data.from_arrow(blocks).map_batches(
        Guarded,
        fn_constructor_args=(actor, *arguments),
        batch_size=None,  # Keep the blocks as they are.
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if gpu else None,
        **WORKER_LIMITS,
    )
    yield from guarded_batches(dataset, failure)


def _blocks(config: EncoderConfig, sets: list[TextSet]) -> list[pa.Table]:
    """Tables of number, side and text, longest texts first: if memory suffices for the first, it suffices for all."""
    rows = config.batch_size * _BATCHES
    blocks = []
    for each in sets:
        order = np.argsort(-pc.utf8_length(each.texts).to_numpy(), kind="stable")
        side = np.full(len(order), each.side, np.int8)
        table = pa.table({"number": order, "side": side, "text": each.texts.take(pa.array(order))})
        blocks += [table.slice(start, rows) for start in range(0, len(table), rows)]
    return blocks


def _check_vectors(config: EncoderConfig, vectors: Vectors) -> None:
    if not np.isfinite(vectors).all():
        raise ModelError(
            f"{config.model!r} gives vectors that are not finite; its weights are damaged or overflow",
            code="MODEL_NOT_FINITE",
        )
    if zero := int((~vectors.any(axis=1)).sum()):
        raise ModelError(
            f"{config.model!r} gives a vector of zeros for {zero} of {len(vectors)} texts, which is equally far from "
            "everything; its weights are damaged, or its precision is too low",
            code="ZERO_VECTOR",
        )
