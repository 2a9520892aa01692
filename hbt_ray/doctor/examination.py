"""The whole examination: the nodes are asked, and the checks make findings of what they say."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from hbt_ray.doctor.accelerators import check_gpus
from hbt_ray.doctor.clocks import Reading, check_clocks
from hbt_ray.doctor.exposure import check_listening
from hbt_ray.doctor.finding import Finding
from hbt_ray.doctor.machine import DRIVER, Machine
from hbt_ray.doctor.memory import check_memory, check_open_files, check_shared_memory
from hbt_ray.doctor.network import Meeting, check_network
from hbt_ray.doctor.presence import check_presence, check_room
from hbt_ray.doctor.storage import Sight, check_storage
from hbt_ray.doctor.team import Team, gathered, nodes_up
from hbt_ray.doctor.versions import check_faiss, check_torch, check_versions
from hbt_ray.train.workers import WorkersConfig

ANSWER_SECONDS = 20.0
CLOCK_SECONDS = 4.0
STORAGE_SECONDS = 7.0
MEETING_SECONDS = 18.0
"""All together are about a minute where something hangs at every turn: whoever keeps one waiting is not asked again."""


@dataclass(frozen=True)
class Examination:
    machines: list[Machine]
    """The driver, and the nodes that answered."""
    findings: list[Finding]


def examine(
    storage: Path,
    *,
    network: bool = True,
    workers: WorkersConfig | None = None,
    seconds: float = ANSWER_SECONDS,
    tell: Callable[[str], None] = lambda _: None,
) -> Examination:
    """Ask every node that is up; needs a Ray session.

    Args:
        storage: the folder of the runs, as it is called on every node.
        network: measure the all-reduce between nodes.
        workers: those of a run that is to have room.
        seconds: how long a node may take to say what it has.
        tell: told what is done next.
    """
    nodes = nodes_up()
    with gathered(nodes) as team:
        tell(f"asking {', '.join(nodes)}")
        looks = team.ask("look", seconds=seconds, of=[DRIVER, *nodes])
        team.leave_out(name for name in looks.missing if name != DRIVER)
        driver = Machine(DRIVER, **looks.given.get(DRIVER, {}))
        machines = [_machine(name, nodes[name], looks.given[name]) for name in team.names]
        findings = [
            *check_presence(nodes, looks.missing),
            *(check_versions(machines, driver) if machines else ()),
            *check_torch([driver, *machines]), *check_faiss(machines), *check_gpus(machines),
            *(check_room(workers, ray.cluster_resources()) if workers else ()),
            *check_shared_memory(machines), *check_memory(machines), *check_open_files(machines),
            *check_clocks(_clocks(team)),
            *check_listening(machines),
        ]  # fmt: skip
        tell(f"writing to {storage} from everywhere")
        findings += check_storage(str(storage), _storage(str(storage), team))
        if network and machines:
            tell("summing blocks over the network")
            findings += _network(team, {each.name: each for each in machines})
    return Examination([driver, *machines], findings)


def _machine(name: str, node: Mapping[str, Any], look: Mapping[str, Any]) -> Machine:
    counted = node["Resources"]
    return Machine(
        name,
        node["NodeID"],
        node["NodeManagerAddress"],
        ray_gpus=counted.get("GPU", 0),
        object_store_bytes=int(counted.get("object_store_memory", 0)),
        **look,
    )


def _clocks(team: Team) -> dict[str, Reading]:
    """The surest of some readings of each node."""
    readings, end = {}, time.monotonic() + CLOCK_SECONDS
    for name in team.names:
        taken = [reading for _ in range(3) if (reading := _reading(team, name, end)) is not None]
        if taken:
            readings[name] = min(taken, key=lambda reading: reading.trip)
    return readings


def _reading(team: Team, name: str, end: float) -> Reading | None:
    asked = time.time()
    told = team.ask("now", seconds=max(0.0, min(1.0, end - time.monotonic())), of=[name]).given
    return Reading(asked, told[name], time.time()) if told else None


def _storage(folder: str, team: Team) -> dict[str, Sight]:
    """Everyone writes, then everyone reads, then all is taken away."""
    everyone, token = [DRIVER, *team.names], uuid.uuid4().hex[:12]
    number = {name: place for place, name in enumerate(everyone)}
    wrote = team.ask("write_mark", lambda name: (folder, token, number[name]), seconds=STORAGE_SECONDS, of=everyone)
    writers = list(wrote.given)
    wanted = [number[name] for name in writers]
    read = team.ask("read_marks", lambda _: (folder, token, wanted), seconds=STORAGE_SECONDS, of=writers)
    for _ in range(2):  # Whoever made folders can remove them once all marks are gone.
        team.ask(
            "remove_marks", lambda name: (folder, token, number[name], wrote.given[name][0]), seconds=2, of=read.given
        )
    sights = {name: Sight(error) for name, error in {**wrote.missing, **read.missing}.items()}
    for name, seen in read.given.items():
        free = wrote.given[name][1]
        sights[name] = Sight(free_bytes=free, seen=frozenset(other for other in writers if number[other] in seen))
    return {name: sights[name] for name in everyone}


def _network(team: Team, machines: Mapping[str, Machine]) -> list[Finding]:
    """With gloo on all nodes, and where that went well with NCCL on those with GPUs."""
    findings = check_network("gloo", _meet(team, machines, "gloo"))
    on_gpus = {name: each for name, each in machines.items() if each.torch_gpus}
    if on_gpus and all(finding.level != "failure" for finding in findings):
        findings += check_network("nccl", _meet(team, on_gpus, "nccl"))
    return findings


def _meet(team: Team, machines: Mapping[str, Machine], backend: str) -> dict[str, Meeting]:
    """One rank on each of the nodes; two where there is only one. NCCL wants a GPU for each."""
    ranks = list(machines)
    if len(ranks) == 1 and (backend == "gloo" or machines[ranks[0]].torch_gpus > 1):
        ranks.append(team.second(ranks[0]))
    first, address = ranks[0], machines[ranks[0]].address
    opened = team.ask("open_store", lambda _: (address, MEETING_SECONDS), seconds=MEETING_SECONDS / 3, of=[first])
    if opened.missing:
        return {first: Meeting("silent", opened.missing[first])}

    def part(name: str) -> tuple[Any, ...]:
        number = ranks.index(name)
        device = "cpu" if backend == "gloo" else f"cuda:{int(name not in machines)}"
        return backend, number, len(ranks), address, opened.given[first], device, MEETING_SECONDS

    said = team.ask("all_reduce", part, seconds=MEETING_SECONDS + 2, of=ranks)
    return {
        name: Meeting(**said.given[name]) if name in said.given else Meeting("silent", said.missing[name])
        for name in ranks
    }
