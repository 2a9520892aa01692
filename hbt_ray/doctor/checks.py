"""The checks of `hbt doctor`: pure functions from the facts of all nodes to findings, each problem with a remedy.

A check of single nodes is a line of `NODE_CHECKS`: a function that yields the problems of a node, and a summary of all
nodes if none has a problem. Nodes with the same problem share a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from hbt_ray.doctor.probe import BLOCK_MEBIBYTES

DRIVER = "the driver"
"""Name of the machine that runs the command."""
GIB = 2**30
CLOCK_FAILURE_SECONDS, CLOCK_WARNING_SECONDS = 5.0, 1.0
STORAGE_FAILURE_BYTES, STORAGE_WARNING_BYTES = GIB, 10 * GIB
STAGES = ("silent", "store", "group", "reduce", "done")
MIN_MEGABYTES_PER_SECOND = 100
"""At this bandwidth the gradients of 100 million weights take 4 s per step."""
SAME_IMAGE = "start all nodes from one image (cluster/Dockerfile)"
SAME_CODE = (
    f"submit with one working directory (--working-dir, --runtime-env cluster/runtime_env.yaml), or {SAME_IMAGE}"
)


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    """Subject, such as `storage`."""
    level: Level
    message: str
    """The state, with the names of the nodes."""
    remedy: str = ""


class NodeProblem(NamedTuple):
    """A problem of one node."""

    level: Level
    message: str
    value: str
    """Value on this node. Nodes that share a finding may have different values."""
    remedy: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Facts about one node, from Ray and from its probe."""

    name: str
    """Host name, with the start of Ray's node id if hosts share it."""
    id: str = ""
    address: str = ""
    ray_gpus: float = 0
    """GPUs that Ray counts."""
    object_store_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of Python and of each package; empty if the package is missing."""
    code: str = ""
    """Digest of hbt_ray's modules."""
    faiss: tuple[str, ...] = ()
    """Installed distributions that provide the module `faiss`."""
    torch_error: str = ""
    """Why torch cannot be imported."""
    torch_gpus: int = 0
    """GPUs that torch can use."""
    cuda_build: str = ""
    """CUDA version that torch was built for, such as 12.8; empty for a CPU build."""
    cuda_driver: str = ""
    """Newest CUDA version that the driver supports; empty without a driver."""
    shm_bytes: int = 0
    """Size of /dev/shm."""
    free_bytes: int = 0
    """Available memory."""
    listening: Mapping[str, int] = field(default_factory=dict)
    """Address → number of TCP ports on which the cluster's processes listen; empty if unknown."""
    asks_token: bool = False
    """Whether Ray's servers refuse clients that have no token."""
    storage_error: str = ""
    """Why the storage folder could not be written."""
    storage_free_bytes: int = 0
    sees_driver: bool = True
    """Whether the driver's file in the storage folder is visible."""
    clock_offset: float = 0
    """Node's clock minus the driver's in seconds, if a request takes as long as its answer."""
    clock_error: float = 0
    """How far the true offset may lie from `clock_offset`, in seconds: half of the round trip."""

    @property
    def clock_difference(self) -> float:
        """Smallest possible difference of the clocks in seconds."""
        return max(0.0, abs(self.clock_offset) - self.clock_error)


@dataclass(frozen=True, slots=True)
class RankOutcome:
    """Outcome of one rank of the network test."""

    stage: str
    """One of `STAGES`: no answer; rank 0 not reached; other ranks not reached; sum failed; done."""
    error: str = ""
    seconds: float = 0
    """Time of one all-reduce."""


def check_nodes(nodes: Sequence[NodeFacts], driver: NodeFacts) -> list[Finding]:
    """All checks of nodes: `NODE_CHECKS`, and versions and code compared with the driver's."""
    findings = check_versions(nodes, driver)
    for check, problems, summary in NODE_CHECKS:
        findings += _by_problem(check, {node.name: problems(node) for node in nodes}) or [
            Finding(check, Level.OK, summary(nodes))
        ]
    return findings


def check_answers(nodes: Collection[str], missing: Mapping[str, str]) -> list[Finding]:
    """Every node that Ray counts as alive answers."""
    remedy = (
        "look at that machine and its raylet.out (/tmp/ray/session_latest/logs); end the node if it hangs. A slow disk "
        "may need a larger value of seconds"
    )
    problems = {name: [NodeProblem(Level.FAILURE, "cannot be examined", why, remedy)] for name, why in missing.items()}
    return _by_problem("nodes", problems) or [Finding("nodes", Level.OK, f"{_num_nodes(nodes)}: {_names(nodes)}")]


def check_versions(nodes: Sequence[NodeFacts], driver: NodeFacts) -> list[Finding]:
    """Python and packages have the driver's versions, and hbt_ray has the driver's code.

    A cluster of several versions fails late and in strange ways.
    """

    def problems(node: NodeFacts) -> Iterator[NodeProblem]:
        for package in driver.versions:
            expected, version = _public_version(driver, package), _public_version(node, package)
            if version != expected:
                message = f"{package} is {expected} at the driver, but differs on nodes"
                yield NodeProblem(Level.FAILURE, message, version, SAME_CODE if package == "hbt_ray" else SAME_IMAGE)
        # Other versions have other code anyway, and are a problem already.
        if node.versions.get("hbt_ray") == driver.versions.get("hbt_ray") and node.code != driver.code:
            message = f"the code of hbt_ray is {driver.code} at the driver, but differs on nodes of the same version"
            yield NodeProblem(Level.FAILURE, message, node.code, SAME_CODE)

    versions = ", ".join(f"{package} {version}" for package, version in driver.versions.items() if version)
    return _by_problem("versions", {node.name: problems(node) for node in nodes}) or [
        Finding("versions", Level.OK, f"{versions}; the same on {_num_nodes(nodes)}")
    ]


def _faiss_problems(node: NodeFacts) -> Iterator[NodeProblem]:
    if not node.faiss:
        remedy = "install hbt-ray[cpu], or hbt-ray[gpu] on nodes with GPUs"
        yield NodeProblem(Level.FAILURE, "FAISS is not installed", "no faiss", remedy)
    if len(node.faiss) > 1:
        remedy = "pip uninstall both, then install one of hbt-ray[cpu] and hbt-ray[gpu]"
        message = "several distributions overwrite each other's files"
        yield NodeProblem(Level.FAILURE, message, " and ".join(node.faiss), remedy)


def _gpu_problems(node: NodeFacts) -> Iterator[NodeProblem]:
    """torch can be imported and can use exactly the GPUs that Ray counts."""
    if node.torch_error:
        yield NodeProblem(Level.FAILURE, "torch cannot be imported", node.torch_error, SAME_IMAGE)
    elif node.ray_gpus > node.torch_gpus:
        reason, remedy = _why_unusable(node.cuda_build, node.cuda_driver)
        message = f"torch sees fewer GPUs than Ray counts, because {reason}"
        yield NodeProblem(Level.FAILURE, message, f"{node.torch_gpus} of {node.ray_gpus:g}", remedy)
    elif node.ray_gpus < node.torch_gpus:
        message, remedy = "Ray counts fewer GPUs than torch sees", "start the node with `--num-gpus`"
        yield NodeProblem(Level.WARNING, message, f"{node.ray_gpus:g} of {node.torch_gpus}", remedy)


def _why_unusable(build: str, driver: str) -> tuple[str, str]:
    """Return reason and remedy for the CUDA version that torch was built for and the one that the driver supports."""
    if not build:
        return "torch is a CPU build", "use the image's target gpu, or install torch with CUDA"
    if not driver:
        return "there is no NVIDIA driver (libcuda.so.1)", (
            "install the driver; give a container its GPUs (`docker run --gpus all`, `nvidia.com/gpu` on Kubernetes)"
        )
    # Within a major version each driver supports each build.
    if int(build.split(".")[0]) > int(driver.split(".")[0]):
        return f"torch is built for CUDA {build} and the driver supports CUDA {driver} at most", (
            f"update the NVIDIA driver, or install a torch that is built for CUDA {driver.split('.')[0]}"
        )
    return f"a GPU is lost or hidden (CUDA {build}, driver for {driver})", (
        "look at `nvidia-smi` there: a GPU may be lost, in MIG mode, or hidden by CUDA_VISIBLE_DEVICES"
    )


def _memory_problems(node: NodeFacts) -> Iterator[NodeProblem]:
    """/dev/shm can hold the object store; store and free memory have 1 GiB or more."""
    if node.shm_bytes < node.object_store_bytes:
        size = node.object_store_bytes / GIB + 1
        yield NodeProblem(
            Level.FAILURE if node.shm_bytes < GIB else Level.WARNING,
            "/dev/shm is smaller than the object store, so Ray keeps objects on disk",
            f"{gib(node.shm_bytes)} for a store of {gib(node.object_store_bytes)}",
            f"start the container with --shm-size={size:.0f}g (Kubernetes: emptyDir with medium: Memory)",
        )
    if node.object_store_bytes < GIB:
        remedy = "raise `ray start --object-store-memory`, or take larger nodes"
        yield NodeProblem(Level.WARNING, "the object store is small", gib(node.object_store_bytes), remedy)
    if node.free_bytes < GIB:
        remedy = "stop other processes there, or take larger nodes"
        yield NodeProblem(Level.WARNING, "little memory is available", gib(node.free_bytes), remedy)


def _clock_problems(node: NodeFacts) -> Iterator[NodeProblem]:
    """Clocks agree with the driver's: leases, tokens and file times depend on them."""
    if node.clock_difference > CLOCK_WARNING_SECONDS:
        level = Level.FAILURE if node.clock_difference > CLOCK_FAILURE_SECONDS else Level.WARNING
        remedy = "run chrony or another NTP client on every node"
        yield NodeProblem(level, "clocks differ from the driver's", f"{node.clock_offset:+.1f} s", remedy)


def _access_problems(node: NodeFacts) -> Iterator[NodeProblem]:
    """Ports that other machines can reach require a token."""
    # Without known addresses there is nothing to warn about: `all` of none is true.
    if not node.asks_token and not all(address.startswith(("127.", "::1")) for address in node.listening):
        remedy = (
            "everyone who reaches these ports can run code: set RAY_AUTH_MODE=token, with one token, for all nodes and "
            "commands, and close the ports to others"
        )
        message = "no token is required by ports that other machines may reach"
        yield NodeProblem(Level.WARNING, message, _ports(node), remedy)


def _ports(node: NodeFacts) -> str:
    counts = sorted(node.listening.items())
    return ", ".join(f"{address}: {count} port{'s' * (count > 1)}" for address, count in counts) or "unknown"


def _gpu_summary(nodes: Sequence[NodeFacts]) -> str:
    usable = {node.name: f"{node.torch_gpus}, CUDA {node.cuda_build}" for node in nodes if node.torch_gpus}
    return grouped_by_value(usable) if usable else f"none on {_num_nodes(nodes)}"


def _memory_summary(nodes: Sequence[NodeFacts]) -> str:
    store = gib(min(node.object_store_bytes for node in nodes))
    return f"{gib(min(node.free_bytes for node in nodes))} or more available; object stores of {store} or more"


def _clock_summary(nodes: Sequence[NodeFacts]) -> str:
    return f"within {max(0.001, *(node.clock_difference for node in nodes)):.3f} s of the driver's"


def _access_summary(nodes: Sequence[NodeFacts]) -> str:
    return f"only with a token or from this machine: {grouped_by_value({node.name: _ports(node) for node in nodes})}"


NODE_CHECKS: Sequence[
    tuple[str, Callable[[NodeFacts], Iterator[NodeProblem]], Callable[[Sequence[NodeFacts]], str]]
] = (
    ("faiss", _faiss_problems, lambda nodes: grouped_by_value({node.name: node.faiss[0] for node in nodes})),
    ("GPUs", _gpu_problems, _gpu_summary),
    ("memory", _memory_problems, _memory_summary),
    ("clocks", _clock_problems, _clock_summary),
    ("access", _access_problems, _access_summary),
)
"""Subject, problems of a node, and the summary of all nodes if none has a problem."""


def check_storage(path: str, driver: NodeFacts, nodes: Sequence[NodeFacts]) -> list[Finding]:
    """The storage folder is the same on all machines, writable, with free space."""

    def problems(node: NodeFacts) -> Iterator[NodeProblem]:
        if node.storage_error:
            remedy = f"let Ray's user write below {path} (in the image: user 1000), or set storage_path=PATH"
            yield NodeProblem(Level.FAILURE, f"{path} cannot be used", node.storage_error, remedy)
        # If the driver could not write its marker, no node can see it.
        elif not (node.sees_driver or driver.storage_error):
            remedy = "mount one shared file system there on all nodes and at the driver, or set storage_path=PATH"
            message = f"{path} is not the folder that the driver has under this name"
            yield NodeProblem(Level.FAILURE, message, "the driver's file is not visible", remedy)
        elif node.storage_free_bytes <= STORAGE_WARNING_BYTES:
            level = Level.FAILURE if node.storage_free_bytes <= STORAGE_FAILURE_BYTES else Level.WARNING
            remedy = "remove old runs or their vectors/, or enlarge the volume"
            yield NodeProblem(level, f"little space is free in {path}", gib(node.storage_free_bytes), remedy)

    machines = [driver, *nodes]
    free = gib(min(machine.storage_free_bytes for machine in machines))
    message = f"{path}: one folder at the driver and on {_num_nodes(nodes)}, {free} free"
    return _by_problem("storage", {machine.name: problems(machine) for machine in machines}) or [
        Finding("storage", Level.OK, message)
    ]


def check_network(backend: str, outcomes: Mapping[str, RankOutcome]) -> list[Finding]:
    """Report the bandwidth of the all-reduce, or the ranks that could not take part.

    Args:
        outcomes: by name of the rank's node, rank 0 first.
    """
    check, variable = f"network, {backend}", f"{backend.upper()}_SOCKET_IFNAME"
    stage = min((outcome.stage for outcome in outcomes.values()), key=STAGES.index)
    if stage != "done":
        # Ranks that came further only waited for these.
        behind = {name: outcome.error for name, outcome in outcomes.items() if outcome.stage == stage}
        message = {
            "silent": "some ranks did not answer",
            "store": f"{_names(behind)} cannot reach {next(iter(outcomes))}",
            "group": f"the ranks on {_names(behind)} do not reach each other",
            "reduce": "the ranks met but could not sum a block",
        }[stage]
        remedy = (
            "open all TCP ports between the nodes; if a node has several network interfaces, name the one for ranks "
            f"in the runtime environment ({variable}=eth0)"
        )
        return [Finding(check, Level.FAILURE, f"{message}: {grouped_by_value(behind)}", remedy)]
    slowest = max(outcomes, key=lambda name: outcomes[name].seconds)
    speed = BLOCK_MEBIBYTES * 2**20 / 1e6 / max(outcomes[slowest].seconds, 1e-9)
    ranks = f"{len(outcomes)} rank{'s' * (len(outcomes) > 1)}"
    message = f"{speed:,.0f} MB/s: {ranks} sum {BLOCK_MEBIBYTES} MiB in {outcomes[slowest].seconds * 1e3:,.1f} ms"
    if speed < MIN_MEGABYTES_PER_SECOND:
        remedy = f"name the fast interface ({variable}), and put the nodes into one zone or placement group"
        return [Finding(check, Level.WARNING, f"{message}; the slowest is {slowest}", remedy)]
    return [Finding(check, Level.OK, message)]


def any_failure(findings: Iterable[Finding]) -> bool:
    return any(finding.level is Level.FAILURE for finding in findings)


def grouped_by_value(values: Mapping[str, str]) -> str:
    """Format `{"a": "1", "b": "2", "c": "1"}` as `1 (a, c), 2 (b)`."""
    nodes: dict[str, list[str]] = {}
    for node, value in values.items():
        nodes.setdefault(value, []).append(node)
    return ", ".join(f"{value} ({_names(names)})" for value, names in sorted(nodes.items()))


def gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.1f} GiB"


def _by_problem(check: str, problems: Mapping[str, Iterable[NodeProblem]]) -> list[Finding]:
    """One finding for each problem, with all nodes that have it; empty if no node has one.

    Args:
        problems: name of a node → its problems.
    """
    values: dict[tuple[Level, str, str], dict[str, str]] = {}
    for node, of_node in problems.items():
        for level, message, value, remedy in of_node:
            values.setdefault((level, message, remedy), {})[node] = value
    return [
        Finding(check, level, f"{message}: {grouped_by_value(by_node)}", remedy)
        for (level, message, remedy), by_node in values.items()
    ]


def _names(nodes: Iterable[str]) -> str:
    return ", ".join(sorted(nodes))


def _num_nodes(nodes: Collection[object]) -> str:
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}"


def _public_version(node: NodeFacts, package: str) -> str:
    """Return the version without its build, the part after `+`: CPU and GPU nodes may have different builds."""
    return (node.versions.get(package) or "none").partition("+")[0]
