"""Machines that nothing is wrong with, to change one thing about."""

from __future__ import annotations

from typing import Any

from hbt_ray.doctor.finding import Finding
from hbt_ray.doctor.machine import Machine

GIB = 2**30
VERSIONS = {"Python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "faiss": "1.15.1", "hbt_ray": "0.1.0"}


def machine(name: str, versions: dict[str, str] | None = None, **facts: Any) -> Machine:
    sound: dict[str, Any] = {
        "object_store_bytes": 4 * GIB,
        "versions": {**VERSIONS, **(versions or {})},
        "code": "0a1b2c3d",
        "faiss": ("faiss-cpu",),
        "shm_bytes": 8 * GIB,
        "free_bytes": 12 * GIB,
        "open_files": 65_536,
    }
    return Machine(name, **{**sound, **facts})


def gpu_machine(name: str, **facts: Any) -> Machine:
    gpus = {"ray_gpus": 2, "torch_gpus": 2, "cuda_build": "12.8", "cuda_driver": "12.4", "faiss": ("faiss-gpu",)}
    return machine(name, **{**gpus, **facts})


def said(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.level.value, finding.told, finding.remedy) for finding in findings]
