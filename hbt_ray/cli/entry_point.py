"""The process of a command: its streams, its signals, its errors in one line, and its exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, Any, TextIO, TypeGuard

from hbt_ray import console
from hbt_ray.console import printable, printable_line
from hbt_ray.errors import HbtError, InputError, Interrupted, StorageError
from hbt_ray.ray_session import catch_termination, configure_command, received_signal, session_folder

_SHOWN_FRAMES = 4
_BROKEN_PIPE = 128 + signal.SIGPIPE


def run() -> int:
    """Run the command that `sys.argv` names.

    Returns:
        Its exit code.
    """
    _open_streams()
    catch_termination()
    configure_command()  # Commands import Ray long before they start it.
    try:
        code = _invoke(_arguments())
        sys.stdout.flush()
    except SystemExit as error:  # Rich raises it if the reader of the help has closed the pipe.
        code = error.code if isinstance(error.code, int) else 1
        code = _BROKEN_PIPE if isinstance(error.__context__, BrokenPipeError) else code
    except BrokenPipeError:  # The reader has closed the pipe, such as `| head`.
        code = _BROKEN_PIPE
    except BaseException as error:
        code = _report(StorageError("standard output", error.strerror or "") if _is_of_output(error) else error)
    return _close_streams(code)


def _is_of_output(error: BaseException) -> TypeGuard[OSError]:
    """Whether standard output could not be written; unlike other files it has no name in the error."""
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    # The module of the last frame is the one whose write failed.
    writer = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return writer in (Path(__file__), Path(console.__file__)) or writer.parts[-2:] == ("rich", "console.py")


def _invoke(arguments: list[str]) -> int:
    import typer

    from hbt_ray.cli.app import app

    command = typer.main.get_command(app)
    try:
        with command.make_context("hbt", arguments) as context:
            command.invoke(context)
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        # Typer brings click's classes under another name in some versions.
        if not hasattr(error, "format_message"):
            raise
        raise _usage_error(error) from None
    return 0


def _usage_error(error: Any) -> BaseException:
    """Turn an error of click into an `InputError`.

    For a call without arguments click has printed the help already, or its error has the help as its message.
    """
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, end="\n" if message else "")
        return SystemExit(2)
    context = getattr(error, "ctx", None)
    usage = f"{context.command_path} --help" if context else "hbt --help"
    if context and (option := getattr(error, "option_name", "")):
        from hbt_ray.cli.settings_help import option_hint

        if hint := option_hint(context.command_path.partition(" ")[2], option):
            return InputError(f"{option} is not an option; write {hint}. `{usage}` lists all keys", code="USAGE")
    return InputError(f"{message.rstrip('.')}. `{usage}` shows how to call it", code="USAGE")


def _arguments() -> list[str]:
    """The arguments after the program's name.

    Raises:
        InputError: one is not text; it could not be written into a configuration or shown.
    """
    for number, argument in enumerate(sys.argv[1:], 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"argument {number} is not valid UTF-8: {argument}", code="ARGUMENT_ENCODING") from None
    return sys.argv[1:]


def _report(error: BaseException) -> int:
    """Print the error that ended the command in one line; only a bug has a traceback.

    Returns:
        The exit code.
    """
    signal_code = 128 + (received_signal() or signal.SIGINT)
    known = _known_error(error)
    if known is not None:
        _print_error(printable_line(f"{type(known).__name__}: {known}"))
        return signal_code if isinstance(known, Interrupted) else known.exit_code
    if isinstance(error, KeyboardInterrupt):
        _print_error("Interrupted: stopped")
        return signal_code
    summary = traceback.TracebackException.from_exception(error, limit=-_SHOWN_FRAMES)
    _print_error(printable("".join(summary.format(chain=False)).rstrip()))
    logs = session_folder()
    where = f"; Ray's logs are in {logs} until the next command" if logs else ""
    _print_error(f"This is a bug in hbt_ray, not a mistake in your input. Please report it with the lines above{where}")
    return 1


def _known_error(error: BaseException) -> HbtError | None:
    """The `HbtError` for an error whose cause is known; None for a bug."""
    if not isinstance(error, Exception):
        return None
    from hbt_ray.ray_errors import explain, is_ray_error

    explained = explain(error)
    # WORKER_FAILED means that `explain` found no cause; outside of a worker that is a bug, or one of those below.
    if explained.code != "WORKER_FAILED" or is_ray_error(error):
        return explained
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return InputError("a path holds a NUL character, which no file name can have", code="NUL")
    if isinstance(error, OverflowError):
        return InputError(f"a number is too large ({error})", code="NUMBER")
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename else ""
        return InputError(f"{place}{error.strerror}", code="SYSTEM")
    return None


def _print_error(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # The reader has closed it.
        _discard(sys.stderr)


def _open_streams() -> None:
    """Make every text printable in any encoding, and open closed standard streams on /dev/null.

    The next file that is opened would get the number of a closed stream, and prints would overwrite it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest number that is free, which is this one.
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _close_streams(code: int) -> int:
    """Flush both streams, as Python would print a traceback if it failed to do so at exit.

    A full disk is reported as a storage error.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _discard(stream)
            code = code or _BROKEN_PIPE
        except OSError as error:
            _discard(stream)
            if stream is sys.stdout:
                _print_error(f"StorageError: standard output: {error.strerror}")
            code = code or 2
    return code


def _nowhere() -> TextIO:
    return io.TextIOWrapper(io.FileIO(os.devnull, "w"))


def _discard(stream: IO[str]) -> None:
    # The stream keeps its descriptor, so that Python's own flush at exit succeeds.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
