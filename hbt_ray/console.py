"""The console: facts, tables and progress for people; one JSON object for machines.

With `--json` standard output carries that object and nothing else; everything for people goes to standard error. If
the output is not a terminal (a job's log), progress is a plain line every few seconds, without control characters.

Everything that a command prints or logs goes through `printable`: texts from data, files and the network cannot move
the cursor, set colours or titles, or be read as markup, and secrets in URIs are left out.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hbt_ray.errors import redact

SECONDS_OF_SILENCE = 20.0
"""Time without a step after which `TrainingProgress` reports the wait."""
SECONDS_BETWEEN_LINES = 10.0
"""Time between two lines of progress if the output is not a terminal."""
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls; a line feed and a tab are harmless.
    "\u2028\u2029\u202a-\u202e\u2066-\u206f\ufff9-\ufffb"  # Separators, bidirectional overrides, annotations.
    "\ud800-\udfff\U000e0000-\U000e007f]"  # Lone surrogates and invisible tags.
)


def printable(text: str) -> str:
    """Foreign text as a terminal may show it: control characters become visible escapes, secrets in URIs are left out.

    Letters of all scripts stay as they are, with the joiners and direction marks that they need.
    """
    return _UNPRINTABLE.sub(_escaped, redact(text))


def printable_line(text: str) -> str:
    """Like `printable`, with all white space as single spaces."""
    return " ".join(printable(text).split())


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(value: Any) -> str:
    """JSON in one line without control characters; numbers that JSON does not have become null."""
    text = json.dumps(_plain(value), ensure_ascii=not _is_unicode(sys.stdout), allow_nan=False)
    return _UNPRINTABLE.sub(_json_escaped, text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {redact(key) if isinstance(key, str) else key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int) else redact(str(value))


def _json_escaped(match: re.Match[str]) -> str:
    """`\\uXXXX`, of which JSON needs two beyond U+FFFF."""
    return json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"  # json.dumps leaves DEL as it is.


def _is_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


class _Console(Console):
    """A console that shows every text by `printable` and reads no markup, for texts of all modules and libraries."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text) and (shown := printable(renderable.plain)) != renderable.plain:
            renderable = renderable.blank_copy(shown)  # Without the styles of letters, whose places have moved.
        return super().render(renderable, options)

    def on_broken_pipe(self) -> None:
        raise  # `cli.entry_point` ends the command; rich would end the process here.


class Screen:
    """Output of a command: log lines, progress, tables and the result."""

    def __init__(self, as_json: bool = False, *, silent: bool = False) -> None:
        self._as_json = as_json
        self.rich = _Console(stderr=as_json, quiet=silent)
        self._begin = time.monotonic()
        if not self.rich.is_terminal:
            self.rich.width = 160  # A log has no width; 80 columns would wrap every path.
        _hush_libraries()

    @property
    def is_terminal(self) -> bool:
        return self.rich.is_terminal

    def log(self, text: str) -> None:
        """One line, with the seconds since the command began."""
        seconds = f"{time.monotonic() - self._begin:5.0f} s"
        self.rich.print(Text.assemble((seconds, "dim"), "  ", printable(text).replace("\n", " ")))

    def table(self, table: Table) -> None:
        self.rich.print(table)

    def text(self, text: Text | str = "") -> None:
        """A passage to read: a log keeps its lines whole, a terminal breaks them between words."""
        self.rich.print(text, soft_wrap=not self.is_terminal)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Progress of work on `total` items; call the yielded function with the number of items that were done."""
        done, first = 0, None

        def advance(count: int) -> None:
            nonlocal done, first
            done += count
            now = time.monotonic()
            # The time before the first items, such as for loading a model, is not part of the speed.
            first = first or (now, done)
            left = (now - first[0]) / (done - first[1]) * (total - done) if done > first[1] else None
            bar.update(done, "" if left is None else f", {left:,.0f} s left")

        with ProgressBar(self, f"{label}:", total) as bar:
            yield advance

    def result(self, values: dict[str, Any]) -> None:
        """The outcome for machines; silent without `--json`."""
        if self._as_json:
            print(json_text(values))


class ProgressBar:
    """A bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, screen: Screen, label: str, total: int) -> None:
        self._screen, self._label, self._total = screen, label, total
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=screen.rich, transient=True, disable=not screen.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(printable_line(label), total=total, state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, state: str, *, always: bool = False) -> None:
        """Show the number of items that are done, and a text after it.

        Args:
            always: print a line also if the last one is recent.
        """
        self._bar.update(self._task, completed=done, state=printable_line(state.lstrip(",: ")))
        is_due = always or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        if is_due and not self._screen.is_terminal:
            self._last_line = time.monotonic()
            self._screen.log(f"{self._label} {done:,} of {self._total:,}{state}")


class TrainingProgress:
    """Progress of training. Pass the metrics of every step to `watch`.

    A line is printed if no step is done for a long time, and if steps are repeated after a restart.

    Args:
        kinds_so_far: kinds of the batches of earlier steps.
        news: is called at every step and returns a text to add, such as the newest validation.
        trouble: is called while steps are missing and returns the likely reason.
    """

    def __init__(
        self,
        screen: Screen,
        num_steps: int,
        kinds_so_far: Iterable[str] = (),
        news: Callable[[], str] = str,
        trouble: Callable[[], str] = str,
    ) -> None:
        self._screen, self._num_steps, self._news, self._trouble = screen, num_steps, news, trouble
        self._bar = ProgressBar(screen, "step", num_steps)
        self._loss = self._speed = math.nan
        self._kinds = Counter(kinds_so_far)
        self._next_step = 0
        self._last_step_time, self._longest_step = time.monotonic(), 0.0
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._bar.__enter__()
        self._last_step_time = time.monotonic()
        threading.Thread(target=self._report_silence, name="silence", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._bar.__exit__()

    def watch(self, metrics: Any) -> None:
        now = time.monotonic()
        if metrics.step < self._next_step:
            self._screen.log(
                f"the workers were started again: training continues from step {metrics.step + 1:,} with the same "
                f"batches, after {self._next_step:,} steps"
            )
        else:
            self._kinds[metrics.kind] += 1
            self._longest_step = max(self._longest_step, now - self._last_step_time) if self._next_step else 0.0
        self._next_step, self._last_step_time = metrics.step + 1, now
        is_first_or_last = math.isnan(self._loss) or self._next_step == self._num_steps
        self._loss = _smoothed(self._loss, metrics.loss)
        self._speed = _smoothed(self._speed, metrics.pairs_per_second)
        self._bar.update(self._next_step, f": {self._state(metrics)}", always=is_first_or_last)

    def _report_silence(self) -> None:
        """Report a late step after three times the longest step so far, and again whenever the wait has doubled."""
        reported = 0.0
        while not self._ended.wait(1):
            seconds = time.monotonic() - self._last_step_time
            if seconds < reported:  # A step was done since the last report.
                reported = 0.0
            if seconds > max(SECONDS_OF_SILENCE, 3 * self._longest_step, 2 * reported):
                reported = seconds
                if self._next_step >= self._num_steps:
                    missing = "waiting for the last checkpoint and its validation"
                elif self._next_step:
                    missing = f"no step after step {self._next_step:,}"
                else:
                    missing = "waiting for the workers to start"
                self._screen.log(f"{missing} for {seconds:,.0f} s{self._trouble()}")

    def _state(self, metrics: Any) -> str:
        total = sum(self._kinds.values())
        mixture = ", ".join(f"{kind} {count / total:.0%}" for kind, count in sorted(self._kinds.items(), reverse=True))
        stall = f", waited {metrics.stall_seconds:.1f} s for data" if metrics.stall_seconds > 0.5 else ""
        news = f"; {text}" if (text := self._news()) else ""
        return f"loss {self._loss:.3f}, {self._speed:,.0f} pairs/s, batches so far: {mixture}{stall}{news}"


def _smoothed(before: float, value: float) -> float:
    return value if math.isnan(before) else 0.95 * before + 0.05 * value


def _hush_libraries() -> None:
    """Turn off progress bars and notices of libraries, which would break our own lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # If it is unset, the library warns after a fork.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.captureWarnings(True)
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(level=logging.WARNING)
        root.handlers[0].addFilter(_is_news)
        root.handlers[0].setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


_WARNED: set[str] = set()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a warning of this package is new: a plan is made before a cluster starts, and again on it."""
    if not record.name.startswith("hbt_ray."):
        return True
    text = record.getMessage()
    is_news = text not in _WARNED
    _WARNED.add(text)
    return is_news
