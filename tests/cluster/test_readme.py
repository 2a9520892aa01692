"""The commands of cluster/README.md, parsed by the programs that they call; nothing is started."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import jsonschema
import pytest
import typer
import yaml
from ray.scripts.scripts import cli as ray_cli

from hbt_ray.cli.app import app
from hbt_ray.data.prepare import StoreConfig
from hbt_ray.errors import ConfigError
from hbt_ray.train.config import TrainConfig
from tests.cluster.files import CLUSTER, PINS, PROJECT, ROOT, image
from tests.cluster.test_image import STAGES, locker
from tests.cluster.test_kuberay import JOB, VALIDATOR

TYPER_ERROR = typer.BadParameter.__mro__[1]
"""Typer has a click of its own."""
README = (CLUSTER / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line[2:]
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def parse(command: click.Command, words: list[str]) -> None:
    """Down to the subcommand that is meant; click raises where an option or an argument is wrong."""
    context = command.make_context(words[0], words[1:])
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        _, below, rest = command.resolve_command(context, rest)  # type: ignore[attr-defined]
        parse(below, [below.name, *rest])


def check_hbt(words: list[str]) -> None:
    parse(typer.main.get_command(app), ["hbt", *words])
    kind = {"train": TrainConfig, "prepare": StoreConfig}.get(words[0])
    if kind:
        least = (
            {"name": "x", "store": "y"} if kind is TrainConfig else {"path": "x", "sources": [{"kind": "worldfacts"}]}
        )
        kind.make(least, "README", words[2:])


def check_submit(words: list[str]) -> None:
    """Down to the command that the job runs."""
    parse(typer.main.get_command(app), words)
    begin = next(place for place, word in enumerate(words) if word in ("train", "tune"))
    check_hbt(words[begin:])


def check_ray(words: list[str]) -> None:
    parse(ray_cli, words)
    files = [word for word in words if word.startswith("cluster/")]
    assert all((ROOT / name).exists() for name in files)
    if words[1:3] == ["job", "submit"]:
        assert words[words.index("--") + 1 :][:3] == ["python", "-m", "hbt_ray"]
        check_hbt(words[words.index("hbt_ray") + 1 :])


def check_docker(words: list[str]) -> None:
    if words[1] == "push":
        assert words[2:] in ([image("cpu")], [image("gpu")])
        return
    options = dict(zip(words[2:-1:2], words[3:-1:2], strict=True))
    assert options["--target"] in STAGES
    assert options == {
        "--file": "cluster/Dockerfile",
        "--target": options["--target"],
        "--tag": image(options["--target"]),
    }


def check_kubectl(words: list[str]) -> None:
    if "--filename" in words:
        assert words[1] in ("apply", "create", "delete")
        assert list(yaml.safe_load_all((ROOT / words[words.index("--filename") + 1]).read_text()))
    else:
        assert words == ["kubectl", "port-forward", "service/hbt-ray-head-svc", "8265:8265"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "export":
        assert re.fullmatch(r"RAY_\w+=\S+", words[1])
    elif words[0] == "python":
        assert words[1] == "cluster/lock.py"
        assert words[2] in locker().EXTRAS
    else:
        {"ray": check_ray, "hbt": check_submit, "docker": check_docker, "kubectl": check_kubectl}[words[0]](words)


SUBMIT = "ray job submit -- python -m hbt_ray"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("ray up cluster/aws.yaml --yess", click.UsageError),
        ("ray job submti -- python", click.UsageError),
        ("ray job submit --working-dirr . -- python", click.UsageError),
        (f"{SUBMIT} train train.yaml --untill 3", TYPER_ERROR),
        (f"{SUBMIT} train train.yaml workers.gpus=true", ConfigError),
    ],
)
def test_a_wrong_one_is_found(command: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_ray(shlex.split(command))


def test_its_rules_are_a_job() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    spec = {**JOB["spec"], **yaml.safe_load(block)}
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({**JOB, "spec": spec})
    del spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]
    VALIDATOR.validate({**JOB, "spec": spec})


def test_what_is_to_be_changed_is_there() -> None:
    table = README.split("## What to change")[1].split("\n\n")[1]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    assert len(rows) == 8
    for places, where in rows:
        names = re.findall(r"`([^`]+)`", where) or ["aws.yaml", "gcp.yaml", "azure.yaml", "kuberay/rayjob.yaml"]
        for name in names:
            text = (CLUSTER / name).read_text()
            assert [place for place in re.findall(r"`([^`]+)`", places) if place not in text] == []


def test_every_file_is_named() -> None:
    here = [path.relative_to(CLUSTER) for path in CLUSTER.rglob("*") if path.is_file()]
    files = [path for path in here if path.suffix not in (".lock", ".pyc", ".dockerignore")]
    assert [str(path) for path in files if f"`{path}`" not in README and path != Path("README.md")] == []


def test_versions_are_the_pins() -> None:
    for path in [path for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".md")]:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"\b[rR]ay ?(?:Version: )?(\d+\.\d+\.\d+)", text)) <= {PINS["ray"]}, path
        assert set(re.findall(r"hbt-ray:(\S+?)-ray", text)) <= {PROJECT["version"]}, path
    assert f"Ray {PINS['ray']}" in README
    assert PROJECT["optional-dependencies"]["cluster"] == ["ray[default]>=2.60,<3"]
