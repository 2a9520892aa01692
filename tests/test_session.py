"""Sessions: what keeps a command from joining a cluster is told by its cause."""

from __future__ import annotations

import pytest
import ray

from hbt_ray import session as sessions
from hbt_ray.errors import ResourceError
from hbt_ray.session import session

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.12.1
This process on Ray was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""
NO_TOKEN = "RPC error: InvalidAuthToken: Authentication token is missing or incorrect"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError(MISMATCH), r"runs other versions than this machine \(Version mismatch: .*3\.12\.1.*same"),
        (
            ray.exceptions.AuthenticationError(NO_TOKEN),
            r"does not answer \(RPC error: .*set RAY_AUTH_MODE=token",
        ),
        (
            ConnectionError("Could not find any running Ray instance"),
            r"does not answer \(Could not find .*cluster runs",
        ),
    ],
)
def test_a_cluster_that_cannot_be_joined(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(sessions, "_knock", lambda _: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ResourceError, match=f"RAY_ADDRESS=10.0.0.1:6379 {message}") as caught, session():
        pass
    assert "\n" not in str(caught.value)
