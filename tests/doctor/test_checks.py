"""Each check on synthetic facts: the problem, the nodes and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from hbt_ray.doctor.checks import (
    ClockReading,
    Finding,
    Level,
    any_failure,
    check_access,
    check_clocks,
    check_faiss,
    check_gpus,
    check_memory,
    check_open_files,
    check_shared_memory,
    check_torch,
    check_versions,
    grouped_by_value,
)
from hbt_ray.doctor.probe import parse_kernel_address
from tests.doctor.nodes import GIB, as_tuples, gpu_node, node

HERE = node("the driver")


def only(findings: list[Finding]) -> tuple[str, str, str]:
    (finding,) = as_tuples(findings)
    return finding


def test_levels_decide() -> None:
    fine = [Finding("x", level, "") for level in (Level.OK, Level.ADVICE, Level.WARNING)]
    assert not any_failure(fine)
    assert any_failure([*fine, Finding("x", Level.FAILURE, "")])


def test_nodes_are_grouped_by_value() -> None:
    assert grouped_by_value({"b": 2, "c": 1, "a": 1}) == "1 (a, c), 2 (b)"


def test_healthy_nodes() -> None:
    nodes = [node("a"), gpu_node("b")]
    findings = [
        *check_versions(nodes, HERE), *check_torch(nodes), *check_faiss(nodes), *check_gpus(nodes),
        *check_shared_memory(nodes), *check_memory(nodes), *check_open_files(nodes),
    ]  # fmt: skip
    assert [finding.level for finding in findings] == [Level.OK] * 6
    assert [finding.message for finding in findings] == [
        "Python 3.11.7, ray 2.60.0, torch 2.13.0, faiss 1.15.1, hbt_ray 0.1.0; the same on 2 nodes",
        "faiss-cpu (a), faiss-gpu (b)",
        "2, CUDA 12.8 (b)",
        "/dev/shm has 8.0 GiB or more",
        "12.0 GiB or more available; object stores of 4.0 GiB or more",
        "65,536 or more per process",
    ]


def test_versions_name_which_node_has_what() -> None:
    nodes = [node("a"), node("b", {"torch": "2.9.0"}), node("c", {"torch": ""}), node("d", {"torch": ""})]
    level, message, remedy = only(check_versions(nodes, HERE))
    assert (level, message) == (
        "failure",
        "torch is 2.13.0 at the driver, but differs on nodes: 2.9.0 (b), none (c, d)",
    )
    assert remedy == "start all nodes from one image (cluster/Dockerfile)"


def test_a_package_that_only_nodes_have() -> None:
    level, message, _ = only(check_versions([node("a")], node("the driver", {"torch": ""})))
    assert (level, message) == ("failure", "torch is none at the driver, but differs on nodes: 2.13.0 (a)")


def test_builds_for_cpu_and_gpu_are_one_version() -> None:
    nodes = [node("a", {"torch": "2.13.0+cpu"}), node("b", {"torch": "2.13.0+cu128"})]
    assert only(check_versions(nodes, node("the driver", {"torch": "2.13.0+cpu"})))[0] == "ok"


def test_other_code_under_one_version() -> None:
    level, message, remedy = only(check_versions([node("a"), node("b", code="ffff0000")], HERE))
    assert level == "failure"
    assert message == (
        "the code of hbt_ray is 0a1b2c3d at the driver, but differs on nodes of the same version: ffff0000 (b)"
    )
    assert "--working-dir" in remedy


def test_a_node_without_hbt_ray() -> None:
    level, message, remedy = only(check_versions([node("b", {"hbt_ray": ""}, code="")], HERE))
    assert (level, message) == ("failure", "hbt_ray is 0.1.0 at the driver, but differs on nodes: none (b)")
    assert "--runtime-env" in remedy


def test_torch_that_cannot_be_imported_is_reported_once() -> None:
    broken = gpu_node("b", torch_gpus=0, torch_error="OSError: libcudart.so.13: cannot open")
    assert only(check_torch([node("a"), broken]))[:2] == (
        "failure",
        "torch cannot be imported: OSError: libcudart.so.13: cannot open (b)",
    )
    assert check_gpus([broken])[0].level is Level.OK


@pytest.mark.parametrize(
    ("node", "level", "message", "remedy"),
    [
        (node("a", faiss=()), "failure", "FAISS is not installed: no faiss (a)", "install hbt-ray[cpu]"),
        (
            node("a", faiss=("faiss-cpu", "faiss-gpu")),
            "failure",
            "several distributions overwrite each other's files: faiss-cpu and faiss-gpu (a)",
            "pip uninstall both",
        ),
        (
            gpu_node("a", faiss=("faiss-cpu",)),
            "advice",
            "nodes with GPUs search on the CPU: faiss-cpu (a)",
            "target gpu",
        ),
    ],
)
def test_faiss(node: Any, level: str, message: str, remedy: str) -> None:
    found = only(check_faiss([node]))
    assert found[:2] == (level, message)
    assert remedy in found[2]


@pytest.mark.parametrize(
    ("facts", "reason", "remedy"),
    [
        ({"cuda_build": "", "cuda_driver": "12.8"}, "torch is a CPU build", "target gpu"),
        ({"cuda_driver": ""}, "there is no NVIDIA driver (libcuda.so.1)", "--gpus all"),
        (
            {"cuda_build": "13.0", "cuda_driver": "12.8"},
            "torch is built for CUDA 13.0 and the driver supports CUDA 12.8 at most",
            "built for CUDA 12",
        ),
        (
            {"cuda_build": "12.8", "cuda_driver": "12.4"},
            "a GPU is lost or hidden (CUDA 12.8, driver for 12.4)",
            "nvidia-smi",
        ),
    ],
)
def test_gpus_that_torch_does_not_see(facts: dict[str, str], reason: str, remedy: str) -> None:
    nodes = [node("a"), *(gpu_node(name, torch_gpus=0, **facts) for name in "bc")]
    level, message, what = only(check_gpus(nodes))
    assert (level, message) == ("failure", f"torch sees fewer GPUs than Ray counts, because {reason}: 0 of 2 (b, c)")
    assert remedy in what


def test_gpus_that_ray_does_not_count() -> None:
    level, message, remedy = only(check_gpus([gpu_node("a", ray_gpus=1)]))
    assert (level, "1 of 2 (a)" in message) == ("warning", True)
    assert "--num-gpus" in remedy


@pytest.mark.parametrize(("shm", "level"), [(GIB // 16, "failure"), (2 * GIB, "warning"), (4 * GIB, "ok")])
def test_shared_memory(shm: int, level: str) -> None:
    found, message, remedy = only(check_shared_memory([node("a"), node("b", shm_bytes=shm)]))
    assert found == level
    if level != "ok":
        assert message.endswith(f"{shm / GIB:.1f} GiB for a store of 4.0 GiB (b)")
        assert "--shm-size=5g" in remedy


def test_memory() -> None:
    nodes = [node("a", object_store_bytes=GIB - 1), node("b", free_bytes=GIB // 2)]
    store, free = as_tuples(check_memory(nodes))
    assert store[:2] == ("warning", "the object store is small: 1.0 GiB (a)")
    assert "--object-store-memory" in store[2]
    assert free[:2] == ("warning", "little memory is available: 0.5 GiB (b)")
    assert "larger nodes" in free[2]


def test_open_files() -> None:
    level, message, remedy = only(check_open_files([node("a", open_files=1024), node("b", open_files=-1)]))
    assert (level, message) == ("warning", "a process may hold only a few files open: 1024 (a)")
    assert "ulimit -n 65536" in remedy
    assert only(check_open_files([node("b", open_files=-1)]))[:2] == ("ok", "no limit")


@pytest.mark.parametrize(
    ("offset", "trip", "level"),
    [(0.9, 0.1, "ok"), (-1.2, 0.1, "warning"), (5.2, 0.1, "failure"), (-60, 0.1, "failure"), (5.2, 1.0, "warning")],
)
def test_clocks(offset: float, trip: float, level: str) -> None:
    """Only the difference that a long round trip cannot explain counts."""
    reading = ClockReading(100.0, 100.0 + trip / 2 + offset, 100.0 + trip)
    found, message, remedy = only(check_clocks({"a": ClockReading(100.0, 100.01, 100.02), "b": reading}))
    assert found == level
    if level != "ok":
        assert f"{offset:+.1f} s (b)" in message
        assert "chrony" in remedy


@pytest.mark.parametrize(
    ("listening", "asks_token", "level"),
    [
        ({"127.0.0.1": 9, "::1": 1}, False, "ok"),
        ({"127.0.0.1": 9, "10.0.0.7": 2}, True, "ok"),
        ({"127.0.0.1": 9, "10.0.0.7": 2}, False, "warning"),
        ({"every interface": 1}, False, "warning"),
    ],
)
def test_ports_that_others_reach_need_a_token(listening: dict[str, int], asks_token: bool, level: str) -> None:
    found, message, _ = only(check_access([node("a", listening=listening, asks_token=asks_token)]))
    assert found == level
    assert all(address in message for address in listening)
    assert ("no token" in message) == (level == "warning")


def test_unknown_ports_give_no_finding() -> None:
    assert check_access([node("a")]) == []


@pytest.mark.parametrize(
    ("digits", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "every interface"),
        ("0" * 32, "every interface"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
        ("00000000000000000000000001000000", "::1"),
    ],
)
def test_addresses_as_the_kernel_writes_them(digits: str, address: str) -> None:
    assert parse_kernel_address(digits) == address
