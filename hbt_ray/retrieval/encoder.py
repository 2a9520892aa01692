"""The encoder under judgement: which model, how it is run, and what it is known by."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.host import keep_freed_memory, usable_cpus
from hbt_ray.model.files import Kind, check_files
from hbt_ray.model.inspection import check_length
from hbt_ray.model.loading import load
from hbt_ray.model.source import local_folder, locate

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
            ModelError: see `locate`.
        """
        folder = locate(self.model)
        digest = hashlib.sha256(
            repr((self.question_prompt, self.passage_prompt, self.max_length, self.precision)).encode()
        )
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            if name.parts[0] not in _NOT_THE_MODEL:
                with path.open("rb") as file:
                    digest.update(f"{name.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()[:16]


class Encoder:
    """One model in one process; Ray Data calls it with tables of number, side (0 question, 1 passage) and text."""

    def __init__(self, config: EncoderConfig) -> None:
        import torch

        if not config.gpu:
            keep_freed_memory()
            torch.set_num_threads(max(1, usable_cpus() // config.workers))
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds[config.precision]
        self._model = load(locate(config.model), dtype=kind).to("cuda" if config.gpu else "cpu", kind)
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


def model_folder(model: str, kind: Kind = "encoder") -> Path | None:
    """The folder of a local model, whose files are checked and not loaded; None for a hub name, which is not fetched.

    Raises:
        ModelError: see `local_folder` and `check_files`.
    """
    if folder := local_folder(model):
        check_files(folder, kind)
    return folder


def fetch_model(model: str, kind: Kind = "encoder") -> None:
    """Fetch a model of the hub, and check its files. To be called last before a cluster starts, as it may take long.

    Raises:
        ModelError: see `locate` and `check_files`.
    """
    check_files(locate(model), kind)


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
