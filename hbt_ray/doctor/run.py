"""`hbt doctor`: asks a probe on every node, and one at the driver, and passes the answers to the checks.

A node that does not answer in time is named and not asked again, so that a hanging node costs a minute at most.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hbt_ray.doctor import checks
from hbt_ray.doctor.checks import DRIVER, ClockReading, Finding, Level, NodeFacts, RankOutcome, StorageAccess
from hbt_ray.doctor.probe import NodeProbe
from hbt_ray.train.config import WorkersConfig

ANSWER_SECONDS = 20.0
CLOCK_SECONDS = 4.0
STORAGE_SECONDS = 7.0
NETWORK_SECONDS = 18.0
CONCURRENT_CALLS = 4
"""Calls that a probe runs at once: a folder that hangs does not block its other answers."""


@dataclass(frozen=True)
class Report:
    nodes: list[NodeFacts]
    """The driver, then each node that answered."""
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to one question, by node."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """Why a node gave no answer."""


def examine(
    storage: Path,
    *,
    network: bool = True,
    workers: WorkersConfig | None = None,
    seconds: float = ANSWER_SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Examine every node that is alive. Needs a Ray session.

    Args:
        storage: folder of the runs, by its path on every node.
        network: whether to measure the all-reduce between nodes.
        workers: workers of a run that the cluster must be able to hold.
        seconds: time limit for a node's facts.
        progress: is called with a line before each phase.
    """
    alive = alive_nodes()
    with _probes(alive) as pool:
        progress(f"asking {', '.join(alive)}")
        answers = pool.ask("facts", seconds=seconds, names=[DRIVER, *alive])
        pool.drop(name for name in answers.errors if name != DRIVER)
        driver = NodeFacts(DRIVER, **answers.values.get(DRIVER, {}))
        nodes = [_node_facts(name, alive[name], answers.values[name]) for name in pool.names]
        findings = [
            *checks.check_answers(alive, answers.errors),
            *(checks.check_versions(nodes, driver) if nodes else ()),
            *checks.check_torch([driver, *nodes]), *checks.check_faiss(nodes), *checks.check_gpus(nodes),
            *(checks.check_resources(workers, ray.cluster_resources()) if workers else ()),
            *checks.check_shared_memory(nodes), *checks.check_memory(nodes), *checks.check_open_files(nodes),
            *checks.check_clocks(_read_clocks(pool)),
            *checks.check_access(nodes),
        ]  # fmt: skip
        progress(f"writing to {storage} from everywhere")
        findings += checks.check_storage(str(storage), _test_storage(str(storage), pool))
        if network and nodes:
            progress("summing blocks over the network")
            findings += _test_network(pool, nodes)
    return Report([driver, *nodes], findings)


def alive_nodes() -> dict[str, dict[str, Any]]:
    """Return name → Ray's description of each node that is alive. Hosts of one name get the node id appended."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    hosts = Counter(node["NodeManagerHostname"] for node in nodes)
    return {
        node["NodeManagerHostname"] + f" ({node['NodeID'][:6]})" * (hosts[node["NodeManagerHostname"]] > 1): node
        for node in nodes
    }


class ProbePool:
    """A probe on each node, as a Ray actor, and one in this process for the driver."""

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        self._driver = NodeProbe()
        self._actors = {name: self._start(node["NodeID"]) for name, node in nodes.items()}

    @property
    def names(self) -> list[str]:
        return list(self._actors)

    def ask(
        self,
        method: str,
        arguments: Callable[[str], tuple[Any, ...]] = lambda _: (),
        *,
        seconds: float,
        names: Iterable[str] | None = None,
    ) -> Answers:
        """Call one method of each probe at the same time.

        Args:
            arguments: node's name → arguments of its call.
            names: nodes to ask, `DRIVER` for this process; all nodes by default.
        """
        asked, deadline = self.names if names is None else list(names), time.monotonic() + seconds
        remote = {
            name: getattr(self._actors[name], method).remote(*arguments(name)) for name in asked if name != DRIVER
        }
        local = {name: _DaemonCall(getattr(self._driver, method), arguments(name)) for name in asked if name == DRIVER}
        answers = Answers()
        for name, call in {**local, **remote}.items():
            left = max(0.0, deadline - time.monotonic())
            try:
                answers.values[name] = (
                    call.result(left) if isinstance(call, _DaemonCall) else ray.get(call, timeout=left)
                )
            except (GetTimeoutError, TimeoutError):
                answers.errors[name] = f"no answer within {seconds:g} s"
            except (RayError, OSError, RuntimeError) as error:
                answers.errors[name] = _reason(error)
        return answers

    def drop(self, names: Iterable[str]) -> None:
        for name in list(names):
            with suppress(RayError):
                ray.kill(self._actors.pop(name))

    def _start(self, node_id: str) -> Any:
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        options = {"num_cpus": 0, "max_concurrency": CONCURRENT_CALLS, "scheduling_strategy": strategy}
        return ray.remote(NodeProbe).options(**options).remote()


@contextmanager
def _probes(nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[ProbePool]:
    with pickled_by_value():
        pool = ProbePool(nodes)
        try:
            yield pool
        finally:
            pool.drop(pool.names)


@contextmanager
def pickled_by_value() -> Iterator[None]:
    """Pickle the probe with its code, for nodes that lack hbt_ray or have another version of it."""
    module = sys.modules[NodeProbe.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class _DaemonCall:
    """A call in a daemon thread. The process can end while it hangs, as a dead file system never answers."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments = function, arguments
        self._value: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, timeout: float) -> Any:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError
        if self._error:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._function(*self._arguments)
        except Exception as error:
            self._error = error


def _reason(error: Exception) -> str:
    """Return the last line: in Ray's errors the earlier lines are tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return lines[-1][:300] if isinstance(error, RayError) else f"{type(error).__name__}: {lines[-1]}"[:300]


def _node_facts(name: str, node: Mapping[str, Any], facts: Mapping[str, Any]) -> NodeFacts:
    resources = node["Resources"]
    return NodeFacts(
        name,
        node["NodeID"],
        node["NodeManagerAddress"],
        ray_gpus=resources.get("GPU", 0),
        object_store_bytes=int(resources.get("object_store_memory", 0)),
        **facts,
    )


def _read_clocks(pool: ProbePool) -> dict[str, ClockReading]:
    """Return the reading with the shortest round trip of three, for each node."""
    best, deadline = {}, time.monotonic() + CLOCK_SECONDS
    for name in pool.names:
        readings = []
        for _ in range(3):
            sent = time.time()
            left = max(0.0, min(1.0, deadline - time.monotonic()))
            if answer := pool.ask("now", seconds=left, names=[name]).values:
                readings.append(ClockReading(sent, answer[name], time.time()))
        if readings:
            best[name] = min(readings, key=lambda reading: reading.round_trip)
    return best


def _test_storage(folder: str, pool: ProbePool) -> dict[str, StorageAccess]:
    """Each machine writes a marker, each reads the markers of the others, then all markers are removed."""
    names, token = [DRIVER, *pool.names], uuid.uuid4().hex[:12]
    number = {name: index for index, name in enumerate(names)}
    written = pool.ask("write_marker", lambda name: (folder, token, number[name]), seconds=STORAGE_SECONDS, names=names)
    writers = list(written.values)
    numbers = [number[name] for name in writers]
    read = pool.ask("read_markers", lambda _: (folder, token, numbers), seconds=STORAGE_SECONDS, names=writers)
    for _ in range(2):  # A folder can only be removed once it holds no marker of any machine.
        pool.ask(
            "remove_marker",
            lambda name: (folder, token, number[name], written.values[name][0]),
            seconds=2,
            names=read.values,
        )
    accesses = {name: StorageAccess(error) for name, error in {**written.errors, **read.errors}.items()}
    for name, visible in read.values.items():
        names_seen = frozenset(other for other in writers if number[other] in visible)
        accesses[name] = StorageAccess(free_bytes=written.values[name][1], visible=names_seen)
    return {name: accesses[name] for name in names}


def _test_network(pool: ProbePool, nodes: list[NodeFacts]) -> list[Finding]:
    """Test gloo between all nodes and, if that works, NCCL between those with GPUs."""
    findings = checks.check_network("gloo", _all_reduce(pool, nodes, "gloo", "cpu"))
    gpu_nodes = [node for node in nodes if node.torch_gpus]
    if gpu_nodes and all(finding.level is not Level.FAILURE for finding in findings):
        findings += checks.check_network("nccl", _all_reduce(pool, gpu_nodes, "nccl", "cuda:0"))
    return findings


def _all_reduce(pool: ProbePool, nodes: list[NodeFacts], backend: str, device: str) -> dict[str, RankOutcome]:
    """Run one rank on each node."""
    names, address = [node.name for node in nodes], nodes[0].address
    store = pool.ask("open_store", lambda _: (address, NETWORK_SECONDS), seconds=NETWORK_SECONDS / 3, names=names[:1])
    if store.errors:
        return {names[0]: RankOutcome("silent", store.errors[names[0]])}
    port = store.values[names[0]]
    answers = pool.ask(
        "all_reduce",
        lambda name: (backend, names.index(name), len(names), address, port, device, NETWORK_SECONDS),
        seconds=NETWORK_SECONDS + 2,
        names=names,
    )
    silent = {name: RankOutcome("silent", error) for name, error in answers.errors.items()}
    return {name: silent.get(name) or RankOutcome(**answers.values[name]) for name in names}
