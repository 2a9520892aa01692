"""Each check on synthetic facts: the problem, the nodes and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from hbt_ray.doctor.checks import Finding, Level, NodeFacts, any_failure, check_nodes, check_versions, grouped_by_value
from hbt_ray.doctor.probe import parse_kernel_address
from tests.doctor.nodes import GIB, as_tuples, gpu_node, node

HERE = node("the driver")


def of_check(check: str, *nodes: NodeFacts) -> list[tuple[str, str, str]]:
    """Level, message and remedy of each finding of one check."""
    return as_tuples([finding for finding in check_nodes(nodes, HERE) if finding.check == check])


def only(findings: list[tuple[str, str, str]]) -> tuple[str, str, str]:
    (finding,) = findings
    return finding


def test_levels_decide() -> None:
    fine = [Finding("x", level, "") for level in (Level.OK, Level.WARNING)]
    assert not any_failure(fine)
    assert any_failure([*fine, Finding("x", Level.FAILURE, "")])


def test_nodes_are_grouped_by_value() -> None:
    assert grouped_by_value({"b": "2", "c": "1", "a": "1"}) == "1 (a, c), 2 (b)"


def test_healthy_nodes() -> None:
    findings = check_nodes([node("a"), gpu_node("b")], HERE)
    assert [(finding.check, finding.level, finding.message) for finding in findings] == [
        (
            "versions",
            Level.OK,
            "Python 3.11.7, ray 2.60.0, torch 2.13.0, faiss 1.15.1, hbt_ray 0.1.0; the same on 2 nodes",
        ),
        ("faiss", Level.OK, "faiss-cpu (a), faiss-gpu (b)"),
        ("GPUs", Level.OK, "2, CUDA 12.8 (b)"),
        ("memory", Level.OK, "12.0 GiB or more available; object stores of 4.0 GiB or more"),
        ("clocks", Level.OK, "within 0.001 s of the driver's"),
        ("access", Level.OK, "only with a token or from this machine: unknown (a, b)"),
    ]


def test_versions_name_which_node_has_what() -> None:
    nodes = [node("a"), node("b", {"torch": "2.9.0"}), node("c", {"torch": ""}), node("d", {"torch": ""})]
    level, message, remedy = only(as_tuples(check_versions(nodes, HERE)))
    assert (level, message) == (
        "failure",
        "torch is 2.13.0 at the driver, but differs on nodes: 2.9.0 (b), none (c, d)",
    )
    assert remedy == "start all nodes from one image (cluster/Dockerfile)"


def test_a_package_that_only_nodes_have() -> None:
    level, message, _ = only(as_tuples(check_versions([node("a")], node("the driver", {"torch": ""}))))
    assert (level, message) == ("failure", "torch is none at the driver, but differs on nodes: 2.13.0 (a)")


def test_builds_for_cpu_and_gpu_are_one_version() -> None:
    nodes = [node("a", {"torch": "2.13.0+cpu"}), node("b", {"torch": "2.13.0+cu128"})]
    assert only(as_tuples(check_versions(nodes, node("the driver", {"torch": "2.13.0+cpu"}))))[0] == "ok"


def test_other_code_under_one_version() -> None:
    level, message, remedy = only(as_tuples(check_versions([node("a"), node("b", code="ffff0000")], HERE)))
    assert level == "failure"
    assert message == (
        "the code of hbt_ray is 0a1b2c3d at the driver, but differs on nodes of the same version: ffff0000 (b)"
    )
    assert "--working-dir" in remedy


def test_a_node_without_hbt_ray() -> None:
    level, message, remedy = only(as_tuples(check_versions([node("b", {"hbt_ray": ""}, code="")], HERE)))
    assert (level, message) == ("failure", "hbt_ray is 0.1.0 at the driver, but differs on nodes: none (b)")
    assert "--runtime-env" in remedy


def test_torch_that_cannot_be_imported_is_reported_once() -> None:
    broken = gpu_node("b", torch_gpus=0, torch_error="OSError: libcudart.so.13: cannot open")
    assert only(of_check("GPUs", node("a"), broken))[:2] == (
        "failure",
        "torch cannot be imported: OSError: libcudart.so.13: cannot open (b)",
    )


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
    ],
)
def test_faiss(node: Any, level: str, message: str, remedy: str) -> None:
    finding = only(of_check("faiss", node))
    assert finding[:2] == (level, message)
    assert remedy in finding[2]


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
    level, message, advice = only(of_check("GPUs", *nodes))
    assert (level, message) == ("failure", f"torch sees fewer GPUs than Ray counts, because {reason}: 0 of 2 (b, c)")
    assert remedy in advice


def test_gpus_that_ray_does_not_count() -> None:
    level, message, remedy = only(of_check("GPUs", gpu_node("a", ray_gpus=1)))
    assert (level, "1 of 2 (a)" in message) == ("warning", True)
    assert "--num-gpus" in remedy


@pytest.mark.parametrize(("shm", "level"), [(GIB // 16, "failure"), (2 * GIB, "warning"), (4 * GIB, "ok")])
def test_shared_memory(shm: int, level: str) -> None:
    highest, message, remedy = only(of_check("memory", node("a"), node("b", shm_bytes=shm)))
    assert highest == level
    if level != "ok":
        assert message.endswith(f"{shm / GIB:.1f} GiB for a store of 4.0 GiB (b)")
        assert "--shm-size=5g" in remedy


def test_memory() -> None:
    store, free = of_check("memory", node("a", object_store_bytes=GIB - 1), node("b", free_bytes=GIB // 2))
    assert store[:2] == ("warning", "the object store is small: 1.0 GiB (a)")
    assert "--object-store-memory" in store[2]
    assert free[:2] == ("warning", "little memory is available: 0.5 GiB (b)")
    assert "larger nodes" in free[2]


@pytest.mark.parametrize(
    ("offset", "trip", "level"),
    [(0.9, 0.1, "ok"), (-1.2, 0.1, "warning"), (5.2, 0.1, "failure"), (-60, 0.1, "failure"), (5.2, 1.0, "warning")],
)
def test_clocks(offset: float, trip: float, level: str) -> None:
    """Only the difference that a long round trip cannot explain counts."""
    nodes = [node("a", clock_offset=0.01, clock_error=0.01), node("b", clock_offset=offset, clock_error=trip / 2)]
    highest, message, remedy = only(of_check("clocks", *nodes))
    assert highest == level
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
    highest, message, _ = only(of_check("access", node("a", listening=listening, asks_token=asks_token)))
    assert highest == level
    assert all(address in message for address in listening)
    assert ("no token is required" in message) == (level == "warning")


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
