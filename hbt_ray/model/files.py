"""Checks of the files of a model folder, before anything is built from them.

Paths and numbers in a model's JSON files are not trusted: they may lead out of the folder, name code to run, or ask for
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

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = (
    "tokenizer.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)
_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
)
_MAX_CONFIG_BYTES = 16 << 20
_MAX_WIDTH = 1 << 20
"""Width of a module behind the transformer; the widest published ones have about ten thousand."""
_MODULE = re.compile(
    r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules|cross_encoder\.modules)"
    r"(?:\.\w+)?\.(?P<name>\w+)"
)
_FIRST_MODULES = ("Transformer", "StaticEmbedding")
_LATER_MODULES = (
    "Pooling",
    "WeightedLayerPooling",
    "Dense",
    "LayerNorm",
    "Normalize",
    "Dropout",
    "LSTM",
    "CNN",
    "LogitScore",
)
_LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_WIDTH_KEYS = (
    "hidden_size",
    "d_model",
    "n_embd",
    "dim",
    "hidden_dim",
    "embedding_size",
    "vocab_size",
    "intermediate_size",
    "d_ff",
    "n_inner",
    "ffn_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "type_vocab_size",
    "num_attention_heads",
    "n_head",
    "n_heads",
)
_MAX_POSITIONS = 1 << 27


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
    """Check that all files of a model exist, and that none leads elsewhere or needs code to run.

    Raises:
        ModelError: something is missing or damaged, or could only be read by running code that came with it.
    """
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise _refusal(
            "MODEL_FILES",
            f"{folder}: has neither config.json nor modules.json, so it is not a model; give a model's folder or a "
            "hub name",
        )
    modules = _modules(folder)
    transformer = folder / modules[0][1] if modules else folder
    files = ModelFiles(folder, transformer, tuple(name for name, _ in modules), read_prompts(folder, kind))
    for place in dict.fromkeys((folder, transformer)):
        _check_no_code(place)
    if not files.is_static:
        _check_library_settings(transformer)
    shapes = _check_weights(transformer)
    _check_exported_weights(folder)
    if not files.is_static:
        _check_sizes(transformer / "config.json", _config(transformer), shapes)
    for name, path in modules[1:]:
        _check_module(folder / path, name)
    if not any((transformer / name).is_file() for name in _TOKENIZERS):
        raise _refusal(
            "MODEL_FILES",
            f"{transformer}: has no tokenizer (none of {', '.join(_TOKENIZERS)}), and a default one would read every "
            "word as unknown; copy the tokenizer that the model was trained with into the folder",
        )
    return files


def _refusal(code: str, message: str) -> ModelError:
    return ModelError(message, code=code)


def read_json(path: Path) -> Any:
    """The content of a model's JSON file.

    Raises:
        ModelError: it is too large, not UTF-8, not JSON, or nested too deeply.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise _refusal(
                "MODEL_FILES",
                f"{path}: has {path.stat().st_size:,} bytes, too many for a configuration; copy the file anew",
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _refusal("MODEL_FILES", f"{path}: cannot be read as JSON ({reason}); copy the file anew") from None


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file."""
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise _refusal("MODEL_FILES", f"{path}: holds a {type(content).__name__}, not keys and values")
    return content


def _config(transformer: Path) -> dict[str, Any]:
    path = transformer / "config.json"
    if not path.is_file():
        raise _refusal(
            "MODEL_FILES", f"{transformer}: config.json is missing, so the model's shape is unknown; copy it there"
        )
    return _object(path)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Class and path of a SentenceTransformer's modules; none for a plain folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    content = read_json(path)
    try:
        listed = [(str(module["type"]), str(module["path"])) for module in content]
    except (KeyError, TypeError) as error:
        raise _refusal("MODEL_FILES", f"{path}: is not a list of modules ({type(error).__name__}: {error})") from None
    modules = []
    for kind, subfolder in listed:
        match = _MODULE.fullmatch(kind)
        if not kind.startswith("sentence_transformers."):
            raise _refusal(
                "MODEL_CODE",
                f"{path}: the module {kind!r} is code of its own, which is never run; use a model that is made of "
                "sentence-transformers' own modules",
            )
        if match is None or match["name"] not in (*_FIRST_MODULES, *_LATER_MODULES):
            raise _refusal(
                "MODEL_KIND",
                f"{path}: the module {kind!r} is not supported; supported are "
                f"{', '.join((*_FIRST_MODULES, *_LATER_MODULES))}",
            )
        if not _stays_inside(subfolder):
            raise _refusal("MODEL_FILES", f"{path}: the path {subfolder!r} leads out of the model's folder")
        modules.append((match["name"], subfolder))
    if not modules or modules[0][0] not in _FIRST_MODULES:
        raise _refusal(
            "MODEL_KIND",
            f"{path}: the first module is {modules[0][0] if modules else 'missing'}, but only models that begin with "
            "one transformer can be used; give the folder of a transformer",
        )
    if any(name in _FIRST_MODULES for name, _ in modules[1:]):
        raise _refusal("MODEL_KIND", f"{path}: has several transformers; give a model with one")
    return modules


def _stays_inside(path: str) -> bool:
    return not (
        PurePosixPath(path).is_absolute()
        or PureWindowsPath(path).anchor
        or ".." in PureWindowsPath(path).parts
        or "\0" in path
    )


def read_prompts(folder: Path, kind: ModelKind = "encoder") -> dict[str, str]:
    """Prompts by name from `config_sentence_transformers.json`; empty if it has none.

    Raises:
        ModelError: the file is damaged, or says that the model is of another kind.
    """
    path = folder / "config_sentence_transformers.json"
    content = _object(path)
    model_type = content.get("model_type", "SentenceTransformer")
    expected_type = {"encoder": "SentenceTransformer", "cross-encoder": "CrossEncoder"}[kind]
    if (folder / "modules.json").is_file() and path.exists() and model_type != expected_type:
        raise _refusal("MODEL_KIND", f"{folder}: is a {str(model_type)[:40]}, but a {expected_type} is needed")
    prompts = content.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise _refusal("MODEL_FILES", f"{path}: prompts must be texts by name")
    return {name: text or "" for name, text in prompts.items()}


def _check_no_code(folder: Path) -> None:
    """Refuse configurations that ask for the model's own code or the hub's kernels, and adapters without their base."""
    if (folder / "adapter_config.json").exists():
        raise _refusal(
            "MODEL_ADAPTERS",
            f"{folder}: holds adapters of another model, without that model; merge them with peft's merge_and_unload "
            "and save that, or give the folder of the model itself",
        )
    for name in _CONFIGS:
        path = folder / name
        for key, value in _pairs(_object(path)):
            if key == "auto_map":
                raise _refusal(
                    "MODEL_CODE",
                    f"{path}: auto_map says that the model needs code of its own ({_shown(value)}), which is never "
                    "run; use a model that transformers has. If transformers has this one by now, remove auto_map",
                )
            if key == "trust_remote_code" and value:
                raise _refusal(
                    "MODEL_CODE", f"{path}: trust_remote_code asks to run the model's own code, which is never run"
                )
            if key in ("attn_implementation", "_attn_implementation") and "/" in str(value):
                raise _refusal(
                    "MODEL_CODE", f"{path}: {key}={_shown(value)} is code of the hub, which is never run; remove it"
                )


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _check_library_settings(transformer: Path) -> None:
    """Refuse settings that sentence-transformers passes to transformers and that could load other models."""
    allowed = {"model_max_length", "padding_side", "truncation_side", "dtype", "torch_dtype", "use_fast", "use_cache"}
    allowed |= {"do_lower_case", "add_prefix_space", "add_pooling_layer", "attn_implementation", "unpad_inputs"}
    for path in sorted(transformer.glob("sentence_*_config.json")):
        content = _object(path)
        task = content.get("transformer_task", "feature-extraction")
        if task not in ("feature-extraction", "sequence-classification"):
            raise _refusal("MODEL_KIND", f"{path}: transformer_task={_shown(task)} is not the task of an encoder")
        if content.get("tokenizer_name_or_path"):
            raise _refusal(
                "MODEL_FILES",
                f"{path}: tokenizer_name_or_path names another model's tokenizer; copy the tokenizer into the folder",
            )
        for old_key, new_key in (("model_args", "model_kwargs"), ("tokenizer_args", "processor_kwargs"),
                         ("config_args", "config_kwargs")):  # fmt: skip
            for key in (old_key, new_key):
                values = content.get(key) or {}
                if not isinstance(values, dict) or (unknown := sorted(values.keys() - allowed)):
                    names = ", ".join(unknown) if isinstance(values, dict) else _shown(values)
                    raise _refusal(
                        "MODEL_FILES",
                        f"{path}: {key} has settings that could load other files than this folder's ({names}); remove "
                        "them",
                    )


def _check_weights(transformer: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors by name, from the headers of the weights' files."""
    if (transformer / WEIGHTS).is_file():
        return dict(_shapes(transformer / WEIGHTS))
    if (transformer / SHARDS).is_file():
        index = _object(transformer / SHARDS)
        listed = index.get("weight_map") if isinstance(index.get("metadata"), dict) else None
        if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
            raise _refusal(
                "MODEL_FILES", f"{transformer / SHARDS}: has no metadata or no weight_map; copy the folder anew"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(set(listed.values())):
            if Path(file).name != file:
                raise _refusal("MODEL_FILES", f"{transformer / SHARDS}: {file!r} leads out of the model's folder")
            if not (transformer / file).is_file():
                raise _refusal("MODEL_WEIGHTS", f"{transformer}: the weights' part {file} is missing; copy it there")
            shapes |= dict(_shapes(transformer / file))
        return shapes
    if pickles := _pickles(transformer):
        raise _refusal("MODEL_PICKLE", _only_pickles(transformer, pickles))
    raise _refusal(
        "MODEL_WEIGHTS",
        f"{transformer}: has a configuration but no weights ({WEIGHTS}), and random ones would be used. Copy them "
        "there; to train a new encoder write model.name: scratch",
    )


def _check_exported_weights(folder: Path) -> None:
    """Compare the weights of an encoder that hbt_ray exported with their checksums: a changed bit changes no shape."""
    record = folder / EXPORT_RECORD
    if not record.is_file():
        return
    for name, sha256 in read_checked_json(record)["weights"].items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise _refusal(
                "MODEL_WEIGHTS",
                f"{path}: is missing or was changed since the training run wrote it. Delete the model's folder and run "
                f"`hbt train` again, which exports it anew; if you changed the weights yourself, delete {record}",
            )


def _shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  # It is not a mapping.
                yield name, tuple(file.get_slice(name).get_shape())
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise _refusal("MODEL_WEIGHTS", f"{path}: cut short or damaged ({reason}); copy the file anew") from None


def _check_sizes(path: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a configuration that is larger than its weights: building it could fill the memory before any check."""
    max_width = max((size for shape in shapes.values() for size in shape), default=0)
    for key, value in _pairs(config):
        bound = len(shapes) if key in _LAYER_KEYS else max_width if key in _WIDTH_KEYS else None
        bound = _MAX_POSITIONS if key == "max_position_embeddings" else bound
        if bound is not None and isinstance(value, int) and value > bound:
            raise _refusal(
                "MODEL_WEIGHTS",
                f"{path}: {key}={_shown(value)} is more than the weights have: {len(shapes)} tensors with sizes up to "
                f"{max_width}; weights are missing, or config.json is another model's. Copy the folder anew",
            )


def _check_module(folder: Path, name: str) -> None:
    if (folder / WEIGHTS).is_file():
        dict(_shapes(folder / WEIGHTS))
    elif pickles := _pickles(folder):
        raise _refusal("MODEL_PICKLE", _only_pickles(folder, pickles))
    config = _object(folder / "config.json")
    for key, value in _pairs(config):
        if isinstance(value, int) and value > _MAX_WIDTH:
            raise _refusal("MODEL_FILES", f"{folder / 'config.json'}: {key}={_shown(value)} is too large")
    function = config.get("activation_function", "torch.nn.")
    if name == "Dense" and not str(function).startswith("torch.nn."):
        raise _refusal(
            "MODEL_CODE",
            f"{folder / 'config.json'}: activation_function={_shown(function)} is not a function of torch.nn",
        )


def _pickles(folder: Path) -> list[str]:
    return sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))


def _only_pickles(folder: Path, names: list[str]) -> str:
    return (
        f"{folder}: has its weights only as {', '.join(names[:3])}, which is a pickle and could run code when it is "
        "read, so it is refused. If you trust its origin, load it with transformers yourself and save it again with "
        "save_pretrained, which writes model.safetensors"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
