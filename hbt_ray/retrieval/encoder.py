"""The encoder under judgement: which model, how it is run, and what it is known by."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.errors import ModelError
from hbt_ray.host import keep_freed_memory, usable_cpus
from hbt_ray.model.files import ModelKind, check_files
from hbt_ray.model.inspection import check_length
from hbt_ray.model.loading import load_encoder
from hbt_ray.model.source import find_local_model, find_model
from hbt_ray.ray_errors import WORKER_LIMITS, Guarded, guarded_batches
from hbt_ray.retrieval.vector_cache import Texts, TextSet, VectorCache, Vectors

_NOT_THE_MODEL = ("README.md", "posthoc", "training.json", ".cache", ".gitattributes")
"""What may lie in a model's folder, and change, while its vectors stay the same."""


class EncodingConfig(Config):
    """How texts are encoded, whatever the model."""

    question_prompt: str | None = None
    """Text before every question, such as `query: `. Default: the model's own prompt."""
    passage_prompt: str | None = None
    """Text before every passage, such as `passage: `. Default: the model's own prompt."""
    max_length: int | None = Field(None, gt=2)
    """Longest text in tokens; longer texts are truncated. Default: the model's own limit."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of weights and activations. Vectors are normalised and kept in fp32."""
    batch_size: int = Field(64, gt=0)
    """Texts of one forward pass."""
    workers: int = Field(1, gt=0)
    """Number of encoding processes. Without GPUs they share the CPU cores."""
    gpu: bool = False
    """Give each encoding process one GPU."""


class EncoderConfig(EncodingConfig):
    """A model, and how it encodes texts."""

    model: str
    """A SentenceTransformer or Hugging Face folder, or a hub name."""

    def identity(self) -> str:
        """Checksum of the model's files and of all that changes its vectors.

        It costs a second a GB, and no model is loaded for it, as it is for the fingerprint of its vectors.

        Raises:
            ModelError: see `find_model`.
        """
        folder = find_model(self.model)
        digest = hashlib.sha256(
            repr((self.question_prompt, self.passage_prompt, self.max_length, self.precision)).encode()
        )
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            if name.parts[0] not in _NOT_THE_MODEL:
                with path.open("rb") as file:
                    digest.update(f"{name.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()[:16]


class EncoderActor:
    """One model in one process; Ray Data calls it with tables of number, side (0 question, 1 passage) and text."""

    def __init__(self, config: EncoderConfig) -> None:
        import torch

        if not config.gpu:
            keep_freed_memory()
            torch.set_num_threads(max(1, usable_cpus() // config.workers))
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds[config.precision]
        self._model = load_encoder(find_model(config.model), dtype=kind).to("cuda" if config.gpu else "cpu", kind)
        for name, prompt in (("query", config.question_prompt), ("document", config.passage_prompt)):
            if prompt is not None:
                self._model.prompts[name] = prompt
        if config.max_length:
            if hasattr(self._model[0], "model"):
                check_length(self._model[0].model, config.max_length, Path(config.model), "encoder.max_length")
            self._model.max_seq_length = config.max_length
            self._model[0].query_length = self._model[0].document_length = None  # They would win over it.
        self._batch_size = config.batch_size
        self._unit = self._model.similarity_fn_name != "dot"
        self._fingerprint = _fingerprint(self._model)

    def __call__(self, batch: pa.Table) -> pa.Table:
        sides = batch["side"].to_numpy()
        texts = batch["text"].to_pylist()
        vectors = np.empty((len(texts), self._model.get_embedding_dimension()), np.float32)
        for side, run in ((0, self._model.encode_query), (1, self._model.encode_document)):
            rows = np.flatnonzero(sides == side)
            if len(rows):
                vectors[rows] = self._encode(run, [texts[row] for row in rows])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return pa.table(
            {
                "number": batch["number"],
                "side": batch["side"],
                "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
                "fingerprint": [self._fingerprint] * len(texts),
                "memory": [memory] * len(texts),
            }
        )

    def _encode(self, run: Any, texts: list[str]) -> npt.NDArray[np.float32]:
        import torch

        vectors = np.empty((len(texts), self._model.get_embedding_dimension()), np.float32)
        order = self._longest_first(texts)
        for rows in np.split(order, range(self._batch_size, len(texts), self._batch_size)):
            found = run(
                [texts[row] for row in rows],
                batch_size=self._batch_size,
                convert_to_tensor=True,
                show_progress_bar=False,
            ).float()
            # Here, as half a precision would leave vectors of about unit length.
            vectors[rows] = (torch.nn.functional.normalize(found) if self._unit else found).cpu().numpy()
        return vectors

    def _longest_first(self, texts: list[str]) -> npt.NDArray[np.int64]:
        """By tokens: as many characters are three times as many tokens in one script as in another, so batches by
        characters would be a quarter padding. To count them costs little beside the model."""
        mask = self._model.preprocess(texts).get("attention_mask")  # Models that need no padding give none.
        return np.arange(len(texts)) if mask is None else np.argsort(-mask.sum(1).numpy(), kind="stable")


def model_folder(model: str, kind: ModelKind = "encoder") -> Path | None:
    """The folder of a local model, whose files are checked and not loaded; None for a hub name, which is not fetched.

    Raises:
        ModelError: see `find_local_model` and `check_files`.
    """
    if folder := find_local_model(model):
        check_files(folder, kind)
    return folder


def fetch_model(model: str, kind: ModelKind = "encoder") -> None:
    """Fetch a model of the hub, and check its files. To be called last before a cluster starts, as it may take long.

    Raises:
        ModelError: see `find_model` and `check_files`.
    """
    check_files(find_model(model), kind)


def _fingerprint(model: Any) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if "pooler" in name.split("."):  # Unused, and where the folder lacks it, drawn anew whenever it is loaded.
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy())
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    digest.update((backend.to_str() if backend else repr(model.tokenizer)).encode())
    digest.update(repr((sorted(model.prompts.items()), model.max_seq_length, model.similarity_fn_name)).encode())
    return digest.hexdigest()[:16]


_BATCHES = 16
"""Given to an actor at once, for it to sort: characters have sorted the texts by then, tokens do so within these."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTexts:
    """Vectors of all texts, unit length unless the model says that it wants the dot product."""

    questions: Vectors
    """[questions, width]"""
    passages: Vectors
    fingerprint: str
    """Of weights, tokenizer, prompts and length."""
    peak_memory_bytes: int
    """Largest resident set of any one encoder process; 0 where nothing had to be encoded."""


def encode(
    config: EncoderConfig,
    questions: Texts,
    passages: Texts,
    advance: Callable[[int], None] = lambda _: None,
    *,
    cache: Path | None = None,
) -> EncodedTexts:
    """Vectors of questions and passages, in order; needs a Ray session where something is to be encoded.

    Args:
        advance: is told of every batch how many of the given texts it has finished.
        cache: a folder where vectors are kept, and memory-mapped from; without one they are held in memory.

    Raises:
        ModelError: the model cannot be loaded, or gives vectors that are not finite, or zero where only their
            direction counts.
        ResourceError: the encoder's processes ran out of memory or died.
    """
    sets = [TextSet.of(0, questions), TextSet.of(1, passages)]
    kept = VectorCache(cache, config.identity()) if cache else None
    found = {texts.side: vectors for texts in sets if kept and (vectors := kept.find(texts)) is not None}
    missing = [texts for texts in sets if texts.side not in found and len(texts)]
    for texts in sets:
        if texts.side in found:
            advance(len(texts.places))
    fingerprint, peak = (kept.fingerprint or "") if kept else "", 0
    if missing or not found:
        made, fingerprint, peak = _encode(config, missing, advance, kept)
        found |= made
    width = next(iter(found.values())).shape[1]
    empty = np.empty((0, width), np.float32)
    asked, answers = (texts.given(found.get(texts.side, empty)) for texts in sets)
    return EncodedTexts(asked, answers, fingerprint, peak)


def _encode(
    config: EncoderConfig, sets: list[TextSet], advance: Callable[[int], None], kept: VectorCache | None
) -> tuple[dict[int, Vectors], str, int]:
    """Vectors by side, the model's fingerprint, and the memory that it took."""
    occurrences = {texts.side: np.bincount(texts.places, minlength=len(texts)) for texts in sets}
    vectors: dict[int, Vectors] = {}
    fingerprint, peak = "", 0
    with ExitStack() as writing:
        for batch in _batches(config, sets):
            found = np.stack(batch["vector"].to_numpy())
            sides, numbers = batch["side"].to_numpy(), batch["number"].to_numpy()
            if not vectors:
                for texts in sets:
                    vectors[texts.side] = (
                        writing.enter_context(kept.writing(texts, found.shape[1]))
                        if kept
                        else np.empty((len(texts), found.shape[1]), np.float32)
                    )
            _check(config, found)
            for texts in sets:
                own = sides == texts.side
                vectors[texts.side][numbers[own]] = found[own]
                advance(int(occurrences[texts.side][numbers[own]].sum()))
            fingerprint, peak = batch["fingerprint"][0].as_py(), max(peak, batch["memory"][-1].as_py())
        if not vectors:
            raise ModelError("there is no text to encode; give questions or passages")
    if kept:
        kept.name(fingerprint)
        vectors = {texts.side: there for texts in sets if (there := kept.find(texts)) is not None}
    return vectors, fingerprint, peak


def _batches(config: EncoderConfig, sets: list[TextSet]) -> Iterator[pa.Table]:
    """Tables of side, number, vector, fingerprint and memory, in any order."""
    blocks = _blocks(config, sets)
    if not blocks:
        return
    dataset = ray.data.from_arrow(blocks).map_batches(
        Guarded,
        fn_constructor_args=(EncoderActor, config),
        batch_size=None,  # A block as it is.
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_gpus=1 if config.gpu else None,
        **WORKER_LIMITS,
    )
    yield from guarded_batches(dataset, f"{config.model!r} could not encode")


def _blocks(config: EncoderConfig, sets: list[TextSet]) -> list[pa.Table]:
    rows = config.batch_size * _BATCHES
    return [ordered.slice(at, rows) for ordered in map(_ordered, sets) for at in range(0, len(ordered), rows)]


def _ordered(texts: TextSet) -> pa.Table:
    """Longest first: the largest batch comes first, and memory that suffices for it suffices for all."""
    order = np.argsort(-pc.utf8_length(texts.texts).to_numpy(), kind="stable")
    side = np.full(len(order), texts.side, np.int8)
    return pa.table({"number": order, "side": side, "text": texts.texts.take(pa.array(order))})


def _check(config: EncoderConfig, vectors: Vectors) -> None:
    if not np.isfinite(vectors).all():
        raise ModelError(f"{config.model!r} gives vectors that are not finite; its weights are damaged or overflow")
    if zero := int((~vectors.any(axis=1)).sum()):
        raise ModelError(
            f"{config.model!r} gives a vector of zeros for {zero} of {len(vectors)} texts, which is equally far from "
            "everything; its weights are damaged, or its precision is too low"
        )
