"""The all-reduce between ranks: who could not take part, and how fast it is."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from hbt_ray.doctor.network import Meeting, check_network
from hbt_ray.doctor.presence import check_presence, check_room
from hbt_ray.doctor.ranks import Rank
from hbt_ray.train.workers import WorkersConfig
from tests.doctor.machines import said


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ({"a": "group", "b": "store", "c": "group"}, "b cannot reach a: lost (b)"),
        ({"a": "group", "b": "store", "c": "store"}, "b, c cannot reach a: lost (b, c)"),
        ({"a": "group", "b": "reduce", "c": "group"}, "the ranks on a, c do not reach each other: lost (a, c)"),
        ({"a": "reduce", "b": "reduce", "c": "reduce"}, "the ranks met and could not sum a block: lost (a, b, c)"),
        ({"a": "group", "b": "group", "c": "silent"}, "not all ranks answered: lost (c)"),
    ],
)
def test_those_who_came_least_far_are_named(stages: dict[str, str], told: str) -> None:
    meetings = {name: Meeting(stage, "lost") for name, stage in stages.items()}
    ((level, found, remedy),) = said(check_network("gloo", meetings))
    assert (level, found) == ("failure", told)
    assert "open all TCP ports" in remedy
    assert "GLOO_SOCKET_IFNAME=eth0" in remedy


def test_bandwidth_is_that_of_the_slowest() -> None:
    ((level, told, _),) = said(check_network("gloo", {"a": Meeting("done", "", 0.02), "b": Meeting("done", "", 0.04)}))
    assert (level, told) == ("ok", "419 MB/s: 2 ranks sum 16 MiB in 40.0 ms")


def test_a_slow_network_is_a_warning() -> None:
    meetings = {"a": Meeting("done", "", 0.1), "b": Meeting("done", "", 0.5)}
    ((level, told, remedy),) = said(check_network("nccl", meetings))
    assert (level, told) == ("warning", "34 MB/s: 2 ranks sum 16 MiB in 500.0 ms; the slowest is b")
    assert "NCCL_SOCKET_IFNAME" in remedy


def test_a_rank_that_cannot_connect_says_so_in_time() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        said_so = Rank().all_reduce("gloo", 1, 2, "127.0.0.1", closed.getsockname()[1], "cpu", 1.0)
    assert said_so["stage"] == "store"
    assert said_so["error"]


def test_a_rank_that_waits_in_vain_says_so_in_time() -> None:
    rank = Rank()
    port = rank.open_store("127.0.0.1", 1.0)
    said_so: dict[str, Any] = {}
    thread = threading.Thread(
        target=lambda: said_so.update(rank.all_reduce("gloo", 0, 2, "127.0.0.1", port, "cpu", 1.0)), daemon=True
    )
    thread.start()
    thread.join(20)
    assert said_so["stage"] == "group"
    assert "Error" in said_so["error"]


def test_nodes_that_do_not_answer_are_named() -> None:
    ((level, told, remedy),) = said(check_presence(["a", "b", "c"], {"b": "no answer within 20 s"}))
    assert (level, told) == ("failure", "cannot be examined: no answer within 20 s (b)")
    assert "raylet.out" in remedy
    assert said(check_presence(["b", "a"], {})) == [("ok", "2 nodes: a, b", "")]


@pytest.mark.parametrize(
    ("workers", "have", "told", "remedy"),
    [
        (
            WorkersConfig(count=2, gpu=True),
            {"CPU": 8},
            "2 workers need 2 GPU; the cluster has 0 GPU",
            "workers.gpu=false",
        ),
        (
            WorkersConfig(count=4, gpu=True),
            {"CPU": 8, "GPU": 2},
            "4 workers need 4 GPU; the cluster has 2 GPU",
            "lower workers.count",
        ),
        (WorkersConfig(count=9), {"CPU": 8}, "9 workers need 9 CPU; the cluster has 8 CPU", "add nodes"),
    ],
)
def test_a_run_without_room(workers: WorkersConfig, have: dict[str, float], told: str, remedy: str) -> None:
    ((level, found, what),) = said(check_room(workers, have))
    assert (level, found) == ("failure", told)
    assert remedy in what


def test_a_run_with_room() -> None:
    ((level, told, _),) = said(check_room(WorkersConfig(count=(2, 8), gpu=True), {"CPU": 8, "GPU": 2}))
    assert (level, told) == ("ok", "room for 2 to 8 workers, each with 1 CPU, 1 GPU")
