"""The command line: exit codes, JSON for machines, errors in one line."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from hbt_ray.data.store.store import Store
from hbt_ray.model.build import build_encoder
from tests.commands import hbt
from tests.small_data import LANGUAGES, small_run, small_store


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    small_store(folder / "store")
    (folder / "train.yaml").write_text(small_run(folder).to_yaml())
    return folder


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("prepare",),
        ("mine",),
        ("train",),
        ("posthoc",),
        ("evaluate",),
        ("report",),
        ("demo",),
        ("submit",),
        ("doctor",),
        ("store",),
        ("store", "inspect"),
        ("store", "verify"),
    ],
)
def test_help_is_there_for_every_command(command: tuple[str, ...]) -> None:
    done = hbt(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_the_version_is_that_of_the_package() -> None:
    assert hbt("--version").stdout.split() == ["hbt_ray", metadata.version("hbt_ray")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "nowhere.yaml"), "ConfigError: nowhere.yaml: no such file"),
        (
            ("train", "train.yaml", "plan.alhpa=1"),
            "ConfigError: train.yaml: plan: unknown key 'alhpa'; did you mean 'alpha'?",
        ),
        (("train", "train.yaml", "plan.alpha=1.2"), "plan.alpha.number: Input should be less than or equal to 1"),
        (("train", "train.yaml", "store=empty"), "StoreError: "),
        (
            ("train", "train.yaml", "plan.negatives=2"),
            "PlanError: plan.negatives=2 asks for mined negatives, but there is no",
        ),
        (("train", "train.yaml", "negatives=store"), "NegativesError: store: no mined negatives"),
        (("mine", "store", "model", "language=fr"), "ConfigError: language=fr: no item of the store has it"),
        (("mine", "store", "model", "language=klingon!"), "ConfigError: the command line: language: 'klingon!'"),
        (("mine", "store", "model", "ranks=9:3"), "ConfigError: the command line: ranks: an empty window"),
        (("mine", "empty", "model"), "StoreError: empty: not a store"),
        (("mine", "store", "./nowhere"), "ModelError: model './nowhere': no such folder"),
        (("mine", "store", "model", "rescorer.model=./nowhere"), "ModelError: model './nowhere': no such folder"),
        (("mine", "store", "model", "--out", "store"), "ConfigError: store: exists already; nothing was changed"),
        (("evaluate", "nowhere/model", "--task", "worldfact"), "TaskError: --task worldfact: no such task; known are"),
        (("evaluate", "./nowhere", "--task", "worldfacts"), "ModelError: model './nowhere': no such folder"),
        (
            ("evaluate", "runs/study/nowhere", "--task", "worldfacts"),
            "ModelError: model 'runs/study/nowhere': no such folder",
        ),
        (("evaluate", "store", "--task", "worldfacts"), "ModelError: store: has neither config.json nor modules.json"),
        (("posthoc", "store", "--store", "empty", "--method", "lir"), "StoreError: empty: not a store"),
        (
            ("posthoc", "x/y", "--store", "store", "--method", "mean"),
            "method: Input tag 'mean' found using 'kind' does not match any of the expected tags",
        ),
        (
            ("posthoc", "x/y", "--store", "store", "--method", "lir", "method.alpha=1"),
            "method.lir: unknown key 'alpha'",
        ),
        (
            ("posthoc", "x/y", "--store", "store", "--method", "shift", "method.documents_only=true"),
            "method.shift: unknown key 'documents_only'",
        ),
        (("posthoc", "x/y", "--store", "store", "--method", "shift", "method.alpha=2"), "alpha: Input should be less"),
        (("posthoc", "x/y", "--store", "store", "--method", "lir", "--out", "a b"), "call it NAME.safetensors"),
        (("evaluate", "x/y", "--task", "worldfacts", "posthoc=lir"), "does not exist; none was fitted yet"),
        (
            ("evaluate", "x/y", "--task", "worldfacts", "posthoc=x/lir.safetensors"),
            "does not exist; none was",
        ),
        (("evaluate", "x/y", "--task", "xquad-r"), "TaskError: --task xquad-r: has no folder"),
        (("evaluate", "x/y"), "ConfigError: no task to evaluate on; give --task"),
        (("evaluate", "x/y", "--suite", "nowhere.yaml"), "ConfigError: nowhere.yaml: no such file"),
        (("evaluate", "x/y", "--suite", "train.yaml"), "ConfigError: train.yaml: unknown key 'name'"),
        (
            ("evaluate", "x/y", "--task", "beir=nowhere"),
            "SourceError: nowhere/corpus.jsonl: no such file",
        ),
        (("evaluate", "x/y", "--task", "worldfacts", "--task", "worldfacts=dev"), "is the name of 2 tasks"),
        (("evaluate", "x/y", "--task", "worldfacts", "--languages", "fr"), "worldfacts has no templates for fr"),
        (("report", "nowhere"), "no such run"),
        (("report", "store"), "there are no results"),
        (("store", "inspect", "nowhere"), "StoreError: nowhere: not a store"),
        (("store", "verify", "file:///nowhere"), "StoreError: file:///nowhere: not a store"),
        (("train",), "Missing argument"),
        (("evaluate", "x/y", "encoder.batch_size=0", "--task", "worldfacts"), "encoder.batch_size: Input should be"),
        (("evaluate", "x/y", "--batch-size", "8"), "--batch-size is not an option; write encoder.batch_size=VALUE."),
        (("evaluate", "x/y", "--search", "a=1"), "--search is not an option; write search.KEY=VALUE."),
        (("mine", "store", "model", "--rescore", "x"), "--rescore is not an option; write rescorer.model=VALUE."),
        (("index", "build", "x", "y", "--factory", "Flat"), "--factory is not an option; write index.factory=VALUE."),
        (("train", "train.yaml", "--nothing"), "No such option: --nothing"),
        (("config", "nothing"), "'nothing' is neither a command nor a section"),
        (
            ("demo", "plan.policy=both", "--out", "demo"),
            "plan.policy: Input should be 'mono', 'cross', 'hybrid' or 'mixed'",
        ),
    ],
)
def test_wrong_input_ends_with_two_and_one_line(workspace: Path, arguments: tuple[str, ...], message: str) -> None:
    done = hbt(*arguments, cwd=workspace)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.integration
def test_prepare_speaks_json(workspace: Path) -> None:
    source = {"kind": "table", "name": "colours", "path": str(workspace / "store.jsonl")}
    (workspace / "store.yaml").write_text(yaml.safe_dump({"path": str(workspace / "second"), "sources": [source]}))
    done = hbt("prepare", workspace / "store.yaml", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["num_read"] == told["num_kept"] == 180
    assert told["datasets"] == {"colours": {"ar": 60, "de": 60, "en": 60}}
    assert "180 rows read = 180 kept + 0 rejected + 0 of items that overlap" in done.stderr
    assert json.loads(hbt("prepare", workspace / "store.yaml", "--json").stdout)["already_existed"] is True


def test_a_store_is_inspected(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workspace / "cache"))
    done = hbt("store", "inspect", "store", "--sample", "2", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "60   180          3" in done.stdout
    assert "de German" in done.stdout
    assert done.stdout.count("Welche Farbe hat Ding") == 2
    done = hbt("store", "inspect", (workspace / "store").as_uri(), "--sample", "1", "--json", cwd=workspace)
    told = json.loads(done.stdout)
    assert told["datasets"][0]["languages"] == {"ar": 60, "de": 60, "en": 60}
    assert told["sample"][0]["texts"]["en"]["question"].startswith("What colour is thing")
    assert list((workspace / "cache" / "hbt_ray").glob("*.arrow"))


def test_a_store_is_verified(workspace: Path) -> None:
    done = hbt("store", "verify", "store", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "1 shard, 60 items" in done.stdout
    assert "all as in the manifest" in done.stdout
    shutil.copytree(workspace / "store", workspace / "damaged")
    shard = workspace / "damaged" / "colours" / "00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-9])
    done = hbt("store", "verify", "damaged", "--json", cwd=workspace)
    assert done.returncode == 2
    assert [problem["subject"] for problem in json.loads(done.stdout)["problems"]] == ["sha256", "content"]
    assert "StoreError: damaged: 2 problems in 1 shard" in done.stderr
    assert "colours/00000.arrow: sha256: expected" in done.stderr


@pytest.mark.integration
def test_mined_negatives_are_trained_with(workspace: Path) -> None:
    settings = small_run(workspace)
    build_encoder(settings.model, Store(workspace / "store").sample_texts(LANGUAGES)).save_pretrained(
        str(workspace / "miner")
    )
    done = hbt("mine", "store", "miner", "language=en", "max_share=1", "keep=5", "--json", cwd=workspace)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["negatives"] == "store.negatives/miner"
    mined = told["datasets"][0]
    assert (mined["name"], mined["language"], mined["num_items"]) == ("colours", "en", 60)
    assert mined["num_served"] > 30
    # 30 distinct passages: for each item the 29 others are either negatives, kept or not, or dropped for a reason.
    assert 0 < mined["num_negatives"] <= 5 * 60
    assert sum(mined["dropped"].values()) <= 29 * 60 - mined["num_negatives"]
    assert len(told["examples"]) == 3
    assert told["examples"][0]["question"] in done.stderr

    negatives = (f"negatives={told['negatives']}", "plan.negatives=2")
    done = hbt("train", "train.yaml", "optimiser.steps=12", *negatives, "--json", cwd=workspace)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["steps"], told["complete"]) == (12, True)
    assert "step 12 of 12: loss" in done.stderr
    assert (Path(told["run"]) / "model" / "model.safetensors").is_file()


@pytest.mark.integration
def test_a_suite_is_judged_in_one_run(workspace: Path) -> None:
    """A small encoder, a task with measures of its own, and a bitext, whose sides are both questions."""
    build_encoder(small_run(workspace).model, Store(workspace / "store").sample_texts(LANGUAGES)).save_pretrained(
        str(workspace / "judged")
    )
    (workspace / "devtest").mkdir()
    for code, words in (("deu_Latn", "Farbe"), ("eng_Latn", "colour"), ("arb_Arab", "لون")):
        (workspace / "devtest" / f"{code}.devtest").write_text(
            "".join(f"{words} {n}\n" for n in range(6)), encoding="utf-8"
        )
    tasks = [
        {"kind": "worldfacts", "split": "dev", "languages": ["de", "en"], "measures": ["AP@20", "RankDistance"]},
        {"kind": "flores", "path": str(workspace), "pivot": "en"},
    ]
    (workspace / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    done = hbt("evaluate", "judged", "--suite", "suite.yaml", "trec_depth=5", "--json", cwd=workspace)
    assert done.returncode == 0, done.stderr
    facts, flores = json.loads(done.stdout)["results"]
    assert facts["headline"] == ["AP@20", "RankDistance"]
    assert 0 < facts["settings"]["monolingual"]["AP@20"] <= facts["settings"]["monolingual"]["AP"]
    assert flores["settings"].keys() == {"cross-lingual"}
    assert flores["settings"]["cross-lingual"].keys() == {"R@1", "MarginR@1"}
    assert {asked: sorted(row) for asked, row in flores["pairs"].items()} == {
        "ar": ["en"],
        "de": ["en"],
        "en": ["ar", "de"],
    }
    assert "flores: pairs of languages are searched one by one, so no pool has a TREC run" in done.stderr
    folder = workspace / "runs" / "judged" / "results"
    assert sorted(path.name for path in (folder / "flores").iterdir()) == [
        "checksums.json",
        "queries.parquet",
        "result.json",
    ]
    assert (folder / "worldfacts" / "run.trec").exists()
    done = hbt("report", "runs/judged", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "MarginR@1" in (workspace / "runs" / "judged" / "report.html").read_text()
