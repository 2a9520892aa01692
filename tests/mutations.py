"""Damage of files, for tests of those who read them."""

from __future__ import annotations

import random
from collections.abc import Iterator


def mutations(content: bytes, number: int, seed: int = 0) -> Iterator[bytes]:
    """So many damaged versions of a file: one byte changed, one bit changed, or the end cut off.

    Half of the changes are near the end, where many formats keep their structure.
    """
    rng = random.Random(seed)
    while number:
        changed, near_end = bytearray(content), rng.random() < 0.5
        place = rng.randrange(max(0, len(content) - 4096) if near_end else 0, len(content))
        kind = rng.choice(["byte", "bit", "cut"])
        if kind == "cut":
            del changed[place:]
        elif kind == "bit":
            changed[place] ^= 1 << rng.randrange(8)
        else:
            changed[place] = rng.randrange(256)
        if changed != content:
            number -= 1
            yield bytes(changed)
