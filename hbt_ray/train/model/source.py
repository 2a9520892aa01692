"""The source: the folder that a name means, and whether it holds an encoder that can be read without running its code.

A hub name becomes a folder too: configuration, tokenizer and safetensors are fetched, and no code and no pickles. So
there is one way to load an encoder, and what is missing is known before anything is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hbt_ray.errors import ModelError

_FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt")
_NOT_FETCHED = ("onnx/*", "openvino/*")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZERS = (
    "tokenizer.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)


def locate(name: str) -> Path:
    """The folder of an encoder; one of the hub is fetched, unless it is in the cache already.

    Raises:
        ModelError: there is no such folder, or the hub does not know the name or cannot be reached.
    """
    folder = Path(name)
    if folder.exists():
        return folder
    if folder.is_absolute() or name.startswith(".") or len(folder.parts) > 2:
        raise ModelError(f"model.name={name!r}: no such folder; give an encoder's folder, a hub name, or scratch")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FETCHED), ignore_patterns=list(_NOT_FETCHED)))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise ModelError(
            f"model.name={name!r} is no folder here and no model of the Hugging Face hub that you may read "
            f"({type(error).__name__}); check the spelling, or log in if it is private"
        ) from error
    except Exception as error:  # Of the HTTP client, whose errors are those of whichever library it is made of.
        raise ModelError(
            f"model.name={name!r} is no folder here, and cannot be fetched from the Hugging Face hub: "
            f"{' '.join(str(error).split())[:200]}. Where there is no network, copy the model's folder here and give "
            "its path"
        ) from error


def check_files(folder: Path) -> Path:
    """Look for all that an encoder needs. Returns the folder of its transformer.

    Raises:
        ModelError: something is missing, or could only be read by running code that came with it.
    """
    if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
        raise ModelError(
            f"{folder}: neither config.json nor modules.json is there; give an encoder's folder or a hub name"
        )
    modules = _modules(folder)
    transformer = folder / modules[0] if modules else folder
    _check_safe(transformer)
    for other in modules[1:]:
        if _pickles(folder / other) and not (folder / other / _WEIGHTS[0]).exists():
            raise ModelError(_only_pickles(folder / other))
    if not any((transformer / name).exists() for name in _TOKENIZERS):
        raise ModelError(
            f"{transformer}: no tokenizer is there (none of {', '.join(_TOKENIZERS)}), and one that is made up would "
            "read every word as unknown; copy the tokenizer that the encoder was trained with into the folder"
        )
    return transformer


def _modules(folder: Path) -> list[str]:
    """Paths of a SentenceTransformer's modules, the transformer's first; none for a plain folder."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        kinds, paths = [module["type"] for module in found], [module["path"] for module in found]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: no list of modules ({type(error).__name__}: {error})") from None
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise ModelError(
                f"{path}: the module {kind!r} is code of its own, which is never run; use a model that is made of "
                "sentence-transformers' own modules"
            )
    if not kinds or not kinds[0].endswith(".Transformer"):
        raise ModelError(
            f"{path}: the first module is {kinds[0] if kinds else 'missing'}, but only encoders with one transformer "
            "can be trained; give the folder of a transformer"
        )
    return paths


def _check_safe(transformer: Path) -> None:
    if (transformer / "adapter_config.json").exists():
        raise ModelError(
            f"{transformer}: holds adapters of another encoder and not the encoder; merge them with peft's "
            "merge_and_unload and save that, or give the encoder's own folder"
        )
    if not (transformer / "config.json").exists():
        raise ModelError(f"{transformer}: config.json is missing, so the encoder's shape is unknown; copy it there")
    if not any((transformer / name).exists() for name in _WEIGHTS):
        if _pickles(transformer):
            raise ModelError(_only_pickles(transformer))
        raise ModelError(
            f"{transformer}: has a configuration but no weights (model.safetensors); training would start from random "
            "ones. Copy them there, or write model.name: scratch for a new encoder"
        )


def _pickles(folder: Path) -> list[str]:
    return sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))


def _only_pickles(folder: Path) -> str:
    return (
        f"{folder}: has its weights only as {', '.join(_pickles(folder)[:3])}, which is a pickle and could run code "
        "when it is read, so it is not. If you trust its origin, load it with transformers yourself and save it again "
        "with save_pretrained, which writes model.safetensors"
    )
