"""The command line: each command reads a configuration, calls one function, and prints where the result is.

Heavy imports happen inside the commands, so that `hbt --help` answers at once. Exit codes: 0 done, 2 the input or the
environment is wrong, 130 Ctrl-C (143 SIGTERM, 129 SIGHUP), 141 the reader closed the output, 1 anything else.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and end the process with its exit code."""
    try:
        from hbt_ray.cli.entry_point import run

        code = run()
    except KeyboardInterrupt:  # While modules are imported, or a second time while the command ends.
        code = 130
    if code >= 128:
        # Threads of Ray and Arrow still run native code after an interrupt, and some crash while Python ends. All
        # output is written and the Ray session is closed, so the process can end at once.
        os._exit(code)
    sys.exit(code)
