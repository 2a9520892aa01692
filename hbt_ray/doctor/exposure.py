"""Who can reach the cluster: the addresses that its processes listen on, and whether they ask for a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hbt_ray.doctor.finding import Finding, Level, by_value
from hbt_ray.doctor.machine import Machine

_LOOPBACK = ("127.", "::1")


def check_listening(machines: Sequence[Machine]) -> list[Finding]:
    """Ports that other machines may reach are guarded by a token."""
    known = [each for each in machines if each.listening]
    if not known:
        return []
    told = f"listening on {by_value({each.name: _ports(each.listening) for each in known})}"
    if all(address.startswith(_LOOPBACK) for each in known for address in each.listening):
        return [Finding("access", Level.OK, f"{told}, which only this machine can reach")]
    if unguarded := {each.name: "no token is asked for" for each in known if not each.asks_token}:
        remedy = (
            "whoever reaches these ports can run code: set RAY_AUTH_MODE=token, with one token, for all nodes and "
            "commands, and let no one else reach the ports"
        )
        return [Finding("access", Level.WARNING, f"{told}; {by_value(unguarded)}", remedy)]
    return [Finding("access", Level.OK, f"{told}; a token is asked for")]


def _ports(listening: Mapping[str, int]) -> str:
    return ", ".join(f"{address}: {count} port{'s' * (count > 1)}" for address, count in sorted(listening.items()))
