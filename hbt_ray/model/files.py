"""Checks of the files of a model folder, before anything is built from them.

Paths and numbers in a model's JSON files are not trusted: they may lead out of the folder, name code to run, or require
more memory than the weights need.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from hbt_ray.errors import ModelError
from hbt_ray.run_dir import EXPORT_RECORD
from hbt_ray.storage import file_sha256, read_checked_json

ModelKind = Literal["encoder", "cross-encoder"]
Shapes = dict[str, tuple[int, ...]]
"""Tensor → shape."""

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = ("tokenizer.json", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model", "vocab.txt",
               "vocab.json")  # fmt: skip
_CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
            "sentence_bert_config.json", "config_sentence_transformers.json", "generation_config.json")  # fmt: skip
_MAX_CONFIG_BYTES = 16 << 20
_MAX_WIDTH = 1 << 20
"""Maximum width of a module behind the transformer; the widest published ones have about ten thousand."""
# Not bounded by the weights: models with rotary positions have no position embeddings.
_MAX_POSITIONS = 1 << 27
# Module classes moved between packages of sentence-transformers; saved models name old and new ones.
_MODULE = re.compile(
    r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules|cross_encoder\.modules)"
    r"(?:\.\w+)?\.(?P<name>\w+)"
)
_FIRST_MODULES = ("Transformer", "StaticEmbedding")
_LATER_MODULES = ("Pooling", "WeightedLayerPooling", "Dense", "LayerNorm", "Normalize", "Dropout", "LSTM", "CNN",
                  "LogitScore")  # fmt: skip
# Keys of sizes in the configurations of architectures; see `_check_sizes`.
_LAYER_KEYS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"}
_WIDTH_KEYS = {"hidden_size", "d_model", "n_embd", "dim", "hidden_dim", "embedding_size", "vocab_size",
               "intermediate_size", "d_ff", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim",
               "type_vocab_size", "num_attention_heads", "n_head", "n_heads"}  # fmt: skip
_LIBRARY_SETTINGS = {"model_max_length", "padding_side", "truncation_side", "dtype", "torch_dtype", "use_fast",
                     "use_cache", "do_lower_case", "add_prefix_space", "add_pooling_layer", "attn_implementation",
                     "unpad_inputs"}  # fmt: skip
"""Settings that sentence-transformers may pass to transformers; others could load other models."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The contents of a folder whose files were checked."""

    folder: Path
    transformer: Path
    """The folder of the first module, which holds the weights."""
    modules: tuple[str, ...]
    """Classes of a SentenceTransformer's modules, in order; empty for a plain transformer."""
    prompts: dict[str, str]
    """Prompts by name, from the model's own configuration."""

    @property
    def is_static(self) -> bool:
        """Whether the model has token embeddings and no transformer."""
        return self.modules[:1] == ("StaticEmbedding",)

    @property
    def question_prompt(self) -> str | None:
        """The model's own prompt for questions; None if its configuration has none."""
        return self.prompts.get("query")

    @property
    def passage_prompt(self) -> str | None:
        """The model's own prompt for passages; None if its configuration has none."""
        return next((self.prompts[name] for name in ("document", "passage", "corpus") if name in self.prompts), None)


def check_files(folder: Path, kind: ModelKind = "encoder") -> ModelFiles:
    """Check that all files of a model exist, that no path leads out of the folder, and that no code is needed.

    Raises:
        ModelError: a file is missing or damaged, or could only be read by running code that came with the model.
    """
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise _damage(
            f"{folder}: has neither config.json nor modules.json, so it is not a model; give a model's folder or a "
            "hub name"
        )
    modules = _modules(folder)
    transformer = folder / modules[0][1] if modules else folder
    files = ModelFiles(folder, transformer, tuple(name for name, _ in modules), read_prompts(folder, kind))
    # Often the same folder, which is checked once.
    for place in dict.fromkeys((folder, transformer)):
        _check_no_code(place)
    shapes = _check_weights(transformer)
    _check_exported_weights(folder)
    if not files.is_static:
        _check_library_settings(transformer)
        _check_sizes(transformer / "config.json", shapes)
    for name, path in modules[1:]:
        _check_module(folder / path, name)
    if not any((transformer / name).is_file() for name in _TOKENIZERS):
        raise _damage(
            f"{transformer}: has no tokenizer (none of {', '.join(_TOKENIZERS)}), and a default one would read every "
            "word as unknown; copy the tokenizer that the model was trained with into the folder"
        )
    return files


def _damage(message: str) -> ModelError:
    return ModelError(message, code="MODEL_FILES")


def _code_refusal(message: str) -> ModelError:
    return ModelError(f"{message}, and code that comes with a model is never run", code="MODEL_CODE")


def read_json(path: Path) -> Any:
    """The content of a model's JSON file, which must not be too large or too deeply nested."""
    try:
        if (size := path.stat().st_size) > _MAX_CONFIG_BYTES:
            raise ValueError(f"{size:,} bytes are too many for a configuration")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _damage(f"{path}: cannot be read as JSON ({reason}); copy the file anew") from None


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file."""
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise _damage(f"{path}: holds a {type(content).__name__}, not keys and values")
    return content


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Class and path of a SentenceTransformer's modules; none for a plain folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    content = read_json(path)
    try:
        listed = [(str(module["type"]), str(module["path"])) for module in content]
    except (KeyError, TypeError) as error:
        raise _damage(f"{path}: is not a list of modules ({type(error).__name__}: {error})") from None
    names = []
    for kind, subfolder in listed:
        if not kind.startswith("sentence_transformers."):
            raise _code_refusal(f"{path}: the module {kind!r} is not one of sentence-transformers' own modules")
        match = _MODULE.fullmatch(kind)
        names.append(match["name"] if match else "")
        if names[-1] not in (*_FIRST_MODULES, *_LATER_MODULES):
            supported = ", ".join((*_FIRST_MODULES, *_LATER_MODULES))
            raise ModelError(f"{path}: the module {kind!r} is not one of {supported}", code="MODEL_KIND")
        if _leads_out(subfolder):
            raise _damage(f"{path}: the path {subfolder!r} leads out of the model's folder")
    # Exactly the first module is a transformer or static embeddings.
    if [name in _FIRST_MODULES for name in names] != [True] + [False] * (len(names) - 1):
        raise ModelError(
            f"{path}: has the modules {', '.join(names) or '(none)'}, but only models that begin with their one "
            "transformer can be used; give the folder of a transformer",
            code="MODEL_KIND",
        )
    return [(name, subfolder) for name, (_, subfolder) in zip(names, listed, strict=True)]


def _leads_out(path: str) -> bool:
    # Splits at both kinds of slashes, so one check covers models that were saved anywhere.
    windows = PureWindowsPath(path)
    return PurePosixPath(path).is_absolute() or bool(windows.anchor) or ".." in windows.parts or "\0" in path


def read_prompts(folder: Path, kind: ModelKind = "encoder") -> dict[str, str]:
    """Prompts by name from `config_sentence_transformers.json`, which must match `kind`; empty if there are none."""
    path = folder / "config_sentence_transformers.json"
    content = _object(path)
    model_type = content.get("model_type", "SentenceTransformer")
    expected_type = {"encoder": "SentenceTransformer", "cross-encoder": "CrossEncoder"}[kind]
    if (folder / "modules.json").is_file() and path.exists() and model_type != expected_type:
        raise ModelError(f"{folder}: is a {str(model_type)[:40]}, but a {expected_type} is needed", code="MODEL_KIND")
    prompts = content.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise _damage(f"{path}: prompts must be texts by name")
    return {name: text or "" for name, text in prompts.items()}


def _check_no_code(folder: Path) -> None:
    """Refuse configurations that need the model's own code or the hub's kernels, and adapters without their base."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder}: holds adapters of another model, without that model; merge them with peft's merge_and_unload "
            "and save that, or give the folder of the model itself",
            code="MODEL_ADAPTERS",
        )
    for path in (folder / name for name in _CONFIGS):
        for key, value in _pairs(_object(path)):
            if (
                key == "auto_map"
                or (key == "trust_remote_code" and value)
                # transformers loads a kernel from the hub if the name has a slash.
                or (key in ("attn_implementation", "_attn_implementation") and "/" in str(value))
            ):
                raise _code_refusal(f"{path}: {key}={_shown(value)} asks to run code of its own or of the hub")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of nested objects, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _check_library_settings(transformer: Path) -> None:
    """Refuse settings that sentence-transformers passes to transformers and that could load other models."""
    # `sentence_bert_config.json`, or another architecture's name in older models.
    for path in sorted(transformer.glob("sentence_*_config.json")):
        content = _object(path)
        task = content.get("transformer_task", "feature-extraction")
        if task not in ("feature-extraction", "sequence-classification"):
            raise ModelError(
                f"{path}: transformer_task={_shown(task)} is not the task of an encoder", code="MODEL_KIND"
            )
        if content.get("tokenizer_name_or_path"):
            raise _damage(
                f"{path}: tokenizer_name_or_path names another model's tokenizer; copy the tokenizer into the folder"
            )
        for key in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
            values = content.get(key) or {}
            if not isinstance(values, dict) or not values.keys() <= _LIBRARY_SETTINGS:
                raise _damage(
                    f"{path}: {key}={_shown(values)} could load other files than this folder's; use only "
                    f"{', '.join(sorted(_LIBRARY_SETTINGS))}"
                )


def _check_weights(folder: Path) -> Shapes:
    """Shapes of all tensors, from the headers of the weights' files."""
    if (folder / WEIGHTS).is_file():
        return _shapes(folder / WEIGHTS)
    if (folder / SHARDS).is_file():
        index = _object(folder / SHARDS)
        listed = index.get("weight_map") if isinstance(index.get("metadata"), dict) else None
        if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
            raise _damage(f"{folder / SHARDS}: has no metadata or no weight_map; copy the folder anew")
        shapes: Shapes = {}
        for file in sorted(set(listed.values())):
            # Shards lie beside the index; any other path is refused.
            if Path(file).name != file:
                raise _damage(f"{folder / SHARDS}: {file!r} leads out of the model's folder")
            shapes |= _shapes(folder / file)
        return shapes
    _refuse_pickles(folder)
    raise ModelError(
        f"{folder}: has a configuration but no weights ({WEIGHTS}), and random ones would be used. Copy them there; to "
        "train a new encoder write model.name: scratch",
        code="MODEL_WEIGHTS",
    )


def _check_exported_weights(folder: Path) -> None:
    """Compare the weights of an exported encoder with their checksums, since a changed bit does not change a shape."""
    record = folder / EXPORT_RECORD
    if not record.is_file():
        return
    for name, sha256 in read_checked_json(record)["weights"].items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise ModelError(
                f"{path}: is missing or was changed since the training run wrote it. Delete the model's folder and run "
                f"`hbt train` again, which exports it anew; if you changed the weights yourself, delete {record}",
                code="MODEL_WEIGHTS",
            )


def _shapes(path: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        # Reads the header only.
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path}: missing, cut short or damaged ({reason}); copy the file anew", code="MODEL_WEIGHTS"
        ) from None


def _check_sizes(path: Path, shapes: Shapes) -> None:
    """Refuse sizes in the configuration that exceed the weights: building such a model could fill the memory."""
    if not path.is_file():
        raise _damage(f"{path}: is missing, so the model's shape is unknown; copy it there")
    max_width = max((size for shape in shapes.values() for size in shape), default=0)
    for key, value in _pairs(_object(path)):
        # A layer has at least one tensor, and a width is a dimension of some tensor.
        bound = len(shapes) if key in _LAYER_KEYS else max_width if key in _WIDTH_KEYS else None
        bound = _MAX_POSITIONS if key == "max_position_embeddings" else bound
        if bound is not None and isinstance(value, int) and value > bound:
            raise ModelError(
                f"{path}: {key}={_shown(value)} is more than the weights have: {len(shapes)} tensors with sizes up to "
                f"{max_width}; weights are missing, or config.json is another model's. Copy the folder anew",
                code="MODEL_WEIGHTS",
            )


def _check_module(folder: Path, name: str) -> None:
    """Check a module behind the transformer, which need not have weights."""
    if (folder / WEIGHTS).is_file():
        _shapes(folder / WEIGHTS)
    else:
        _refuse_pickles(folder)
    path = folder / "config.json"
    config = _object(path)
    for key, value in _pairs(config):
        if isinstance(value, int) and value > _MAX_WIDTH:
            raise _damage(f"{path}: {key}={_shown(value)} is too large")
    function = str(config.get("activation_function", "torch.nn."))
    # The library imports the function by this name.
    if name == "Dense" and not function.startswith("torch.nn."):
        raise _code_refusal(f"{path}: activation_function={_shown(function)} is not a function of torch.nn")


def _refuse_pickles(folder: Path) -> None:
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ModelError(
            f"{folder}: has its weights only as {', '.join(pickles[:3])}, which is a pickle and could run code when it "
            "is read, so it is refused. If you trust its origin, load it with transformers yourself and save it again "
            "with save_pretrained, which writes model.safetensors",
            code="MODEL_PICKLE",
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
