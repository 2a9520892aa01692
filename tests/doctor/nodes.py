"""Facts of healthy nodes, for tests that change one of them."""

from __future__ import annotations

from typing import Any

from hbt_ray.doctor.checks import Finding, NodeFacts

GIB = 2**30
VERSIONS = {"Python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "faiss": "1.15.1", "hbt_ray": "0.1.0"}


def node(name: str, versions: dict[str, str] | None = None, **facts: Any) -> NodeFacts:
    healthy: dict[str, Any] = {
        "object_store_bytes": 4 * GIB,
        "versions": {**VERSIONS, **(versions or {})},
        "code": "0a1b2c3d",
        "faiss": ("faiss-cpu",),
        "shm_bytes": 8 * GIB,
        "free_bytes": 12 * GIB,
        "storage_free_bytes": 50 * GIB,
    }
    return NodeFacts(name, **{**healthy, **facts})


def gpu_node(name: str, **facts: Any) -> NodeFacts:
    gpus = {"ray_gpus": 2, "torch_gpus": 2, "cuda_build": "12.8", "cuda_driver": "12.4", "faiss": ("faiss-gpu",)}
    return node(name, **{**gpus, **facts})


def as_tuples(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.level.value, finding.message, finding.remedy) for finding in findings]
