"""Addresses: what no job server of ours answers at is said at once, with what to do."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from hbt_ray.errors import ConfigError, ResourceError
from hbt_ray.job import server
from hbt_ray.job.server import address_of, connect


@contextmanager
def answering(code: int, body: Any) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()


@pytest.mark.parametrize(
    ("given", "variable", "address"),
    [
        (None, None, "http://127.0.0.1:8265"),
        (None, "http://head:8265/", "http://head:8265"),
        ("10.0.0.1:8265", "http://head:8265", "http://10.0.0.1:8265"),
    ],
)
def test_an_address(given: str | None, variable: str | None, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(server.VARIABLE, raising=False)
    if variable:
        monkeypatch.setenv(server.VARIABLE, variable)
    assert address_of(given) == address


@pytest.mark.parametrize(
    ("given", "message"),
    [("ray://head:10001", "jobs go to the head's job server"), ("http://me:word@head:8265", "holds a password")],
)
def test_no_address(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        address_of(given)


def refused(address: str) -> str:
    with pytest.raises(ResourceError) as caught:
        connect(address)
    return str(caught.value)


def test_nobody_there() -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        told = refused(f"http://127.0.0.1:{place.getsockname()[1]}")
    assert "does not answer" in told
    assert "Is the cluster up" in told


def test_who_swallows_packets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "does not answer (timed out)" in refused(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (404, {}, "is no job server of Ray (HTTP 404)"),
        (200, ["a"], "is no job server of Ray"),
        (200, {"ray_version": "2.9.1", "version": "4"}, "runs Ray 2.9.1, and here is "),
    ],
)
def test_someone_else(code: int, body: Any, message: str) -> None:
    with answering(code, body) as address:
        assert message in refused(address)


@pytest.mark.parametrize("value", [None, "http://elsewhere:1"])
def test_rays_variable_is_left_as_it_was(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(server.VARIABLE, raising=False)
    if value:
        monkeypatch.setenv(server.VARIABLE, value)
    with answering(200, {"ray_version": "2.9.1", "version": "4"}) as address:
        refused(address)
    assert os.environ.get(server.VARIABLE) == value
