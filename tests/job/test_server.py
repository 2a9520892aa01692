"""An address where no usable job server answers is reported at once, with the remedy."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from hbt_ray.cli import submit
from hbt_ray.cli.submit import ADDRESS_VARIABLE, check_job_server, job_server_address
from hbt_ray.errors import ConfigError, ResourceError


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
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    if variable:
        monkeypatch.setenv(ADDRESS_VARIABLE, variable)
    assert job_server_address(given) == address


@pytest.mark.parametrize("given", ["ray://head:10001", "http://me:word@head:8265"])
def test_addresses_that_are_refused(given: str) -> None:
    with pytest.raises(ConfigError) as error:
        job_server_address(given)
    assert error.value.code == "JOB_ADDRESS"
    assert "word" not in str(error.value).replace("password", "")


def refusal(address: str, code: str) -> str:
    with pytest.raises(ResourceError) as error:
        check_job_server(address)
    assert error.value.code == code
    return str(error.value)


def test_a_closed_port() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "Check that the cluster is up" in refusal(f"http://127.0.0.1:{closed.getsockname()[1]}", "JOB_SERVER")


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "ANSWER_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "does not answer (timed out)" in refusal(f"http://127.0.0.1:{silent.getsockname()[1]}", "JOB_SERVER")


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (404, {}, "JOB_SERVER", "is not a job server of Ray (HTTP 404)"),
        (200, ["a"], "JOB_SERVER", "is not a job server of Ray"),
        (200, {"ray_version": "2.9.1", "version": "4"}, "RAY_VERSION", "runs Ray 2.9.1, but this machine has "),
    ],
)
def test_a_server_that_cannot_be_used(
    status: int, body: Any, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://elsewhere:1")
    with answering(status, body) as address:
        assert message in refusal(address, code)
