"""A server with the interface of S3 on the loopback interface, and a proxy before it that injects faults."""

from __future__ import annotations

import http.client
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hbt_ray.storage import ObjectPath

START_SECONDS = 60.0


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[int]:
    """Run moto's S3 in a process of its own; the port that it listens on at this address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the server has ended"
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


def uri(port: int, path: str, host: str = "127.0.0.1") -> str:
    """The URI of a file of the server, with credentials, which Ray's processes do not have in their environment."""
    return f"s3://key:secret@{path}?endpoint_override={host}:{port}&scheme=http&region=us-east-1"


def new_bucket(port: int) -> ObjectPath:
    """A new bucket of the server."""
    name = f"bucket-{secrets.token_hex(4)}"
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/{name}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=key/x/us-east-1/s3/x"})
    assert connection.getresponse().status == 200
    return ObjectPath.parse(uri(port, name))


Answer = tuple[int, str]
"""Status and body."""


class FaultProxy:
    """Passes requests on to a server, except those for which `fault` returns an answer or closes the connection."""

    def __init__(self, port: int) -> None:
        self.fault: Callable[[str, str, int], Answer | None] = lambda method, path, size: None
        """Called with method, path and size of each request; returns the answer to give, or None to pass it on."""
        self.requests: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self._body()
                proxy.requests.append((self.command, self.path))
                answer = proxy.fault(self.command, self.path, len(body))
                if answer is not None:
                    status, text = answer
                    if status == 0:  # The connection is cut.
                        self.close_connection = True
                        return
                    self._reply(status, [], text.encode())
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
                skipped = ("transfer-encoding", "content-length", "expect", "connection")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                self._reply(response.status, response.getheaders(), response.read())

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                chunks = []
                while size := int(self.rfile.readline().partition(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(chunks)

            def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                length = str(len(content))
                for name, value in headers:
                    if name.lower() == "content-length" and self.command == "HEAD":
                        length = value
                    elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def slow_down(method: str, path: str, size: int) -> Answer:
    """The answer of a store that throttles."""
    return 503, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def behind(proxy: FaultProxy, bucket: ObjectPath) -> ObjectPath:
    """The same bucket, by way of a proxy."""
    return ObjectPath.parse(uri(proxy.port, bucket.bucket.partition("?")[0].rpartition("@")[2]))
