"""The command line: each command reads a configuration, calls one function, and says where the result lies.

Heavy imports happen inside the commands, so that `hbt --help` answers at once. Exit codes: 0 done, 2 the input is
wrong, 1 anything else.
"""

from __future__ import annotations

import sys

from hbt_ray.cli import data, doctoring, indexing, judging, submitting, training, tuning
from hbt_ray.cli.app import app
from hbt_ray.errors import HbtError

__all__ = ["app", "data", "doctoring", "indexing", "judging", "main", "submitting", "training", "tuning"]


def main() -> None:
    """Run a command; errors that are ours end in one line, not in a traceback."""
    try:
        app(standalone_mode=True)
    except HbtError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
