"""The all-reduce between ranks: who could not take part, and how fast it is."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from hbt_ray.doctor.checks import RankOutcome, check_answers, check_network
from hbt_ray.doctor.probe import NodeProbe
from tests.doctor.nodes import as_tuples


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": "group", "b": "store", "c": "group"}, "b cannot reach a: lost (b)"),
        ({"a": "group", "b": "store", "c": "store"}, "b, c cannot reach a: lost (b, c)"),
        ({"a": "group", "b": "reduce", "c": "group"}, "the ranks on a, c do not reach each other: lost (a, c)"),
        ({"a": "reduce", "b": "reduce", "c": "reduce"}, "the ranks met but could not sum a block: lost (a, b, c)"),
        ({"a": "group", "b": "group", "c": "silent"}, "some ranks did not answer: lost (c)"),
    ],
)
def test_the_ranks_that_came_least_far_are_named(stages: dict[str, str], message: str) -> None:
    outcomes = {name: RankOutcome(stage, "lost") for name, stage in stages.items()}
    ((level, text, remedy),) = as_tuples(check_network("gloo", outcomes))
    assert (level, text) == ("failure", message)
    assert "open all TCP ports" in remedy
    assert "GLOO_SOCKET_IFNAME=eth0" in remedy


def test_bandwidth_is_that_of_the_slowest() -> None:
    ((level, message, _),) = as_tuples(
        check_network("gloo", {"a": RankOutcome("done", "", 0.02), "b": RankOutcome("done", "", 0.04)})
    )
    assert (level, message) == ("ok", "419 MB/s: 2 ranks sum 16 MiB in 40.0 ms")


def test_a_slow_network_is_a_warning() -> None:
    outcomes = {"a": RankOutcome("done", "", 0.1), "b": RankOutcome("done", "", 0.5)}
    ((level, message, remedy),) = as_tuples(check_network("nccl", outcomes))
    assert (level, message) == ("warning", "34 MB/s: 2 ranks sum 16 MiB in 500.0 ms; the slowest is b")
    assert "NCCL_SOCKET_IFNAME" in remedy


def test_a_rank_that_cannot_connect_gives_up_in_time() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        outcome = NodeProbe().all_reduce("gloo", 1, 2, "127.0.0.1", closed.getsockname()[1], "cpu", 1.0)
    assert outcome["stage"] == "store"
    assert outcome["error"]


def test_a_rank_whose_peer_is_missing_gives_up_in_time() -> None:
    rank = NodeProbe()
    port = rank.open_store("127.0.0.1", 1.0)
    outcome: dict[str, Any] = {}
    thread = threading.Thread(
        target=lambda: outcome.update(rank.all_reduce("gloo", 0, 2, "127.0.0.1", port, "cpu", 1.0)), daemon=True
    )
    thread.start()
    thread.join(20)
    assert outcome["stage"] == "group"
    assert "Error" in outcome["error"]


def test_nodes_that_do_not_answer_are_named() -> None:
    ((level, message, remedy),) = as_tuples(check_answers(["a", "b", "c"], {"b": "no answer within 20 s"}))
    assert (level, message) == ("failure", "cannot be examined: no answer within 20 s (b)")
    assert "raylet.out" in remedy
    assert as_tuples(check_answers(["b", "a"], {})) == [("ok", "2 nodes: a, b", "")]
