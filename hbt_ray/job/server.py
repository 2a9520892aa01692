"""The job server of a cluster: where it is, whether it answers, and whether it is one that this machine can talk to."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hbt_ray.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

VARIABLE = "RAY_API_SERVER_ADDRESS"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PATIENCE_SECONDS = 5.0


def address_of(given: str | None) -> str:
    """What was given, else RAY_API_SERVER_ADDRESS, else this machine's.

    Raises:
        ConfigError: it is no address of a job server.
    """
    address = (given or os.environ.get(VARIABLE) or DEFAULT_ADDRESS).rstrip("/")
    if "://" not in address:
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"{address}: jobs go to the head's job server, such as http://HEAD:8265; see `ray dashboard`")
    if "@" in address:
        raise ConfigError("the address holds a password, which would stand in logs; use a token (RAY_AUTH_MODE=token)")
    return address


def connect(address: str) -> JobSubmissionClient:
    """A client of a server that answers, takes our token and runs our version of Ray.

    Raises:
        ResourceError: not so; with what to do.
    """
    try:
        import aiohttp  # noqa: F401
        import ray
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ResourceError(f"jobs need the cluster extra: pip install 'hbt-ray[cluster]' ({error})") from None
    _probe(address)
    _hush()
    try:
        with _only(address):
            client = JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ResourceError(_about_tokens(address, str(error))) from None
    except (ConnectionError, RuntimeError) as error:
        raise ResourceError(f"{address}: {error}") from None
    theirs = client._server_ray_version
    if theirs != ray.__version__:
        raise ResourceError(
            f"{address} runs Ray {theirs}, and here is {ray.__version__}; both and all nodes must be the same: pip "
            f"install 'ray[default]=={theirs}' here, or use an image of the cluster with {ray.__version__}"
        )
    return client


def _probe(address: str) -> None:
    """Ray's client waits without end for an address that swallows packets."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=PATIENCE_SECONDS) as answer:
            json.load(answer)["ray_version"]
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # Of tokens Ray's client tells.
            raise ResourceError(f"{address} answers, but is no job server of Ray (HTTP {error.code})") from None
    except OSError as error:
        raise ResourceError(
            f"{address} does not answer ({getattr(error, 'reason', error)}). Is the cluster up, and is `ray dashboard "
            f"CLUSTER.yaml` or `kubectl port-forward` running? {VARIABLE} or --address says where the job server is"
        ) from None
    except (KeyError, TypeError, ValueError):
        raise ResourceError(
            f"{address} answers, but is no job server of Ray; {VARIABLE} or --address says it"
        ) from None


def _about_tokens(address: str, error: str) -> str:
    advice = "in ~/.ray/auth_token, in the file that RAY_AUTH_TOKEN_PATH names, or in RAY_AUTH_TOKEN"
    if "Invalid" in error:
        return f"{address} does not take this token; put that of the cluster {advice}"
    return f"{address} asks for a token and none was given; set RAY_AUTH_MODE=token, with the cluster's token {advice}"


@contextmanager
def _only(address: str) -> Iterator[None]:
    """Ray lets its environment variables win over the address that is given."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = address
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def _hush() -> None:
    """Ray tells of every upload and every connection."""
    for name in (
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
        "_private.runtime_env.working_dir",
    ):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
