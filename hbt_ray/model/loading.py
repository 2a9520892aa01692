"""Find a model and load it: a SentenceTransformer or a CrossEncoder, without pickles and without the model's own code.

A model is a local folder or a snapshot of the Hugging Face hub, of which configuration, tokenizer and safetensors are
downloaded. Its files are checked before anything is built (`hbt_ray.model.files`), and the loaded model is checked
before it is used (`hbt_ray.model.inspection`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hbt_ray.errors import ModelError, redact
from hbt_ray.model.files import ModelFiles, ModelKind, check_files
from hbt_ray.model.inspection import check_length, inspect_cross_encoder, inspect_encoder, num_positions
from hbt_ray.storage import ObjectPath, as_path, local_folder

_DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*.txt")
_NOT_DOWNLOADED = ("onnx/*", "openvino/*")
_NO_CODE = {"trust_remote_code": False, "local_files_only": True}
"""Options of every loader. Without an explicit `trust_remote_code` transformers prompts on the terminal."""


def find_model(name: str) -> Path:
    """The folder of a model; a model of the hub is downloaded, unless it is in the cache.

    Raises:
        ModelError: there is no such folder, and the hub does not have the model or cannot be reached.
    """
    return find_local_model(name) or _download(name)


def find_local_model(name: str) -> Path | None:
    """The folder of a local model, or this node's copy of one in an object store.

    It is None for a name that may be one of the hub, which is not contacted.
    """
    place = as_path(name)
    if isinstance(place, ObjectPath):
        try:
            return local_folder(place, expected=False)
        except FileNotFoundError:
            raise ModelError(f"model {redact(name)!r}: there is no model of a run", code="MODEL_NOT_FOUND") from None
    folder = place
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
    except (OSError, ValueError) as error:  # Too long, or with a NUL.
        raise ModelError(f"model {name[:100]!r}: no such folder ({error})", code="MODEL_NOT_FOUND") from None
    if is_folder:
        return folder
    if exists:
        raise ModelError(f"model {name!r} is a file; give the folder that contains it", code="MODEL_NOT_FOUND")
    # A name on the hub is `model` or `owner/model`; anything else can only be a path.
    if not name or folder.is_absolute() or name.startswith((".", "~")) or len(folder.parts) > 2:
        raise ModelError(
            f"model {name!r}: no such folder; give a model's folder or its name on the Hugging Face hub",
            code="MODEL_NOT_FOUND",
        )
    return None


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_DOWNLOADED), ignore_patterns=list(_NOT_DOWNLOADED)))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise ModelError(
            f"model {name!r} is neither a folder here nor a model of the Hugging Face hub that you may read "
            f"({type(error).__name__}); check the spelling, or log in if it is private",
            code="MODEL_NOT_FOUND",
        ) from error
    except Exception as error:  # The HTTP client's errors are those of whichever library it is built on.
        raise ModelError(
            f"model {name!r} is not a folder here and cannot be downloaded from the Hugging Face hub: "
            f"{' '.join(str(error).split())[:200]}. Without network, copy the model's folder here and give its path",
            code="MODEL_NOT_FETCHED",
        ) from error


def load_encoder(
    folder: Path,
    model_options: Mapping[str, Any] | None = None,
    config_changes: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    pooling: str = "mean",
) -> Any:
    """Load the SentenceTransformer of a folder on the CPU, without parameters that would never get a gradient.

    Args:
        model_options: further arguments for transformers' `from_pretrained`.
        dtype: type of the weights in memory. Training needs float32: in less, small updates would be rounded away.
        pooling: pooling for a plain transformer; a SentenceTransformer keeps its own.

    Raises:
        ModelError: the folder holds no encoder, or one that is incomplete, damaged or needs its own code.
    """

    def make(files: ModelFiles) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        options = {
            "model_kwargs": {**_NO_CODE, "use_safetensors": True, "dtype": dtype, **(model_options or {})},
            "processor_kwargs": dict(_NO_CODE),
            "config_kwargs": {**_NO_CODE, **(config_changes or {})},
        }
        if files.modules:
            encoder = SentenceTransformer(str(files.folder), device="cpu", **options, **_NO_CODE)
        else:
            transformer = Transformer(str(files.folder), **options)
            modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
            encoder = SentenceTransformer(modules=modules, device="cpu", prompts=files.prompts)
        if files.passage_prompt is not None:
            # The library looks under `passage` and `corpus` only if `document` is missing, which it never is.
            encoder.prompts["document"] = files.passage_prompt
        if not files.is_static:
            _bound_length(encoder, files.transformer)
        # The transformer's pooler is never used, and DistributedDataParallel would wait for its gradient.
        if getattr(getattr(encoder[0], "model", None), "pooler", None) is not None:
            encoder[0].model.pooler = None
        return encoder

    return _load_checked(folder, "encoder", make, inspect_encoder)


def load_cross_encoder(folder: Path, device: str) -> Any:
    """Load the CrossEncoder of a folder; raises `ModelError` as `load_encoder` does."""

    def make(files: ModelFiles) -> Any:
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(
            str(files.folder),
            device=device,
            model_kwargs={**_NO_CODE, "use_safetensors": True},
            processor_kwargs=dict(_NO_CODE),
            config_kwargs=dict(_NO_CODE),
            **_NO_CODE,
        )
        _bound_length(model, files.transformer)
        return model

    return _load_checked(folder, "cross-encoder", make, inspect_cross_encoder)


def _load_checked(
    folder: Path,
    kind: ModelKind,
    make: Callable[[ModelFiles], Any],
    inspect: Callable[[Any, ModelFiles, Mapping[str, Any]], None],
) -> Any:
    """Check the files, load the model, and check the loaded model."""
    files = check_files(folder, kind)
    try:
        with quiet_transformers(), _loading_report() as report:
            model = make(files)
            inspect(model, files, report)
    except ModelError:
        raise
    except Exception as error:  # A broken folder can fail anywhere in the libraries that read it.
        raise ModelError(
            f"{folder}: cannot be loaded as {'an' if kind == 'encoder' else 'a'} {kind}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}",
            code="MODEL_LOADING",
        ) from error
    return model


@contextmanager
def _loading_report() -> Iterator[dict[str, Any]]:
    """Yield a dict that receives the missing and unexpected weights of models that are loaded within the block.

    sentence-transformers does not pass this report of transformers on, so `from_pretrained` is replaced meanwhile.
    """
    from transformers import PreTrainedModel

    report: dict[str, Any] = {}
    # From `__dict__`, to restore the classmethod itself: attribute access would give a method bound to this class.
    original = PreTrainedModel.__dict__["from_pretrained"]

    def reporting(cls: Any, *arguments: Any, **options: Any) -> Any:
        returns_info = options.pop("output_loading_info", False)
        model, info = original.__func__(cls, *arguments, output_loading_info=True, **options)
        report.update(info)
        return (model, info) if returns_info else model

    setattr(PreTrainedModel, "from_pretrained", classmethod(reporting))  # noqa: B010  # A method is replaced.
    try:
        yield report
    finally:
        setattr(PreTrainedModel, "from_pretrained", original)  # noqa: B010


def _bound_length(model: Any, transformer: Path) -> None:
    """Reduce the library's default length to the positions; refuse a length in the model's files that exceeds them."""
    module = model[0]
    positions = num_positions(module.model)
    # The library takes max_position_embeddings for the limit, though RoBERTa has two positions less.
    if positions is not None and module.max_seq_length == getattr(module.config, "max_position_embeddings", None):
        module.max_seq_length = min(module.max_seq_length, positions)
    for setting in ("max_seq_length", "query_length", "document_length"):
        if (length := getattr(module, setting)) is not None:
            check_length(module.model, length, transformer, f"its own {setting}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars, warnings and reports of unused weights, which `inspect_encoder` checks itself."""
    from transformers.utils import logging as transformers_logging

    level, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if has_bars:
            transformers_logging.enable_progress_bar()
