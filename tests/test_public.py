"""The public names are there, and importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hbt_ray


@pytest.mark.parametrize("name", hbt_ray.__all__)
def test_public_names_exist_and_say_what_they_are(name: str) -> None:
    assert getattr(hbt_ray, name).__doc__


def test_other_names_do_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Plam'"):
        _ = hbt_ray.Plam


@pytest.mark.parametrize("module", ["hbt_ray", "hbt_ray.cli"])
def test_imports_are_light(module: str) -> None:
    heavy = "{'torch', 'ray', 'transformers', 'faiss', 'pyarrow', 'altair', 'vl_convert'}"
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
