"""Examiners on every node, and one at the driver, asked all at once: who does not answer in time is named."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hbt_ray.doctor.examiner import Examiner
from hbt_ray.doctor.machine import DRIVER

CALLS_AT_ONCE = 4
"""Of one examiner: a folder that hangs does not keep it from answering what else is asked."""

SECOND = ", second rank"


@dataclass(frozen=True, slots=True)
class Answers:
    """Of those who were asked, by name."""

    given: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why there is none."""


def nodes_up() -> dict[str, dict[str, Any]]:
    """Name → what Ray says of a node that is up. The name is the host's, with the node's id where hosts share one."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    hosts = Counter(node["NodeManagerHostname"] for node in nodes)
    return {
        node["NodeManagerHostname"] + f" ({node['NodeID'][:6]})" * (hosts[node["NodeManagerHostname"]] > 1): node
        for node in nodes
    }


class Team:
    """An examiner on each of the nodes; needs a Ray session."""

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        self._nodes, self._here = nodes, Examiner()
        self._there = {name: self._on(name) for name in nodes}

    @property
    def names(self) -> list[str]:
        return list(self._there)

    def leave_out(self, names: Iterable[str]) -> None:
        for name in names:
            _end(self._there.pop(name))

    def ask(
        self,
        method: str,
        arguments: Callable[[str], tuple[Any, ...]] = lambda _: (),
        *,
        seconds: float,
        of: Iterable[str] | None = None,
    ) -> Answers:
        """One question to all, by name of the node; `DRIVER` is the one here. Default: all nodes."""
        names, end = self.names if of is None else list(of), time.monotonic() + seconds
        calls = {name: getattr(self._there[name], method).remote(*arguments(name)) for name in names if name != DRIVER}
        here = [_Aside(getattr(self._here, method), arguments(DRIVER)) for name in names if name == DRIVER]
        if calls:
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=seconds)
        answers = Answers()
        for name, call in [(DRIVER, each) for each in here] + list(calls.items()):
            left = max(0.0, end - time.monotonic())
            try:
                answers.given[name] = call.wait(left) if isinstance(call, _Aside) else ray.get(call, timeout=left)
            except (GetTimeoutError, TimeoutError):
                answers.missing[name] = f"no answer within {seconds:g} s"
            except (RayError, OSError, RuntimeError) as error:
                answers.missing[name] = _reason(error)
        return answers

    def second(self, name: str) -> str:
        """The name of a second examiner on a node."""
        if name + SECOND not in self._there:
            self._there[name + SECOND] = self._on(name)
        return name + SECOND

    def close(self) -> None:
        for examiner in self._there.values():
            _end(examiner)

    def _on(self, name: str) -> Any:
        place = NodeAffinitySchedulingStrategy(self._nodes[name]["NodeID"], soft=False)
        options = {"num_cpus": 0, "max_concurrency": CALLS_AT_ONCE, "scheduling_strategy": place}
        return ray.remote(Examiner).options(**options).remote()


@contextmanager
def gathered(nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[Team]:
    """A team for the length of the block."""
    with sent_by_value():
        team = Team(nodes)
        try:
            yield team
        finally:
            team.close()


@contextmanager
def sent_by_value() -> Iterator[None]:
    """What is pickled in the block carries this package's code along, for nodes that have none or another one."""
    package = sys.modules[__package__]
    cloudpickle.register_pickle_by_value(package)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(package)


class _Aside:
    """A call in a thread that nobody waits for in the end: a dead file system never comes back."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._call = function, arguments
        self._value: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> Any:
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError
        if self._error:
            raise self._error
        return self._value

    def _run(self) -> None:
        function, arguments = self._call
        try:
            self._value = function(*arguments)
        except Exception as error:
            self._error = error


def _end(examiner: Any) -> None:
    with suppress(RayError):
        ray.kill(examiner)


def _reason(error: Exception) -> str:
    """The last line of what Ray makes of an error has the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return lines[-1][:300] if isinstance(error, RayError) else f"{type(error).__name__}: {lines[-1]}"[:300]
