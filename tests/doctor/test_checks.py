"""Every check over made-up facts: what is wrong, where, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from hbt_ray.doctor.accelerators import check_gpus
from hbt_ray.doctor.clocks import Reading, check_clocks
from hbt_ray.doctor.exposure import check_listening
from hbt_ray.doctor.finding import Finding, Level, by_value, failed
from hbt_ray.doctor.looking import _address
from hbt_ray.doctor.memory import check_memory, check_open_files, check_shared_memory
from hbt_ray.doctor.versions import check_faiss, check_torch, check_versions
from tests.doctor.machines import GIB, gpu_machine, machine, said

HERE = machine("the driver")


def only(findings: list[Finding]) -> tuple[str, str, str]:
    (one,) = said(findings)
    return one


def test_levels_decide() -> None:
    fine = [Finding("x", level, "") for level in (Level.OK, Level.ADVICE, Level.WARNING)]
    assert not failed(fine)
    assert failed([*fine, Finding("x", Level.FAILURE, "")])


def test_nodes_with_one_value_are_told_together() -> None:
    assert by_value({"b": 2, "c": 1, "a": 1}) == "1 (a, c), 2 (b)"


def test_sound_machines() -> None:
    nodes = [machine("a"), gpu_machine("b")]
    findings = [
        *check_versions(nodes, HERE), *check_torch(nodes), *check_faiss(nodes), *check_gpus(nodes),
        *check_shared_memory(nodes), *check_memory(nodes), *check_open_files(nodes),
    ]  # fmt: skip
    assert [finding.level for finding in findings] == [Level.OK] * 6
    assert [finding.told for finding in findings] == [
        "Python 3.11.7, ray 2.60.0, torch 2.13.0, faiss 1.15.1, hbt_ray 0.1.0; the same on 2 nodes",
        "faiss-cpu (a), faiss-gpu (b)",
        "2, CUDA 12.8 (b)",
        "/dev/shm has 8.0 GiB or more",
        "12.0 GiB or more available; object stores of 4.0 GiB or more",
        "65,536 or more a process",
    ]


def test_versions_name_which_node_has_what() -> None:
    nodes = [machine("a"), machine("b", {"torch": "2.9.0"}), machine("c", {"torch": ""}), machine("d", {"torch": ""})]
    level, told, remedy = only(check_versions(nodes, HERE))
    assert (level, told) == ("failure", "torch is 2.13.0 at the driver, but 2.9.0 (b), none (c, d)")
    assert remedy == "start all nodes from one image (cluster/Dockerfile)"


def test_a_package_that_only_nodes_have() -> None:
    level, told, _ = only(check_versions([machine("a")], machine("the driver", {"torch": ""})))
    assert (level, told) == ("failure", "torch is none at the driver, but 2.13.0 (a)")


def test_builds_for_cpu_and_gpu_are_one_version() -> None:
    nodes = [machine("a", {"torch": "2.13.0+cpu"}), machine("b", {"torch": "2.13.0+cu128"})]
    assert only(check_versions(nodes, machine("the driver", {"torch": "2.13.0+cpu"})))[0] == "ok"


def test_other_code_under_one_version() -> None:
    level, told, remedy = only(check_versions([machine("a"), machine("b", code="ffff0000")], HERE))
    assert level == "failure"
    assert told == "the code of hbt_ray is 0a1b2c3d at the driver, but ffff0000 (b), under the same version"
    assert "--working-dir" in remedy


def test_a_node_without_hbt_ray() -> None:
    level, told, remedy = only(check_versions([machine("b", {"hbt_ray": ""}, code="")], HERE))
    assert (level, told) == ("failure", "hbt_ray is 0.1.0 at the driver, but none (b)")
    assert "--runtime-env" in remedy


def test_torch_that_cannot_be_imported_is_told_once() -> None:
    broken = gpu_machine("b", torch_gpus=0, torch_error="OSError: libcudart.so.13: cannot open")
    assert only(check_torch([machine("a"), broken]))[:2] == (
        "failure",
        "torch cannot be imported: OSError: libcudart.so.13: cannot open (b)",
    )
    assert check_gpus([broken])[0].level is Level.OK


@pytest.mark.parametrize(
    ("node", "level", "told", "remedy"),
    [
        (machine("a", faiss=()), "failure", "no FAISS on a", "install hbt-ray[cpu]"),
        (
            machine("a", faiss=("faiss-cpu", "faiss-gpu")),
            "failure",
            "they overwrite each other's files: faiss-cpu and faiss-gpu (a)",
            "pip uninstall both",
        ),
        (gpu_machine("a", faiss=("faiss-cpu",)), "advice", "faiss-cpu on a, which has GPUs", "target gpu"),
    ],
)
def test_faiss(node: Any, level: str, told: str, remedy: str) -> None:
    found = only(check_faiss([node]))
    assert found[:2] == (level, told)
    assert remedy in found[2]


@pytest.mark.parametrize(
    ("facts", "reason", "remedy"),
    [
        ({"cuda_build": "", "cuda_driver": "12.8"}, "torch is a build for CPUs", "target gpu"),
        ({"cuda_driver": ""}, "there is no NVIDIA driver (libcuda.so.1)", "--gpus all"),
        (
            {"cuda_build": "13.0", "cuda_driver": "12.8"},
            "torch is built for CUDA 13.0, the driver serves up to 12.8",
            "built for CUDA 12",
        ),
        ({"cuda_build": "12.8", "cuda_driver": "12.4"}, "CUDA 12.8, driver for 12.4", "nvidia-smi"),
    ],
)
def test_gpus_that_torch_does_not_see(facts: dict[str, str], reason: str, remedy: str) -> None:
    nodes = [machine("a"), *(gpu_machine(name, torch_gpus=0, **facts) for name in "bc")]
    level, told, what = only(check_gpus(nodes))
    assert (level, told) == ("failure", f"torch sees fewer GPUs than Ray counts: 0 of 2 (b, c); {reason}")
    assert remedy in what


def test_gpus_that_ray_does_not_count() -> None:
    level, told, remedy = only(check_gpus([gpu_machine("a", ray_gpus=1)]))
    assert (level, "1 of 2 (a)" in told) == ("warning", True)
    assert "--num-gpus" in remedy


@pytest.mark.parametrize(("shm", "level"), [(GIB // 16, "failure"), (2 * GIB, "warning"), (4 * GIB, "ok")])
def test_shared_memory(shm: int, level: str) -> None:
    found, told, remedy = only(check_shared_memory([machine("a"), machine("b", shm_bytes=shm)]))
    assert found == level
    if level != "ok":
        assert told.endswith(f"{shm / GIB:.1f} GiB for a store of 4.0 GiB (b)")
        assert "--shm-size=5g" in remedy


def test_memory() -> None:
    nodes = [machine("a", object_store_bytes=GIB - 1), machine("b", free_bytes=GIB // 2)]
    store, free = said(check_memory(nodes))
    assert store[:2] == ("warning", "a small object store: 1.0 GiB (a)")
    assert "--object-store-memory" in store[2]
    assert free[:2] == ("warning", "little memory is available: 0.5 GiB (b)")
    assert "larger nodes" in free[2]


def test_open_files() -> None:
    level, told, remedy = only(check_open_files([machine("a", open_files=1024), machine("b", open_files=-1)]))
    assert (level, told) == ("warning", "a process may hold few files open: 1024 (a)")
    assert "ulimit -n 65536" in remedy
    assert only(check_open_files([machine("b", open_files=-1)]))[:2] == ("ok", "without end")


@pytest.mark.parametrize(
    ("offset", "trip", "level"),
    [(0.9, 0.1, "ok"), (-1.2, 0.1, "warning"), (5.2, 0.1, "failure"), (-60, 0.1, "failure"), (5.2, 1.0, "warning")],
)
def test_clocks(offset: float, trip: float, level: str) -> None:
    """A long way there and back leaves room for doubt, and nothing is claimed that it does not show."""
    reading = Reading(100.0, 100.0 + trip / 2 + offset, 100.0 + trip)
    found, told, remedy = only(check_clocks({"a": Reading(100.0, 100.01, 100.02), "b": reading}))
    assert found == level
    if level != "ok":
        assert f"{offset:+.1f} s (b)" in told
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
    found, told, _ = only(check_listening([machine("a", listening=listening, asks_token=asks_token)]))
    assert found == level
    assert all(address in told for address in listening)
    assert ("no token" in told) == (level == "warning")


def test_nothing_is_said_where_ports_are_unknown() -> None:
    assert check_listening([machine("a")]) == []


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
    assert _address(digits) == address
