"""The files of `cluster/`, and the pins that they must agree with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
PYTHON = "3.11"
"""The least that pyproject.toml allows, and what all nodes run."""


def image(target: str) -> str:
    """The tag says all that nodes must have in common."""
    return f"registry.example.com/hbt-ray:{PROJECT['version']}-ray{PINS['ray']}-py{PYTHON.replace('.', '')}-{target}"


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))
