"""Loading: from a folder to a SentenceTransformer or a CrossEncoder, without pickles and without code of the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hbt_ray.errors import ModelError
from hbt_ray.model.files import ModelFiles, ModelKind, check_files
from hbt_ray.model.inspection import check_length, inspect_cross_encoder, inspect_encoder, num_positions

_NO_CODE = {"trust_remote_code": False, "local_files_only": True}
"""Said explicitly to every loader: transformers asks on the terminal where it is not told."""


def load_encoder(
    folder: Path,
    model: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    pooling: str = "mean",
) -> Any:
    """The SentenceTransformer of a folder, on the CPU, without the parameters that would never get a gradient.

    Args:
        model: what transformers is to know besides.
        configuration: what to change in the transformer's configuration.
        dtype: of the weights, whatever they were saved in.
        pooling: of a plain transformer; a SentenceTransformer has its own.

    Raises:
        ModelError: the folder holds no encoder, or one that is incomplete, damaged or needs code of its own.
    """

    def make(files: ModelFiles) -> Any:
        from sentence_transformers import SentenceTransformer

        options = {
            "model_kwargs": _safely(dtype) | dict(model or {}),
            "processor_kwargs": dict(_NO_CODE),
            "config_kwargs": _NO_CODE | dict(configuration or {}),
        }
        if files.modules:
            encoder = SentenceTransformer(str(files.folder), device="cpu", **options, **_NO_CODE)
        else:
            encoder = _pooled(files, pooling, options)
        if files.passage_prompt is not None:
            # The library looks under `passage` and `corpus` only where `document` is missing, which it never is.
            encoder.prompts["document"] = files.passage_prompt
        if not files.is_static:
            _bound_length(encoder, files.transformer)
        return _without_pooler(encoder)

    return _checked(folder, "encoder", make, inspect_encoder)


def _pooled(files: ModelFiles, pooling: str, options: Mapping[str, Any]) -> Any:
    """The SentenceTransformer that a plain transformer's folder becomes."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(files.folder), **options)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
    return SentenceTransformer(modules=modules, device="cpu", prompts=files.prompts)


def load_cross_encoder(folder: Path, device: str) -> Any:
    """The CrossEncoder of a folder.

    Raises:
        ModelError: see `load_encoder`; or it is no cross-encoder with one output.
    """

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

    return _checked(folder, "cross-encoder", make, inspect_cross_encoder)


def _checked(
    folder: Path,
    kind: ModelKind,
    make: Callable[[ModelFiles], Any],
    inspect: Callable[[Any, ModelFiles, Mapping[str, Any]], None],
) -> Any:
    """Check the files, load, and check what was loaded."""
    files = check_files(folder, kind)
    try:
        with quiet_transformers(), _loading_report() as report:
            model = make(files)
            inspect(model, files, report)
    except ModelError:
        raise
    except Exception as error:  # What is wrong with a foreign folder shows anywhere in what reads it.
        raise ModelError(
            f"{folder}: cannot be loaded as {'an' if kind == 'encoder' else 'a'} {kind}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}",
            code="MODEL_LOADING",
        ) from error
    return model


@contextmanager
def _loading_report() -> Iterator[dict[str, Any]]:
    """What transformers finds missing or left over within the block. sentence-transformers does not pass it on."""
    from transformers import PreTrainedModel

    report: dict[str, Any] = {}
    original = PreTrainedModel.__dict__["from_pretrained"]

    def reporting(cls: Any, *arguments: Any, **options: Any) -> Any:
        wanted = options.pop("output_loading_info", False)
        model, found = original.__func__(cls, *arguments, output_loading_info=True, **options)
        report.update(found)
        return (model, found) if wanted else model

    setattr(PreTrainedModel, "from_pretrained", classmethod(reporting))  # noqa: B010  # A method is replaced.
    try:
        yield report
    finally:
        setattr(PreTrainedModel, "from_pretrained", original)  # noqa: B010


def _bound_length(model: Any, transformer: Path) -> None:
    """Keep the library's own limit within the positions; refuse one that the model's files name and that is not."""
    first = model[0]
    positions = num_positions(first.model)
    # The library takes max_position_embeddings for the limit, though RoBERTa has two less.
    if positions is not None and first.max_seq_length == getattr(first.config, "max_position_embeddings", None):
        first.max_seq_length = min(first.max_seq_length, positions)
    for setting in ("max_seq_length", "query_length", "document_length"):
        if (length := getattr(first, setting)) is not None:
            check_length(first.model, length, transformer, f"its own {setting}")


def _without_pooler(encoder: Any) -> Any:
    """Its output is never used; DistributedDataParallel would wait for its gradient."""
    model: Any = getattr(encoder[0], "model", None)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return encoder


def _safely(dtype: torch.dtype) -> dict[str, Any]:
    """No pickles, no code. In training the weights are float32, as small steps would be lost in less."""
    return {**_NO_CODE, "use_safetensors": True, "dtype": dtype}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without bars and reports of unused poolers: what matters of the latter, `inspect_encoder` looks at."""
    from transformers.utils import logging as reports

    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()
