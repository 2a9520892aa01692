"""Watchdog of a rank: if a step takes too long, it reports where the rank is stuck and ends the process.

A stuck rank blocks all others at the next collective, so the watchdogs of all ranks expire at about the same moment,
and each reports where its rank was. The one that was not waiting for the others is to blame. Ray Train ends all ranks
once one has ended, so each waits until the others had time to report.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Longest wait for the reports of other ranks: on a machine under load a step starts later."""


class Watchdog:
    """Watches the thread that makes it, from a thread of its own.

    Args:
        timeout_seconds: longest time from `start` to the next `start` or `pause`.
        report: called in the watchdog's thread with the step and the place in the program.
        exit_process: called after `report`; ends the process.
    """

    def __init__(
        self,
        timeout_seconds: float,
        report: Callable[[int, str], None],
        exit_process: Callable[[], None] = lambda: os._exit(1),  # sys.exit would end the watchdog's thread alone.
    ) -> None:
        self._timeout, self._report, self._exit_process = timeout_seconds, report, exit_process
        self._watched = threading.current_thread()
        self._deadline: float | None = None
        self._step = -1
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def start(self, step: int) -> None:
        """Start the timer of a step, or restart it."""
        with self._changed:
            self._step, self._deadline = step, time.monotonic() + self._timeout
            self._changed.notify()

    def pause(self) -> None:
        """Stop the timer until the next `start`, before work that has a timeout of its own."""
        with self._changed:
            self._deadline = None

    def _watch(self) -> None:
        with self._changed:
            while True:
                if self._deadline is None:
                    self._changed.wait()
                elif (left := self._deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    break
            step, self._deadline = self._step, None
        stack = sys._current_frames().get(self._watched.ident or 0)
        frame = traceback.extract_stack(stack)[-1] if stack else None
        place = f"{frame.filename}:{frame.lineno} in {frame.name}" if frame else "an unknown place"
        try:
            self._report(step, place)
            time.sleep(min(self._timeout / 3, GRACE_SECONDS))
        except Exception:  # The process must end even if the report fails.
            logger.exception("step %d was stuck at %s, and the driver could not be told", step, place)
        self._exit_process()
