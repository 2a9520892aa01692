"""Every command that loads a model refuses a broken one in one line with exit code 2, and asks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.commands import hbt
from tests.model.model_folders import copy_folder, edit_json, save_scratch_encoder
from tests.small_data import small_run, small_store

pytestmark = pytest.mark.integration

KEY = "encoder.layer.1.output.dense.bias"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    small_store(folder / "store", 20)
    save_scratch_encoder(folder / "good", max_question_length=16, max_passage_length=16)
    documents = [{"doc_id": str(number), "language": "en", "text": f"text {number}"} for number in range(8)]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "train.yaml").write_text(small_run(folder).to_yaml())
    built = hbt("index", "build", "good", "index", "--documents", "documents.jsonl", cwd=folder)
    assert built.returncode == 0, built.stderr
    code = copy_folder(folder / "good", folder / "code")
    edit_json(code / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    (code / "own.py").write_text(f"import pathlib\npathlib.Path({str(folder / 'was-run')!r}).touch()\n")
    incomplete = copy_folder(folder / "good", folder / "incomplete")  # Seen only when it is loaded.
    tensors = load_file(incomplete / "model.safetensors")
    del tensors[KEY]
    save_file(tensors, incomplete / "model.safetensors", {"format": "pt"})
    return folder


COMMANDS = {
    "evaluate": ("evaluate", "MODEL", "--task", "worldfacts", "--languages", "de,en"),
    "index": ("index", "build", "MODEL", "other", "--documents", "documents.jsonl"),
    "search": ("search", "index", "a question", "--model", "MODEL"),
    "mine": ("mine", "store", "MODEL", "--out", "negatives"),
    "rescore": ("mine", "store", "good", "--out", "negatives", "rescorer.model=MODEL"),
    "posthoc": ("posthoc", "MODEL", "--store", "store", "--method", "centering", "--out", "x.safetensors"),
    "train": ("train", "train.yaml", "model.name=MODEL", "name=new"),
}


ONE_LOADER = ("index", "mine", "posthoc")
"""Commands that load an encoder in the same workers as `evaluate` does."""


@pytest.mark.parametrize(
    ("command", "model"),
    [
        pytest.param(
            command, model, marks=[pytest.mark.soak] if model == "incomplete" and command in ONE_LOADER else []
        )
        for command in COMMANDS
        for model in ("code", "incomplete")
    ],
)
def test_a_broken_model_is_refused_in_one_line(workspace: Path, command: str, model: str) -> None:
    # Whoever asks whether to run a model's code would get a yes.
    done = hbt(*(part.replace("MODEL", model) for part in COMMANDS[command]), cwd=workspace, stdin="y\n" * 10)
    assert done.returncode == 2, done.stderr
    refusals = [line for line in done.stderr.splitlines() if line.startswith("ModelError: ")]
    assert len(refusals) == 1, done.stderr
    assert model in refusals[0]
    everything = done.stdout + done.stderr
    for noise in ("Traceback", "raylet", "DataContext", "[y/N]", "github.com/ray-project"):
        assert noise not in everything
    assert not (workspace / "was-run").exists()
    assert not any(
        (workspace / name).exists() for name in ("other", "negatives", "x.safetensors", "runs/new/config.yaml")
    )


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_without_a_network_a_hub_name_is_refused_in_one_line(
    workspace: Path, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = hbt(*(part.replace("MODEL", "someone/encoder") for part in COMMANDS[command]), cwd=workspace)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("ModelError: model 'someone/encoder'")
    assert "Traceback" not in done.stderr
