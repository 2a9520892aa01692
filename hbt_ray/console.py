"""The console: facts, tables and progress for people; one JSON object for machines.

With `--json` standard output carries that object and nothing else; everything for people goes to standard error. Where
the output is no terminal (a job's log) progress comes as plain lines now and then, without control characters.

Texts from data, files and the network are shown by `printable`: they cannot move the cursor, set colours or titles, or
be read as markup, and secrets in URIs are left out. Everything that a command prints or logs goes through it.
"""

from __future__ import annotations

import itertools
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
from rich.text import Span, Text

from hbt_ray.errors import redact

SECONDS_OF_SILENCE = 20.0
"""After which a run says that it waits."""
SECONDS_BETWEEN_LINES = 10.0
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
    """The same with all white space as single spaces."""
    return " ".join(printable(text).split())


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(value: Any) -> str:
    """JSON in one line without characters that a terminal obeys; numbers that JSON does not have become null."""
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
    return json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"


def _is_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


class _Console(Console):
    """A console that shows every text by `printable` and reads no markup, whatever module made the text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        return super().render(_printable_text(renderable) if isinstance(renderable, Text) else renderable, options)

    def on_broken_pipe(self) -> None:
        raise  # `cli.process` ends the command; rich would end the process here.


def _printable_text(text: Text) -> Text:
    """The same text with its styles; they are dropped where a secret is left out."""
    if (shown := printable(text.plain)) == text.plain:
        return text
    made = text.blank_copy(shown)
    pieces = [_UNPRINTABLE.sub(_escaped, character) for character in text.plain]
    if "".join(pieces) == shown:
        offsets = [0, *itertools.accumulate(map(len, pieces))]
        made.spans = [Span(offsets[span.start], offsets[span.end], span.style) for span in text.spans]
    return made


class Screen:
    """Output of a command: log lines, progress, tables and the result."""

    def __init__(self, as_json: bool = False, *, silent: bool = False) -> None:
        self._as_json = as_json
        self._console = _Console(stderr=as_json, quiet=silent)
        self._begin = time.monotonic()
        if not self._console.is_terminal:
            self._console.width = 160  # A log has no width; 80 columns would wrap every path.
        _hush_libraries()

    @property
    def is_terminal(self) -> bool:
        return self._console.is_terminal

    @property
    def rich(self) -> Console:
        return self._console

    def log(self, text: str) -> None:
        """One line, with the seconds since the command began."""
        seconds = f"{time.monotonic() - self._begin:5.0f} s"
        self._console.print(Text.assemble((seconds, "dim"), "  ", printable(text).replace("\n", " ")))

    def table(self, table: Table) -> None:
        self._console.print(table)

    def text(self, text: Text | str = "") -> None:
        """A passage to read: a log keeps its lines whole, a terminal breaks them between words."""
        self._console.print(text, soft_wrap=not self.is_terminal)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Progress of work on `total` things; call what is yielded with how many more are done."""
        last_line = time.monotonic()
        done, first = 0, None
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True, disable=not self.is_terminal) as bar:
            task = bar.add_task(printable_line(what), total=total)

            def advance(count: int) -> None:
                nonlocal done, first, last_line
                done += count
                bar.update(task, completed=done)
                now = time.monotonic()
                # What comes before the first of them, such as loading a model, does not come again.
                first = first or (now, done)
                if not self.is_terminal and now - last_line > SECONDS_BETWEEN_LINES:
                    last_line = now
                    since, before = first
                    left = f", {(now - since) / (done - before) * (total - done):,.0f} s left" if done > before else ""
                    self.log(f"{what}: {done:,} of {total:,}{left}")

            yield advance

    def result(self, values: dict[str, Any]) -> None:
        """The outcome for machines; silent without `--json`."""
        if self._as_json:
            print(json_text(values))


class TrainingProgress:
    """A bar on a terminal, a line every few seconds elsewhere. Give `watch` the outcome of every step.

    Where steps stay away, it says so, and when they go on from an earlier one.

    Args:
        news: asked at every step for what else there is to tell.
        trouble: asked when steps stay away for what may be the reason, to be put behind that.
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
        self._loss = self._speed = math.nan
        self._kinds = Counter(kinds_so_far)
        self._last_line = 0.0
        self._next = 0
        self._last_step, self._longest = time.monotonic(), 0.0
        self._over = threading.Event()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=screen.rich, transient=True, disable=not screen.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("training", total=num_steps, state="starting the workers")

    def __enter__(self) -> Self:
        self._bar.start()
        self._last_step = time.monotonic()
        threading.Thread(target=self._notice_silence, name="silence", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._bar.stop()

    def watch(self, outcome: Any) -> None:
        now = time.monotonic()
        if outcome.step < self._next:
            self._screen.log(
                f"the workers were started again: on from step {outcome.step + 1:,} with the same batches, after "
                f"{self._next:,} steps that were done"
            )
        else:
            self._kinds[outcome.kind] += 1
            self._longest = max(self._longest, now - self._last_step) if self._next else 0.0
        self._next, self._last_step = outcome.step + 1, now
        self._loss = _smoothed(self._loss, outcome.loss)
        self._speed = _smoothed(self._speed, outcome.pairs_per_second)
        done = outcome.step + 1
        self._bar.update(self._task, completed=done, state=printable_line(self._state(outcome)))
        due = time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or done == self._num_steps
        if due and not self._screen.is_terminal:
            self._last_line = time.monotonic()
            self._screen.log(f"step {done:,} of {self._num_steps:,}: {self._state(outcome)}")

    def _notice_silence(self) -> None:
        """Steps are late when they take three times as long as any before; then twice as long, and so on."""
        said = 0.0
        while not self._over.wait(1):
            since = time.monotonic() - self._last_step
            if since < said:
                said = 0.0
            if since > max(SECONDS_OF_SILENCE, 3 * self._longest, 2 * said):
                said = since
                self._screen.log(f"{self._what_is_missing()} for {since:,.0f} s{self._trouble()}")

    def _what_is_missing(self) -> str:
        if self._next >= self._num_steps:
            return "waiting for the last checkpoint and its validation"
        return f"no step after step {self._next:,}" if self._next else "waiting for the workers to start"

    def _state(self, outcome: Any) -> str:
        total = sum(self._kinds.values())
        mixture = ", ".join(f"{kind} {count / total:.0%}" for kind, count in sorted(self._kinds.items(), reverse=True))
        stall = f", waited {outcome.stall_seconds:.1f} s for data" if outcome.stall_seconds > 0.5 else ""
        news = f"; {told}" if (told := self._news()) else ""
        return f"loss {self._loss:.3f}, {self._speed:,.0f} pairs/s, batches so far: {mixture}{stall}{news}"


def _smoothed(before: float, value: float) -> float:
    return value if math.isnan(before) else 0.95 * before + 0.05 * value


def _hush_libraries() -> None:
    """Progress bars and notices of libraries would tear ours apart."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
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
    """What this package warns of is told once: a plan is made before a cluster starts, and again on it."""
    if not record.name.startswith("hbt_ray."):
        return True
    text = record.getMessage()
    is_news = text not in _WARNED
    _WARNED.add(text)
    return is_news
