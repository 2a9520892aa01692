"""A node as the checks see it: what Ray counts there, and what is found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DRIVER = "the driver"
"""The name of the machine that the command runs on."""


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    """Of the node; Ray's address where names are not unique."""
    id: str = ""
    address: str = ""
    ray_gpus: float = 0
    """GPUs that Ray counts."""
    object_store_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python and of packages; empty where there is none."""
    code: str = ""
    """A digest of hbt_ray's modules."""
    faiss: tuple[str, ...] = ()
    """Distributions that bring the module `faiss`."""
    torch_error: str = ""
    """Why torch cannot be imported."""
    torch_gpus: int = 0
    """GPUs that torch can use."""
    cuda_build: str = ""
    """The CUDA that torch was built for, such as 12.8; empty for a CPU build."""
    cuda_driver: str = ""
    """The newest CUDA that the driver serves; empty without a driver."""
    shm_bytes: int = 0
    """The size of /dev/shm."""
    free_bytes: int = 0
    """Memory that is available."""
    open_files: int = 0
    """How many files a process may hold open; -1 is without end."""
    listening: Mapping[str, int] = field(default_factory=dict)
    """Address → number of TCP ports on which processes of the cluster listen there; empty if unknown."""
    asks_token: bool = False
    """Whether Ray's servers refuse those who have no token."""
