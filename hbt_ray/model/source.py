"""The folder that a model's name means: a local one, or a snapshot of the Hugging Face hub.

Of a hub model configuration, tokenizer and safetensors are fetched, and no code and no pickles.
"""

from __future__ import annotations

from pathlib import Path

from hbt_ray.errors import ModelError

_FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt")
_NOT_FETCHED = ("onnx/*", "openvino/*")


def find_model(name: str) -> Path:
    """The folder of a model. One of the hub is fetched, unless it is in the cache already.

    Raises:
        ModelError: there is no such folder, or the hub does not know the name or cannot be reached.
    """
    return find_local_model(name) or _fetched(name)


def find_local_model(name: str) -> Path | None:
    """The folder of a local model; None for a name that only the hub can know. Asks nobody.

    Raises:
        ModelError: there is no such folder, and the name cannot be one of the hub.
    """
    folder = Path(name)
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
    except (OSError, ValueError) as error:  # Too long, or with a NUL.
        raise ModelError(f"model {name[:100]!r}: no such folder ({error})", code="MODEL_NOT_FOUND") from None
    if is_folder:
        return folder
    if exists:
        raise ModelError(f"model {name!r} is a file; give the folder that it lies in", code="MODEL_NOT_FOUND")
    if not name or folder.is_absolute() or name.startswith((".", "~")) or len(folder.parts) > 2:
        raise ModelError(
            f"model {name!r}: no such folder; give a model's folder or its name on the Hugging Face hub",
            code="MODEL_NOT_FOUND",
        )
    return None


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FETCHED), ignore_patterns=list(_NOT_FETCHED)))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise ModelError(
            f"model {name!r} is no folder here and no model of the Hugging Face hub that you may read "
            f"({type(error).__name__}); check the spelling, or log in if it is private",
            code="MODEL_NOT_FOUND",
        ) from error
    except Exception as error:  # Of the HTTP client, whose errors are those of whichever library it is made of.
        raise ModelError(
            f"model {name!r} is no folder here, and cannot be fetched from the Hugging Face hub: "
            f"{' '.join(str(error).split())[:200]}. Where there is no network, copy the model's folder here and give "
            "its path",
            code="MODEL_NOT_FETCHED",
        ) from error
