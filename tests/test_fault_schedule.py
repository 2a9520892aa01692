"""The fault schedule: every command under every accident. Minutes each; `make soak` runs it.

Each command runs once undisturbed, which gives the reference. Then, for each accident, the same command starts from a
copy of the same files and meets the accident. It must end in bounded time and without a traceback, leave no process
behind, and the same command again must leave what the reference left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.errors import Interrupted
from tests.small_data import write_colours

pytestmark = pytest.mark.soak

STEPS = 40
TIMEOUT_SECONDS = 600
FILES = {
    "store.yaml": """
path: stores/colours
sources: [{kind: table, name: colours, path: colours.jsonl, columns: {passage_id: passage_id}}]
""",
    "dev.yaml": """
path: stores/dev
sources: [{kind: table, name: dev, path: dev.jsonl, columns: {passage_id: passage_id}}]
""",
    "train.yaml": f"""
name: colours
store: stores/colours
model: {{name: scratch, layers: 1, width: 32, heads: 2, vocabulary: 300}}
plan: {{batch_size: 12}}
optimiser: {{steps: {STEPS}, learning_rate: 1.0e-3}}
checkpoints: {{every: 10}}
workers: {{count: 2}}
validation: {{store: stores/dev}}
""",
    "space.py": """
from hbt_ray.tune import Space

SPACE = Space(search={"plan.alpha": [0.25, 0.75]}, configure=lambda values, base: {"plan.policy": "hybrid", **values})
""",
}


@dataclass(frozen=True)
class Command:
    name: str
    arguments: tuple[str, ...]
    outcome: Callable[[Path], Any]
    """What it leaves below the working directory, less what differs from run to run, such as times."""


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def store_outcome(folder: Path) -> Any:
    store = folder / "stores" / "colours"
    return {str(path.relative_to(store)): checksum(path) for path in sorted(store.rglob("*.arrow"))}


def training_outcome(folder: Path, run: str = "runs/colours") -> Any:
    lines = (folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    return {"weights": checksum(folder / run / "model" / "model.safetensors"), "steps": steps}


def mining_outcome(folder: Path) -> Any:
    return {path.name: checksum(path) for path in sorted((folder / "mined").glob("*.arrow"))}


def evaluation_outcome(folder: Path) -> Any:
    (path,) = (folder / "runs" / "colours" / "results").glob("*/result.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    return {name: result[name] for name in ("settings", "pairs", "pool", "fingerprint")}


def index_outcome(folder: Path) -> Any:
    arguments = ("search", "index", "What colour is thing 7?", "--json")
    process = start(arguments, folder)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, output
    return json.loads(output)


def search_outcome(folder: Path) -> Any:
    trials = json.loads((folder / "runs" / "space" / "trials.json").read_text(encoding="utf-8"))
    return {str(trial["values"]): (trial["status"], without_times(trial["curve"])) for trial in trials}


def without_times(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in curve]


def report_outcome(folder: Path) -> Any:
    page = (folder / "report.html").read_text(encoding="utf-8")
    return page.rstrip().endswith("</html>"), "colours" in page


COMMANDS = (
    Command("prepare", ("prepare", "store.yaml"), store_outcome),
    Command("train", ("train", "train.yaml"), training_outcome),
    Command("mine", ("mine", "stores/colours", "runs/colours", "--out", "mined", "max_share=1"), mining_outcome),
    Command("evaluate", ("evaluate", "runs/colours", "--task", "beir=task"), evaluation_outcome),
    Command("index", ("index", "build", "runs/colours", "index", "--documents", "documents.jsonl"), index_outcome),
    Command("tune", ("tune", "space.py", "--config", "train.yaml"), search_outcome),
    Command("report", ("report", "runs/colours", "--out", "report.html"), report_outcome),
)
BY_NAME = {command.name: command for command in COMMANDS}


@dataclass(frozen=True)
class Reference:
    """Where each command starts, what it leaves, and how long it takes undisturbed."""

    root: Path
    outcomes: dict[str, Any]
    seconds: dict[str, float]

    def before(self, command: Command) -> Path:
        return self.root / f"before-{command.name}"

    def after(self, command: Command) -> Path:
        number = COMMANDS.index(command) + 1
        return self.before(COMMANDS[number]) if number < len(COMMANDS) else self.root / "end"


def start(arguments: tuple[str, ...], folder: Path, mark: str = "") -> subprocess.Popen[str]:
    """A command in a session of its own. `mark` is in the environment of every process that it starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "hbt_ray", *arguments],
        cwd=folder,
        env={**os.environ, "HBT_FAULT_SCHEDULE": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if "--json" not in arguments else subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and its processes would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert "Traceback (most recent call last)" not in output, output
    return output


def run_again(command: Command, folder: Path, reference: Reference) -> None:
    """The same command, undisturbed, leaves what the reference left, and no scratch."""
    process = start(command.arguments, folder)
    output = finish(process)
    assert process.returncode == 0, output
    assert command.outcome(folder) == reference.outcomes[command.name]
    scratch = [path for path in folder.rglob(".*") if path.name.endswith((".part", ".lock", ".swap", ".old"))]
    assert scratch == []


def processes_of(mark: str) -> list[str]:
    """Command lines of the living processes that have the mark in their environment."""
    lines = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"HBT_FAULT_SCHEDULE={mark}".encode() in (place / "environ").read_bytes():
                lines.append((place / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return lines


def assert_no_process_is_left(mark: str) -> None:
    deadline = time.monotonic() + 150  # Ray's dashboard agent notices after about a minute that its node is gone.
    while left := processes_of(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def write_inputs(folder: Path) -> None:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_colours(folder / "colours.jsonl", range(60))
    write_colours(folder / "dev.jsonl", range(100, 130))
    documents = [{"doc_id": f"d{n}", "language": "en", "text": f"The colour is thing {n}"} for n in range(40)]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    task = folder / "task"
    (task / "qrels").mkdir(parents=True)
    (task / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": row["doc_id"], "title": "", "text": row["text"]}) + "\n" for row in documents)
    )
    queries = [{"_id": f"q{n}", "text": f"What colour is thing {n}?"} for n in range(40)]
    (task / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    qrels = "".join(f"q{n}\td{n}\t1\n" for n in range(40))
    (task / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one working directory of all commands: runs and indexes hold absolute paths."""
    return tmp_path_factory.mktemp("schedule") / "work"


@pytest.fixture(scope="module")
def reference(workspace: Path) -> Reference:
    root = workspace.parent / "reference"
    write_inputs(workspace)
    prepared = start(("prepare", "dev.yaml"), workspace)
    assert prepared.wait(TIMEOUT_SECONDS) == 0
    made = Reference(root, {}, {})
    for command in COMMANDS:
        shutil.copytree(workspace, made.before(command))
        begin = time.monotonic()
        process = start(command.arguments, workspace)
        output = finish(process)
        assert process.returncode == 0, output
        made.seconds[command.name] = time.monotonic() - begin
        made.outcomes[command.name] = command.outcome(workspace)
    shutil.copytree(workspace, root / "end")
    assert made.outcomes["train"]["steps"] == list(range(STEPS))
    shutil.rmtree(workspace)
    return made


@pytest.fixture
def copy(workspace: Path, reference: Reference) -> Iterator[Callable[[Path], Path]]:
    """Fills the working directory from a snapshot; empties it at the end."""

    def fill(snapshot: Path) -> Path:
        shutil.copytree(snapshot, workspace)
        return workspace

    yield fill
    shutil.rmtree(workspace, ignore_errors=True)


@pytest.fixture
def small_disk(workspace: Path, reference: Reference) -> Iterator[Callable[[Path, int], Path]]:
    """The same on a file system of its own, with so many bytes free."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to mount a file system")
    workspace.mkdir()

    def fill(snapshot: Path, free_bytes: int) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", workspace], check=True)
        shutil.copytree(snapshot, workspace, dirs_exist_ok=True)
        size = shutil.disk_usage(workspace).used + free_bytes
        subprocess.run(["mount", "-o", f"remount,size={size}", workspace], check=True)
        return workspace

    yield fill
    subprocess.run(["umount", "--lazy", workspace], check=False)
    shutil.rmtree(workspace, ignore_errors=True)


def used_bytes(folder: Path) -> int:
    """Bytes that the files of a folder take on a file system with pages of 4,096 bytes."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_killed_command_goes_on(name: str, share: float, reference: Reference, copy: Callable[[Path], Path]) -> None:
    command, mark = BY_NAME[name], uuid.uuid4().hex
    folder = copy(reference.before(command))
    process = start(command.arguments, folder, mark)
    time.sleep(share * reference.seconds[name])
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert_no_process_is_left(mark)
    run_again(command, folder, reference)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
@pytest.mark.parametrize("name", BY_NAME)
def test_an_interrupted_command_ends_in_a_line_and_goes_on(
    name: str, sent: signal.Signals, reference: Reference, copy: Callable[[Path], Path]
) -> None:
    command, mark = BY_NAME[name], uuid.uuid4().hex
    folder = copy(reference.before(command))
    process = start(command.arguments, folder, mark)
    time.sleep(0.6 * reference.seconds[name])
    os.kill(process.pid, sent)
    finish(process)
    assert process.returncode in (0, Interrupted.exit_code, 128 + sent)
    assert_no_process_is_left(mark)
    run_again(command, folder, reference)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_command_that_was_paused_ends_as_if_it_was_not(
    name: str, reference: Reference, copy: Callable[[Path], Path]
) -> None:
    command = BY_NAME[name]
    folder = copy(reference.before(command))
    process = start(command.arguments, folder)
    time.sleep(0.6 * reference.seconds[name])
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(10)
    os.kill(process.pid, signal.SIGCONT)
    output = finish(process)
    assert process.returncode == 0, output
    assert command.outcome(folder) == reference.outcomes[name]


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_full_disk_is_one_line_and_the_command_goes_on_once_there_is_room(
    name: str, share: float, reference: Reference, small_disk: Callable[[Path, int], Path]
) -> None:
    command, mark = BY_NAME[name], uuid.uuid4().hex
    written = used_bytes(reference.after(command)) - used_bytes(reference.before(command))
    folder = small_disk(reference.before(command), int(share * written))
    process = start(command.arguments, folder, mark)
    output = finish(process)
    assert process.returncode == 2, output
    assert "StorageError" in output.splitlines()[-1]
    assert_no_process_is_left(mark)
    subprocess.run(["mount", "-o", "remount,size=2g", folder], check=True)
    run_again(command, folder, reference)


@pytest.mark.parametrize("name", BY_NAME)
def test_read_only_storage_is_one_line(
    name: str, reference: Reference, small_disk: Callable[[Path, int], Path]
) -> None:
    command = BY_NAME[name]
    folder = small_disk(reference.before(command), 2 << 30)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    process = start(command.arguments, folder)
    output = finish(process)
    assert process.returncode == 2, output
    assert "StorageError" in output.splitlines()[-1]
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    run_again(command, folder, reference)


@pytest.mark.parametrize("name", BY_NAME)
def test_of_two_commands_at_once_the_second_is_refused_or_changes_nothing(
    name: str, reference: Reference, copy: Callable[[Path], Path]
) -> None:
    command = BY_NAME[name]
    folder = copy(reference.before(command))
    processes = [start(command.arguments, folder) for _ in range(2)]
    outputs = [finish(process) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 0], [0, 2]), outputs
    assert command.outcome(folder) == reference.outcomes[name]
    if codes == [0, 2]:
        refused = next(output for process, output in zip(processes, outputs, strict=True) if process.returncode)
        assert "LockedError" in refused.splitlines()[-1]


DAMAGE = (
    # The command that reads it, the file, a text in what the command reads of it (else the middle of the second half),
    # and whether the command is refused or leaves what it left.
    ("train", "stores/colours/colours/*.arrow", "colour", "refused"),
    ("mine", "stores/colours/colours/*.arrow", "لون", "refused"),  # It reads the columns of one language.
    ("evaluate", "runs/colours/model/model.safetensors", "", "refused"),
    ("mine", "runs/colours/model/model.safetensors", "", "refused"),
    ("index", "runs/colours/model/model.safetensors", "", "refused"),
    ("evaluate", "runs/colours/vectors/*/*/vectors.npy", "", "same"),
    ("report", "runs/colours/results/*/result.json", "", "refused"),
)


def flip_bit(path: Path, text: str = "") -> None:
    """One bit of the first occurrence of a text, or of the second half of the file."""
    content = bytearray(path.read_bytes())
    content[content.index(text.encode()) if text else len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "pattern", "text", "expected"), DAMAGE)
def test_one_changed_bit_is_refused_or_mended(
    name: str, pattern: str, text: str, expected: str, reference: Reference, copy: Callable[[Path], Path]
) -> None:
    command = BY_NAME[name]
    folder = copy(reference.after(command) if expected == "same" else reference.before(command))
    paths = sorted(folder.glob(pattern))
    assert paths
    whole = {path: path.read_bytes() for path in paths}
    for path in paths:
        flip_bit(path, text)
    process = start(command.arguments, folder)
    output = finish(process)
    assert process.returncode == (0 if expected == "same" else 2), output
    if expected == "refused":
        for path, content in whole.items():
            path.write_bytes(content)
        run_again(command, folder, reference)
    assert command.outcome(folder) == reference.outcomes[name]


@pytest.mark.parametrize("file", ["checkpoint.json", "weights.safetensors", "optimiser.pt"])
def test_a_changed_checkpoint_is_passed_over(file: str, reference: Reference, copy: Callable[[Path], Path]) -> None:
    command = BY_NAME["train"]
    folder = copy(reference.before(command))
    process = start((*command.arguments, "--until", "20"), folder)
    assert process.returncode in (None, 0)
    output = finish(process)
    assert process.returncode == 0, output
    flip_bit(folder / "runs" / "colours" / "checkpoints" / "step-00000020" / file)
    run_again(command, folder, reference)
