"""The checks of `hbt doctor`: pure functions from the facts of all nodes to findings, each problem with a remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hbt_ray.doctor.probe import BLOCK_MEBIBYTES
from hbt_ray.train.config import WorkersConfig

DRIVER = "the driver"
"""Name of the machine that runs the command."""
GIB = 2**30
MIN_OPEN_FILES = 4096
CLOCK_FAILURE_SECONDS, CLOCK_WARNING_SECONDS = 5.0, 1.0
STORAGE_FAILURE_BYTES, STORAGE_WARNING_BYTES = GIB, 10 * GIB
STAGES = ("silent", "store", "group", "reduce", "done")
MIN_MEGABYTES_PER_SECOND = 100
"""At this bandwidth the gradients of 100 million weights take 4 s per step."""
SAME_IMAGE = "start all nodes from one image (cluster/Dockerfile)"
SAME_CODE = (
    "submit with one working directory (--working-dir, --runtime-env cluster/runtime_env.yaml), or " + SAME_IMAGE
)


class Level(StrEnum):
    OK = "ok"
    ADVICE = "advice"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    """Subject, such as `storage`."""
    level: Level
    message: str
    """What is so, with the names of the nodes."""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node, as Ray counts it and as its probe sees it."""

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
    open_files: int = 0
    """Number of files that a process may hold open; -1 if there is no limit."""
    listening: Mapping[str, int] = field(default_factory=dict)
    """Address → number of TCP ports on which the cluster's processes listen; empty if unknown."""
    asks_token: bool = False
    """Whether Ray's servers refuse clients that have no token."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One request for a node's time. All values are seconds."""

    sent: float
    """Driver's clock when the request was sent."""
    node_time: float
    received: float
    """Driver's clock when the answer came."""

    @property
    def offset(self) -> float:
        """Node's clock minus driver's clock, if the request takes as long as the answer."""
        return self.node_time - (self.sent + self.received) / 2

    @property
    def round_trip(self) -> float:
        return self.received - self.sent

    @property
    def min_difference(self) -> float:
        """Smallest possible difference of the clocks, however long each way took."""
        return max(0.0, abs(self.offset) - self.round_trip / 2)


@dataclass(frozen=True, slots=True)
class StorageAccess:
    """What one machine could do with the storage folder."""

    error: str = ""
    """Why it could not write or read there."""
    free_bytes: int = 0
    visible: frozenset[str] = frozenset()
    """Names of the machines whose files it read."""


@dataclass(frozen=True, slots=True)
class RankOutcome:
    """How far a rank of the network test came."""

    stage: str
    """One of `STAGES`: no answer; rank 0 not reached; other ranks not reached; sum failed; done."""
    error: str = ""
    seconds: float = 0
    """Time of one all-reduce."""


def any_failure(findings: Iterable[Finding]) -> bool:
    return any(finding.level is Level.FAILURE for finding in findings)


def grouped_by_value(values: Mapping[str, object]) -> str:
    """Format `{"a": 1, "b": 2, "c": 1}` as `1 (a, c), 2 (b)`."""
    nodes: dict[str, list[str]] = {}
    for node, value in values.items():
        nodes.setdefault(str(value), []).append(node)
    return ", ".join(f"{value} ({_names(names)})" for value, names in sorted(nodes.items()))


def check_answers(nodes: Collection[str], missing: Mapping[str, str]) -> list[Finding]:
    """Every node that Ray counts as alive answers."""
    remedy = (
        "look at that machine and its raylet.out (/tmp/ray/session_latest/logs); end the node if it hangs. A slow disk "
        "may need a larger value of seconds"
    )
    problems = _problem("nodes", Level.FAILURE, "cannot be examined", missing, remedy)
    return problems or [Finding("nodes", Level.OK, f"{_num_nodes(nodes)}: {_names(nodes)}")]


def check_versions(nodes: Sequence[NodeFacts], driver: NodeFacts) -> list[Finding]:
    """Python and packages have the driver's versions, and hbt_ray has the driver's code.

    A cluster of several versions fails late and in strange ways.
    """
    problems: list[Finding] = []
    for package in driver.versions:
        expected = _public_version(driver, package)
        others = {node.name: _public_version(node, package) for node in nodes}
        different = {name: version for name, version in others.items() if version != expected}
        remedy = SAME_CODE if package == "hbt_ray" else SAME_IMAGE
        message = f"{package} is {expected} at the driver, but differs on nodes"
        problems += _problem("versions", Level.FAILURE, message, different, remedy)
    same_version = [node for node in nodes if node.versions.get("hbt_ray") == driver.versions.get("hbt_ray")]
    changed = {node.name: node.code for node in same_version if node.code != driver.code}
    message = f"the code of hbt_ray is {driver.code} at the driver, but differs on nodes of the same version"
    problems += _problem("versions", Level.FAILURE, message, changed, SAME_CODE)
    versions = ", ".join(f"{package} {version}" for package, version in driver.versions.items() if version)
    return problems or [Finding("versions", Level.OK, f"{versions}; the same on {_num_nodes(nodes)}")]


def check_torch(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """torch can be imported. `check_gpus` checks whether it can use GPUs."""
    broken = {node.name: node.torch_error for node in nodes if node.torch_error}
    return _problem("torch", Level.FAILURE, "torch cannot be imported", broken, SAME_IMAGE)


def check_faiss(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Exactly one distribution provides the module `faiss`, and it suits the node."""
    missing = {node.name: "no faiss" for node in nodes if not node.faiss}
    several = {node.name: " and ".join(node.faiss) for node in nodes if len(node.faiss) > 1}
    cpu_only = {node.name: "faiss-cpu" for node in nodes if node.faiss == ("faiss-cpu",) and node.ray_gpus}
    problems = [
        *_problem("faiss", Level.FAILURE, "FAISS is not installed", missing,
                  "install hbt-ray[cpu], or hbt-ray[gpu] on nodes with GPUs"),
        *_problem("faiss", Level.FAILURE, "several distributions overwrite each other's files", several,
                  "pip uninstall both, then install one of hbt-ray[cpu] and hbt-ray[gpu]"),
        *_problem("faiss", Level.ADVICE, "nodes with GPUs search on the CPU", cpu_only,
                  "use the image's target gpu, which has faiss-gpu (pip uninstall faiss-cpu first)"),
    ]  # fmt: skip
    installed = {node.name: node.faiss[0] for node in nodes if node.faiss}
    return problems or [Finding("faiss", Level.OK, grouped_by_value(installed))]


def check_gpus(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """torch can use exactly the GPUs that Ray counts. Nodes with the same reason share a finding."""
    problems: list[Finding] = []
    reasons = {node.name: _why_unusable(node) for node in nodes
               if node.ray_gpus > node.torch_gpus and not node.torch_error}  # fmt: skip
    for reason, remedy in dict.fromkeys(reasons.values()):
        counts = {node.name: f"{node.torch_gpus} of {node.ray_gpus:g}" for node in nodes
                  if reasons.get(node.name) == (reason, remedy)}  # fmt: skip
        message = f"torch sees fewer GPUs than Ray counts, because {reason}"
        problems += _problem("GPUs", Level.FAILURE, message, counts, remedy)
    unused = {node.name: f"{node.ray_gpus:g} of {node.torch_gpus}" for node in nodes if node.ray_gpus < node.torch_gpus}
    message, remedy = "Ray counts fewer GPUs than torch sees, and uses only these", "start the node with `--num-gpus`"
    problems += _problem("GPUs", Level.WARNING, message, unused, remedy)
    usable = {node.name: f"{node.torch_gpus}, CUDA {node.cuda_build}" for node in nodes if node.torch_gpus}
    message = grouped_by_value(usable) if usable else f"none on {_num_nodes(nodes)}"
    return problems or [Finding("GPUs", Level.OK, message)]


def _why_unusable(node: NodeFacts) -> tuple[str, str]:
    """Return the reason and the remedy."""
    build, driver = node.cuda_build, node.cuda_driver
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


def check_resources(workers: WorkersConfig, cluster: Mapping[str, float]) -> list[Finding]:
    """The workers of a run fit into the cluster as it is now."""
    missing = workers.missing_resources(cluster)
    if not missing:
        each = _amounts(workers.resources, workers.resources)
        return [Finding("workers", Level.OK, f"the cluster can hold {workers}, each with {each}")]
    remedy = "lower workers.count or workers.cpus, or add nodes"
    if not cluster.get("GPU") and "GPU" in missing:
        remedy = "set workers.gpu=false, or add nodes with GPUs (Ray counts none)"
    message = (
        f"{workers.min_count} workers need {_amounts(missing, missing)}; the cluster has {_amounts(missing, cluster)}"
    )
    return [Finding("workers", Level.FAILURE, message, remedy)]


def check_shared_memory(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """/dev/shm can hold Ray's object store; otherwise Ray keeps objects on disk."""
    problems: list[Finding] = []
    small = [node for node in nodes if node.shm_bytes < node.object_store_bytes]
    for level, is_tiny in ((Level.FAILURE, True), (Level.WARNING, False)):
        group = [node for node in small if (node.shm_bytes < GIB) == is_tiny]
        sizes = {node.name: f"{gib(node.shm_bytes)} for a store of {gib(node.object_store_bytes)}" for node in group}
        largest = max((node.object_store_bytes for node in group), default=0) / GIB
        message = "/dev/shm is smaller than the object store, so Ray keeps objects on disk"
        remedy = f"start the container with --shm-size={largest + 1:.0f}g (Kubernetes: emptyDir with medium: Memory)"
        problems += _problem("shared memory", level, message, sizes, remedy)
    smallest = gib(min((node.shm_bytes for node in nodes), default=0))
    return problems or [Finding("shared memory", Level.OK, f"/dev/shm has {smallest} or more")]


def check_memory(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """The object store and the free memory have 1 GiB or more."""
    small = {node.name: gib(node.object_store_bytes) for node in nodes if node.object_store_bytes < GIB}
    full = {node.name: gib(node.free_bytes) for node in nodes if node.free_bytes < GIB}
    problems = [
        *_problem("memory", Level.WARNING, "the object store is small", small,
                  "raise `ray start --object-store-memory`, or take larger nodes"),
        *_problem("memory", Level.WARNING, "little memory is available", full,
                  "stop other processes there, or take larger nodes"),
    ]  # fmt: skip
    store = gib(min((node.object_store_bytes for node in nodes), default=0))
    free = gib(min((node.free_bytes for node in nodes), default=0))
    return problems or [Finding("memory", Level.OK, f"{free} or more available; object stores of {store} or more")]


def check_open_files(nodes: Sequence[NodeFacts]) -> list[Finding]:
    low = {node.name: node.open_files for node in nodes if 0 <= node.open_files < MIN_OPEN_FILES}
    remedy = "raise the limit before `ray start`: `ulimit -n 65536`, or `docker run --ulimit nofile=65536:65536`"
    problems = _problem("open files", Level.WARNING, "a process may hold only a few files open", low, remedy)
    limits = [node.open_files for node in nodes if node.open_files >= 0]
    message = f"{min(limits):,} or more per process" if limits else "no limit"
    return problems or [Finding("open files", Level.OK, message)]


def check_clocks(readings: Mapping[str, ClockReading]) -> list[Finding]:
    """Clocks agree with the driver's: leases, tokens and file times depend on them."""
    problems: list[Finding] = []
    infinity = float("inf")
    for level, low, high in (
        (Level.FAILURE, CLOCK_FAILURE_SECONDS, infinity),
        (Level.WARNING, CLOCK_WARNING_SECONDS, CLOCK_FAILURE_SECONDS),
    ):
        off = {name: f"{reading.offset:+.1f} s" for name, reading in readings.items()
               if low < reading.min_difference <= high}  # fmt: skip
        remedy = "run chrony or another NTP client on every node"
        problems += _problem("clocks", level, "clocks differ from the driver's", off, remedy)
    largest = max((reading.min_difference for reading in readings.values()), default=0)
    return problems or [Finding("clocks", Level.OK, f"within {max(largest, 0.001):.3f} s of the driver's")]


def check_access(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Ports that other machines can reach ask for a token. Says nothing if the ports are unknown."""
    known = [node for node in nodes if node.listening]
    if not known:
        return []
    ports = {node.name: _ports(node.listening) for node in known}
    message = f"listening on {grouped_by_value(ports)}"
    if all(address.startswith(("127.", "::1")) for node in known for address in node.listening):
        return [Finding("access", Level.OK, f"{message}, which only this machine can reach")]
    if unguarded := {node.name: "no token is required" for node in known if not node.asks_token}:
        remedy = (
            "everyone who reaches these ports can run code: set RAY_AUTH_MODE=token, with one token, for all nodes and "
            "commands, and close the ports to others"
        )
        return [Finding("access", Level.WARNING, f"{message}; {grouped_by_value(unguarded)}", remedy)]
    return [Finding("access", Level.OK, f"{message}; a token is required")]


def _ports(listening: Mapping[str, int]) -> str:
    return ", ".join(f"{address}: {count} port{'s' * (count > 1)}" for address, count in sorted(listening.items()))


def check_storage(path: str, accesses: Mapping[str, StorageAccess]) -> list[Finding]:
    """The storage folder is one and the same on all machines, writable, with free space.

    Args:
        accesses: what each node and `DRIVER` could do with it, by name.
    """
    writers = {name: access for name, access in accesses.items() if not access.error}
    errors = {name: access.error for name, access in accesses.items() if access.error}
    remedy = f"let Ray's user write below {path} (in the image: user 1000), or set storage_path=PATH"
    problems = _problem("storage", Level.FAILURE, f"{path} cannot be used", errors, remedy)
    if separate := _separate_groups(writers):
        message = f"{path} is not the same folder everywhere: {'; '.join(separate)} cannot see the files of the others"
        remedy = "mount one shared file system there on all nodes and at the driver, or set storage_path=PATH"
        problems.append(Finding("storage", Level.FAILURE, message, remedy))
    for level, low, high in (
        (Level.FAILURE, -1, STORAGE_FAILURE_BYTES),
        (Level.WARNING, STORAGE_FAILURE_BYTES, STORAGE_WARNING_BYTES),
    ):
        short = {name: gib(access.free_bytes) for name, access in writers.items() if low < access.free_bytes <= high}
        remedy = "remove old runs or their vectors/, or enlarge the volume"
        problems += _problem("storage", level, f"little space is free in {path}", short, remedy)
    free = gib(min((access.free_bytes for access in writers.values()), default=0))
    nodes = [name for name in accesses if name != DRIVER]
    message = f"{path}: one folder at the driver and on {_num_nodes(nodes)}, {free} free"
    return problems or [Finding("storage", Level.OK, message)]


def _separate_groups(accesses: Mapping[str, StorageAccess]) -> list[str]:
    """Return the groups of machines that see each other's files, without the largest group."""
    groups: list[set[str]] = []
    for name, access in accesses.items():
        group = {name} | {other for other in access.visible if other in accesses and name in accesses[other].visible}
        for overlapping in [other for other in groups if other & group]:
            groups.remove(overlapping)
            group |= overlapping
        groups.append(group)
    # Of two groups of one size, the driver's comes first: the run folder is created there.
    groups.sort(key=lambda group: (len(group), DRIVER in group), reverse=True)
    return [_names(group) for group in groups[1:]]


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
        return _problem(check, Level.FAILURE, message, behind, remedy)
    slowest = max(outcomes, key=lambda name: outcomes[name].seconds)
    speed = BLOCK_MEBIBYTES * 2**20 / 1e6 / max(outcomes[slowest].seconds, 1e-9)
    ranks = f"{len(outcomes)} rank{'s' * (len(outcomes) > 1)}"
    message = f"{speed:,.0f} MB/s: {ranks} sum {BLOCK_MEBIBYTES} MiB in {outcomes[slowest].seconds * 1e3:,.1f} ms"
    if speed < MIN_MEGABYTES_PER_SECOND:
        remedy = f"name the fast interface ({variable}), and put the nodes into one zone or placement group"
        return [Finding(check, Level.WARNING, f"{message}; the slowest is {slowest}", remedy)]
    return [Finding(check, Level.OK, message)]


def gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.1f} GiB"


def _problem(check: str, level: Level, message: str, values: Mapping[str, object], remedy: str) -> list[Finding]:
    """Return one finding that names the nodes by value; none if there are no values."""
    return [Finding(check, level, f"{message}: {grouped_by_value(values)}", remedy)] if values else []


def _names(nodes: Iterable[str]) -> str:
    return ", ".join(sorted(nodes))


def _num_nodes(nodes: Collection[object]) -> str:
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}"


def _amounts(names: Iterable[str], resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in names)


def _public_version(node: NodeFacts, package: str) -> str:
    """Return the version without what follows a `+`: CPU and GPU nodes may have different builds."""
    return (node.versions.get(package) or "none").partition("+")[0]
