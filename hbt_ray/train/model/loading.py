"""Loading: from a folder to a SentenceTransformer, without pickles and without code that comes with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def load(folder: Path, model: Mapping[str, Any] | None = None, configuration: Mapping[str, Any] | None = None) -> Any:
    """The SentenceTransformer of a folder, on the CPU, without the parameters that would never get a gradient.

    Args:
        model: what transformers is to know besides.
        configuration: what to change in the transformer's configuration.
    """
    from sentence_transformers import SentenceTransformer

    with quiet():
        encoder = SentenceTransformer(
            str(folder),
            device="cpu",
            model_kwargs=_safely() | dict(model or {}),
            config_kwargs=dict(configuration or {}),
            local_files_only=True,
        )
    return _without_pooler(encoder)


def assembled(folder: Path, pooling: str) -> Any:
    """The SentenceTransformer that a plain transformer's folder becomes, with vectors of length one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    with quiet():
        transformer = Transformer(str(folder), model_kwargs=_safely(), config_kwargs={"local_files_only": True})
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling), Normalize()]
    return _without_pooler(SentenceTransformer(modules=modules, device="cpu"))


def _without_pooler(encoder: Any) -> Any:
    """Its output is never used; DistributedDataParallel would wait for its gradient."""
    if getattr(encoder[0].model, "pooler", None) is not None:
        encoder[0].model.pooler = None
    return encoder


def _safely() -> dict[str, Any]:
    """No pickles; weights in float32, whatever they were saved in, as small steps would be lost in less."""
    return {"use_safetensors": True, "dtype": torch.float32}


@contextmanager
def quiet() -> Iterator[None]:
    """Without bars and reports of unused poolers: what matters of the latter, `inspect` looks at."""
    from transformers.utils import logging as reports

    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()
