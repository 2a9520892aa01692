"""The image, read as text: there need be no Docker where tests run."""

from __future__ import annotations

import importlib.util
import re
from fnmatch import fnmatch
from typing import Any

import pytest

from tests.cluster.files import CLUSTER, PINS, PROJECT, PYTHON

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
INSTRUCTIONS = ["FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR"]


def stages(text: str) -> dict[str, list[tuple[str, str]]]:
    """Name → (instruction, rest), with continued lines joined and comments left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, list[tuple[str, str]]] = {}
    for line in kept.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, rest = line.split(maxsplit=1)
        assert instruction in INSTRUCTIONS, line
        if instruction == "FROM":
            source, name = re.fullmatch(r"(\S+) AS ([\w-]+)", rest).groups()  # type: ignore[union-attr]
            assert "/" not in source, "no registry but the public one"
            found[name] = [("FROM", source)]
        else:
            found[list(found)[-1]].append((instruction, " ".join(rest.split())))
    return found


STAGES = stages(DOCKERFILE)


def all_of(stage: str) -> list[tuple[str, str]]:
    """With the stages below it."""
    own = STAGES[stage]
    return (all_of(own[0][1]) if own[0][1] in STAGES else []) + own


def locker() -> Any:
    spec = importlib.util.spec_from_file_location("lock", CLUSTER / "lock.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_installs_its_lock_alone_and_runs_as_a_user(target: str) -> None:
    end = all_of(target)
    assert [rest for name, rest in end if name == "USER"][-1] == "ray"
    assert next(rest for name, rest in end if name == "COPY").startswith(f"--from=build-{target} ")
    installs = [rest for name, rest in STAGES[f"build-{target}"] if name == "RUN"]
    assert len(installs) == 1
    assert f"--require-hashes --requirement requirements-{target}.lock" in installs[0]
    assert any("MALLOC_ARENA_MAX=1" in rest for name, rest in end if name == "ENV")


def test_what_a_stage_takes_is_there_and_sent() -> None:
    sent = [line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    for name in STAGES:
        source = STAGES[name][0][1]
        assert source in STAGES or source.startswith("python:")
        for instruction, rest in STAGES[name]:
            for other in re.findall(r"from=([\w-]+)", rest):
                assert other in STAGES
            if instruction == "COPY" and "--from" not in rest:
                *sources, _ = rest.split()
                assert all((CLUSTER.parent / path).exists() for path in sources if not path.endswith(".lock"))
                assert all(any(fnmatch(path.removeprefix("./"), one) for one in sent) for path in sources)


def test_python_is_what_the_project_and_the_lock_say() -> None:
    assert STAGES["base"][0][1].startswith(f"python:{PYTHON}-")
    assert PROJECT["requires-python"] == f">={PYTHON}"
    assert locker().PYTHON == PYTHON


def test_nothing_secret_is_in_it() -> None:
    assert not re.search(r"token|password|secret|_key|://", DOCKERFILE, re.IGNORECASE)


def test_the_lock_takes_extras_that_exist_and_one_faiss() -> None:
    extras = PROJECT["optional-dependencies"]
    for target, names in locker().EXTRAS.items():
        assert set(names) <= set(extras)
        assert {"cpu", "gpu"} & set(names) == {target}


def install(name: str, version: str, url: str = "https://x/y.whl", digest: str | None = "ab12") -> dict[str, Any]:
    """An entry of pip's report."""
    hashes = {"sha256": digest} if digest else {}
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": url, "archive_info": {"hashes": hashes}},
    }


def test_a_lock_has_names_versions_and_hashes_and_no_place() -> None:
    lines = locker().lines([install("ray", "2.60.0"), install("Babel_x", "2.18.0"), install("hbt-ray", "0.1.0")])
    assert lines == ["babel-x==2.18.0 --hash=sha256:ab12", "ray==2.60.0 --hash=sha256:ab12"]


@pytest.mark.parametrize(
    ("installs", "word"),
    [
        ([install("ray", "2.60.0", digest=None)], "no sha256"),
        ([install("ray", "2.60.0", url="file:///wheels/ray.whl")], "no sha256"),
        ([install("faiss-cpu", "1.15.1"), install("faiss-gpu", "1.15.1")], "one of them"),
    ],
    ids=["no hash", "from a folder", "two faiss"],
)
def test_what_cannot_be_locked_is_refused(installs: list[dict[str, Any]], word: str) -> None:
    with pytest.raises(SystemExit, match=word):
        locker().lines(installs)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_lock_that_is_there_agrees_with_the_constraints(target: str) -> None:
    path = CLUSTER / f"requirements-{target}.lock"
    if not path.exists():
        pytest.skip("made by cluster/lock.py, before an image is built")
    pins = {name.lower().replace("_", "-"): version for name, version in PINS.items()}
    locked = dict(re.findall(r"^([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$", path.read_text(), re.MULTILINE))
    assert locked["ray"] == pins["ray"]
    assert {name: version for name, version in locked.items() if pins.get(name, version) != version} == {}
