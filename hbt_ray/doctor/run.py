"""`hbt doctor`: call a probe on every node and at the driver, and pass the results to the checks.

A node that does not answer in time is reported and not called again, so that a hanging node costs a minute at most.
"""

from __future__ import annotations

import secrets
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hbt_ray.doctor import checks
from hbt_ray.doctor.checks import DRIVER, Finding, Level, NodeFacts, RankOutcome
from hbt_ray.doctor.probe import NodeProbe, marker_file
from hbt_ray.errors import ConfigError

ANSWER_SECONDS = 20.0
STORAGE_SECONDS = 7.0
NETWORK_SECONDS = 18.0
SHARED_SECONDS = 20.0
"""Time limit of `check_shared`. A node that is too busy to answer counts as one that sees the folder."""
CONCURRENT_CALLS = 4
"""Calls that a probe runs at once: a folder that hangs does not block its other answers."""


@dataclass(frozen=True)
class Report:
    nodes: list[NodeFacts]
    """The driver, then each node that answered."""
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Answers:
    """Results of one probe method, by node."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """Why a node gave no answer."""


def examine(
    storage: Path,
    *,
    network: bool = True,
    seconds: float = ANSWER_SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Examine every node that is alive. Needs a Ray session.

    Args:
        storage: folder of the runs, by its path on every node.
        network: whether to measure the all-reduce between nodes.
        seconds: time limit for a node's facts.
        progress: is called with a line before each phase.
    """
    alive = alive_nodes()
    with _probes(alive) as pool:
        progress(f"asking {', '.join(alive)}")
        answers = pool.ask("facts", seconds=seconds, names=[DRIVER, *alive])
        pool.drop(name for name in answers.errors if name != DRIVER)
        progress(f"writing to {storage} from everywhere")
        at_storage = _probe_storage(str(storage), pool)
        driver = NodeFacts(DRIVER, **answers.values.get(DRIVER, {}), **at_storage[DRIVER])
        # Clocks are compared one node at a time: concurrent answers would lengthen the round trip.
        nodes = [
            _node_facts(name, alive[name], {**answers.values[name], **at_storage[name], **_clock(pool, name)})
            for name in pool.names
        ]
        findings = checks.check_answers(alive, answers.errors)
        if nodes:
            findings += [*checks.check_nodes(nodes, driver), *checks.check_storage(str(storage), driver, nodes)]
        if network and nodes:
            progress("summing blocks over the network")
            findings += _test_network(pool, nodes)
    return Report([driver, *nodes], findings)


def check_shared(folder: Path) -> None:
    """Check that all nodes of the cluster see a folder of the driver; with one node nothing is done. Needs a session.

    Raises:
        ConfigError: some do not.
    """
    alive, token = alive_nodes(), secrets.token_hex(8)
    if len(alive) < 2:
        return
    with _probes(alive) as pool, marker_file(str(folder), token):
        answers = pool.ask("sees_driver", lambda _: (str(folder), token), seconds=SHARED_SECONDS)
    if blind := sorted(name for name, visible in answers.values.items() if not visible):
        raise ConfigError(
            f"storage_path: {folder} is a folder of {socket.gethostname()}, where the driver runs, and {len(blind)} of "
            f"{len(alive)} nodes do not see what is written there: {', '.join(blind)}. Checkpoints of workers there "
            "would be lost; set storage_path to a file system that all nodes have, such as /mnt/hbt/runs",
            code="STORAGE_NOT_SHARED",
        )


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
            names: nodes to call, `DRIVER` for this process; all nodes by default.
        """
        answers, deadline = Answers(), time.monotonic() + seconds  # One deadline, as all calls run at the same time.
        calls: dict[str, Future[Any]] = {
            name: _daemon_call(getattr(self._driver, method), *arguments(name))
            if name == DRIVER
            else getattr(self._actors[name], method).remote(*arguments(name)).future()
            for name in (self.names if names is None else names)
        }
        for name, call in calls.items():
            try:
                answers.values[name] = call.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                answers.errors[name] = f"no answer within {seconds:g} s"
            except (RayError, OSError, RuntimeError) as error:
                answers.errors[name] = _reason(error)
        return answers

    def drop(self, names: Iterable[str]) -> None:
        for name in list(names):
            with suppress(RayError):
                ray.kill(self._actors.pop(name))

    def _start(self, node_id: str) -> Any:
        # `soft=False`: never on another node. No CPUs: the probe must start on a node that is fully reserved.
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


def _daemon_call(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call in a daemon thread. The process can end while it hangs, as a dead file system never answers."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


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


def _clock(pool: ProbePool, name: str) -> dict[str, float]:
    """Compare a node's clock with the driver's."""
    sent = time.time()
    answer = pool.ask("now", seconds=1, names=[name]).values.get(name)
    received = time.time()
    if answer is None:
        return {}
    return {"clock_offset": answer - (sent + received) / 2, "clock_error": (received - sent) / 2}


def _probe_storage(folder: str, pool: ProbePool) -> dict[str, dict[str, Any]]:
    """Let each machine write to the storage folder and look for the driver's marker there, by name of the machine."""
    arguments = (folder, secrets.token_hex(6))
    # The driver's marker must exist before the nodes look for it.
    driver = pool.ask("hold_marker", lambda _: arguments, seconds=STORAGE_SECONDS, names=[DRIVER])
    nodes = pool.ask("probe_storage", lambda _: arguments, seconds=STORAGE_SECONDS)
    pool.ask("release_marker", seconds=2, names=[DRIVER])
    errors = {name: {"storage_error": error} for name, error in {**driver.errors, **nodes.errors}.items()}
    return {**driver.values, **nodes.values, **errors}


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
        seconds=NETWORK_SECONDS + 2,  # Longer than the ranks' own timeout, so that they can report their stage.
        names=names,
    )
    silent = {name: RankOutcome("silent", error) for name, error in answers.errors.items()}
    return {name: silent.get(name) or RankOutcome(**answers.values[name]) for name in names}
