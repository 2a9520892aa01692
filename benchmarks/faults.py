"""The cost of a killed worker, beside plain Ray Train: the same model, batches, checkpoints and kills.

Two workers on this machine; one is killed by SIGKILL three times in a run. The peer is a Ray Train loop as its guide
has it: `ray.train.report` uploads a folder of the checkpoint, `get_checkpoint` goes on from it, and all options are at
their defaults; it streams and learns with our parts. Both make a checkpoint every ten steps. The third row is ours with
the peer's interval of two seconds between polls of the workers, which shows the gain of the shorter one.

The parts of the time: until Ray Train's controller has noticed (by its log), until the old workers are gone, until new
ones have started, until their first batch (they import, restore and open the stream), and that step.

    python benchmarks/faults.py [--json] [--step-seconds 0.1]
    python benchmarks/faults.py --grid [--json]     20 kills in one run: are the weights those of an undisturbed one?
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.train.worker.callbacks import Hooks

OURS, SLOW, PEER = "hbt_ray", "hbt_ray, looking every 2 s", "plain Ray Train"
PHASES = ("known", "gone", "new workers", "first batch", "first step")
EVERY, WORKERS = 10, 2
KILLS = ((27, 1, "batch"), (54, 0, "before_update"), (83, 1, "after_update"))
GRID_STEPS, GRID_EVERY = 84, 5
PLACES = ("batch", "before_update", "after_update", "written")
ASKED = 100
LOGGED = ("[FailurePolicy] RETRY", "Attempting to start training worker group", "Started training worker group")
"""Messages of the controller: failure noticed, restart begun, workers started."""


@dataclass(frozen=True)
class Trace(Hooks):
    """Kills the process at each (step, rank, place) once, and records events with their times."""

    folder: Path
    kills: tuple[tuple[int, int, str], ...] = ()
    pause: float = 0.0
    """Seconds added to every step, so that it takes about as long as one of a real model."""

    def on_batch(self, rank: int, batch: RankBatch) -> None:
        self.tell("batch", rank, batch.step)
        self._meet(batch.step, rank, "batch")
        time.sleep(self.pause)

    def before_update(self, rank: int, step: int) -> None:
        self._meet(step, rank, "before_update")

    def after_update(self, rank: int, step: int) -> None:
        self.tell("done", rank, step)
        self._meet(step, rank, "after_update")

    def on_checkpoint_file(self, step: int, path: Path) -> None:
        if path.name == "weights.safetensors":
            self._meet(step, 0, "written")

    def tell(self, what: str, rank: int, number: float) -> None:
        with (self.folder / f"events-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps([time.time(), what, rank, number]) + "\n")

    def _meet(self, *where: object) -> None:
        for number, kill in enumerate(self.kills):
            mark = self.folder / f"kill-{number}"
            if kill == where and not mark.exists():
                mark.touch()  # Before the kill, so that the restarted worker is not killed again.
                self.tell("kill", kill[1], number)
                os.kill(os.getpid(), signal.SIGKILL)

    def events(self) -> list[tuple[float, str, int, float]]:
        """Events in order: time, kind, rank, and step or another number."""
        return sorted(
            tuple(json.loads(line)) for path in self.folder.glob("events-*") for line in path.read_text().splitlines()
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step-seconds", type=float, default=0.1)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        make_store(options.folder / "store")
        show_grid(options) if options.grid else show_sides(options)


def make_store(path: Path) -> None:
    """Sixty items in two languages."""
    from hbt_ray.data.prepare import StoreConfig, prepare

    table = path.with_suffix(".jsonl")
    with table.open("w", encoding="utf-8") as file:
        for number in range(60):
            for language, ask, say in (("de", "Welche Farbe hat", "Die Farbe ist"), ("en", "What colour is", "It is")):
                row = {"item_id": f"i{number}", "language": language}
                row |= {"question": f"{ask} {number}?", "passage": f"{say} {number}"}
                file.write(json.dumps(row) + "\n")
    source = {"kind": "table", "name": "colours", "path": str(table)}
    prepare(StoreConfig.make({"path": str(path), "sources": [source]}, "benchmark"))


def make_config(folder: Path, name: str, steps: int, every: int) -> Any:
    from hbt_ray.train.config import TrainConfig

    lengths = {"max_question_length": 16, "max_passage_length": 16}
    values = {
        "name": name,
        "store": str(folder / "store"),
        "storage_path": str(folder / "runs"),
        "model": {"layers": 1, "width": 32, "heads": 2, "vocabulary": 300, **lengths},
        "plan": {"batch_size": 12},
        "optimiser": {"steps": steps, "learning_rate": 1e-3},
        "stream": {"rows_per_task": 240},
        "workers": {"count": WORKERS, "max_failures": -1},
        "checkpoints": {"every": every},
    }
    return TrainConfig.make(values, "benchmark")


def grid() -> tuple[tuple[int, int, str], ...]:
    """Twenty kills, of both ranks and at all places; while a checkpoint is written, of rank 0, which writes it."""
    kills = []
    for number in range(20):
        step, rank, place = 4 * number + 2, number % 2, PLACES[number % 4]
        if place == "written":
            step, rank = -(-step // GRID_EVERY) * GRID_EVERY, 0  # The next step with a checkpoint.
        kills.append((step, rank, place))
    return tuple(kills)


def run_side(options: argparse.Namespace) -> None:
    """One run in this process, in a Ray session of its own; its figures go to standard output."""
    from hbt_ray.ray_session import configure

    if options.side in (PEER, SLOW):
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "2"  # Ray's default.
    configure(local=True)
    import ray

    from hbt_ray.train.driver.trainer import fit

    name = options.side.replace(" ", "-").replace(",", "")
    marks = options.folder / f"marks-{name}"
    marks.mkdir()
    in_grid = options.side.startswith("grid")
    kills = () if options.side.endswith("undisturbed") else grid() if in_grid else KILLS
    trace = Trace(marks, kills, 0.0 if in_grid else options.step_seconds)
    steps, every = (GRID_STEPS, GRID_EVERY) if in_grid else (KILLS[-1][0] + EVERY, EVERY)
    config = make_config(options.folder, name, steps, every)
    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as sockets:
        ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=sockets)
        if options.side == PEER:
            fit_plainly(config, trace)
        else:
            fit(config, lambda outcome: None, hooks=trace)
        ray.shutdown()
        logged = [line for path in Path(sockets).glob("*/logs/train/*app-controller*") for line in path.open()]
    stamps = sorted((row["timestamp_ns"] / 1e9, row["message"]) for row in map(json.loads, logged))
    print(json.dumps(figures(trace, stamps)))


def fit_plainly(config: Any, trace: Trace) -> None:
    """Train as the peer does: a TorchTrainer with its defaults."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from hbt_ray.train.driver.trainer import open_run

    open_run(config)  # Writes the untrained encoder.
    TorchTrainer(
        train_plainly,
        train_loop_config={"config": config.absolute().model_dump(mode="json"), "trace": trace},
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(
            name="plain", storage_path=str(config.run.root), failure_config=FailureConfig(max_failures=-1)
        ),
    ).fit()


def train_plainly(settings: dict[str, Any]) -> None:
    """Train as one rank of the peer."""
    import ray.train
    import torch

    from hbt_ray.data.plan.plan import Plan
    from hbt_ray.data.store.store import read_manifest
    from hbt_ray.data.stream.loader import LoaderConfig
    from hbt_ray.data.stream.stream import stream
    from hbt_ray.model.build import tokenising_config
    from hbt_ray.model.loading import load_encoder
    from hbt_ray.train.config import TrainConfig
    from hbt_ray.train.loss.objective import Objective
    from hbt_ray.train.step.train_step import TrainStep

    config, trace = TrainConfig.model_validate(settings["config"]), settings["trace"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(1)
    encoder = load_encoder(config.run.base)
    plan = Plan(read_manifest(config.store), config.plan)
    learner = TrainStep(
        encoder,
        config.optimiser,
        Objective(config.loss),
        padding_id=encoder.tokenizer.pad_token_id,
        rank=rank,
        rank_sizes=tuple(len(plan.batch(0).slice(other, world_size).items) for other in range(world_size)),
        before_update=lambda step: trace.before_update(rank, step),
    )
    start = 0
    if latest := ray.train.get_checkpoint():
        with latest.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        encoder.load_state_dict(state["encoder"])
        learner.optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    else:
        ask(trace, rank)
    loader = LoaderConfig(config.store, config.plan, tokenising_config(encoder, config.model))
    for batch in stream(loader, range(start, config.optimiser.steps), rank, world_size, config.stream):
        trace.on_batch(rank, batch)
        learner.run(batch)
        trace.after_update(rank, batch.step)
        step = batch.step + 1
        if step % config.checkpoints.every == 0:
            with tempfile.TemporaryDirectory() as scratch:
                made = None
                if rank == 0:
                    state = {"encoder": encoder.state_dict(), "optimiser": learner.optimiser.state_dict(), "step": step}
                    torch.save(state, Path(scratch) / "state.pt")
                    made = ray.train.Checkpoint.from_directory(scratch)
                ray.train.report({"step": step}, checkpoint=made)


def ask(trace: Trace, rank: int) -> None:
    """Time the two collectives of a preemption poll of our ranks, here, since nothing else runs."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    begin = time.perf_counter()
    for _ in range(ASKED):
        ray.train.get_preemption_info()
        broadcast_from_rank_zero(0 if rank == 0 else None)
    if rank == 0:
        trace.tell("asked", rank, (time.perf_counter() - begin) / ASKED)


def figures(trace: Trace, stamps: list[tuple[float, str]]) -> dict[str, Any]:
    """For each kill: steps lost, seconds by phase, and seconds until the run was back at its former step."""
    events = trace.events()

    def first_logged(text: str, after: float) -> float:
        return next(at for at, message in stamps if at >= after and message.startswith(text))

    kills = []
    for killed, _, _, number in (event for event in events if event[1] == "kill"):
        moments = [killed]
        for text in LOGGED:
            moments.append(first_logged(text, moments[-1]))
        later = [event for event in events if event[0] > moments[-1]]
        begun = [next(event for event in later if event[1:3] == ("batch", other)) for other in range(WORKERS)]
        done = [event for event in later if event[1] == "done"]
        reached = max((event[3] for event in events if event[0] <= killed and event[1] == "done"), default=-1)
        back = next((event[0] for event in done if event[3] >= reached), done[-1][0])
        moments += [max(event[0] for event in begun), done[0][0]]
        parts = {name: end - begin for name, begin, end in zip(PHASES, moments, moments[1:], strict=False)}
        lost = reached + 1 - begun[0][3]
        seconds = {"seconds": moments[-1] - killed, "back_seconds": back - killed}
        kills.append({"where": trace.kills[int(number)], "lost": lost, "parts": parts, **seconds})
    asked = [event[3] for event in events if event[1] == "asked"]
    return {"kills": kills, **({"asking_seconds": asked[0]} if asked else {})}


def side(options: argparse.Namespace, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", name, "--folder", str(options.folder)]
    command += ["--step-seconds", str(options.step_seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}:\n{done.stderr[-3_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def show_sides(options: argparse.Namespace) -> None:
    sides = {name: side(options, name) for name in (OURS, SLOW, PEER)}
    told = {name: summary(found["kills"]) for name, found in sides.items()}
    ours, peer = told[OURS], told[PEER]
    ratios = {key: peer[key] / ours[key] for key in ("lost", "seconds", "back_seconds") if ours[key]}
    asking = sides[PEER]["asking_seconds"]
    if options.json:
        print(json.dumps({"sides": sides, "medians": told, "peer_over_ours": ratios, "asking_seconds": asking}))
        return
    title = f"SIGKILL to the next step: medians of {len(KILLS)} kills, seconds; steps take {options.step_seconds:g} s"
    table = Table("side", "steps lost", *PHASES, "next step", "back where it was", title=title)
    for name, found in told.items():
        cells = (*(found[phase] for phase in PHASES), found["seconds"], found["back_seconds"])
        lost = "/".join(f"{kill['lost']:.0f}" for kill in sides[name]["kills"])
        table.add_row(name, lost, *(f"{cell:.1f}" for cell in cells))
    console = Console(width=130)
    console.print(table)
    console.print(", ".join(f"{key.replace('_', ' ')}: peer / ours {ratio:.2f}" for key, ratio in ratios.items()))
    console.print(f"To ask whether a node is about to go: {1e3 * asking:.1f} ms, once in five seconds")


def summary(kills: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the kills."""
    rows = [{**kill["parts"], **{key: kill[key] for key in ("lost", "seconds", "back_seconds")}} for kill in kills]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show_grid(options: argparse.Namespace) -> None:
    """Kill one run at twenty places; its last checkpoint must equal that of an undisturbed run."""
    killed = side(options, "grid killed")["kills"]
    side(options, "grid undisturbed")
    last = f"checkpoints/step-{GRID_STEPS:08d}"
    ours, theirs = (options.folder / "runs" / name / last for name in ("grid-killed", "grid-undisturbed"))
    files = sorted(path.name for path in theirs.iterdir())
    equal = {name: (ours / name).read_bytes() == (theirs / name).read_bytes() for name in files}
    if options.json:
        print(json.dumps({"kills": killed, "equal": equal}))
    else:
        table = Table("step", "rank", "place", "steps lost", "seconds", title=f"{len(killed)} kills in one run")
        for kill in killed:
            table.add_row(*map(str, kill["where"]), f"{kill['lost']:.0f}", f"{kill['seconds']:.1f}")
        console = Console()
        console.print(table)
        for name, same in equal.items():
            console.print(f"{name}: {'equal, bit for bit' if same else 'DIFFERENT'}")
    if len(killed) != len(grid()) or not all(equal.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
