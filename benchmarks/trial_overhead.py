"""The cost of a trial besides its training steps: a search of ours beside Ray Tune around a plain TorchTrainer.

Both train the same small encoder from scratch on the same texts for as many steps, one trial after another, report a
figure at as many checkpoints, and are timed from the start of the search to its end; the seconds of the steps
themselves, as the loop measures them, are taken off. The peer is what Ray's guide shows: a function trainable that
fits a TorchTrainer whose reports a callback hands to Tune, with checkpoints of the model and the optimiser.

    python benchmarks/trial_overhead.py [--trials 4] [--steps 40] [--every 10]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hbt_ray.ray_session import session

MODEL = {"layers": 1, "width": 64, "heads": 2, "vocabulary": 2_000}
LANGUAGES = ["de", "en", "zh"]
ROWS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        stores(folder)
        sides = {}
        # Ours runs before and after the peer, so that a drift of the machine's speed cancels out.
        for name, side in (("hbt_ray", ours), ("Ray Tune, plain TorchTrainer", plain), ("hbt_ray again", ours)):
            with session(spare_cpus=False):
                begin = time.perf_counter()
                steps = side(folder / name.replace(" ", "-"), folder, options)
                sides[name] = (time.perf_counter() - begin, steps)
    table = Table("", "all, s a trial", "steps, s a trial", "besides, s a trial")
    for name, (whole, steps) in sides.items():
        figures = (whole, steps, whole - steps)
        table.add_row(name, *(f"{seconds / options.trials:.2f}" for seconds in figures))
    Console().print(table)
    besides = {name: whole - steps for name, (whole, steps) in sides.items()}
    ratio = (besides["hbt_ray"] + besides["hbt_ray again"]) / 2 / besides["Ray Tune, plain TorchTrainer"]
    print(f"besides the steps: {ratio:.2f} times Ray Tune's")


def stores(folder: Path) -> None:
    """Texts to train on and to validate with."""
    from hbt_ray.data.prepare import StoreConfig, prepare

    for split, name in (("train", "store"), ("dev", "dev")):
        source = {"kind": "worldfacts", "split": split, "languages": LANGUAGES}
        prepare(StoreConfig.make({"path": str(folder / name), "sources": [source]}, "benchmark"))


def config(folder: Path, options: argparse.Namespace, name: str) -> Any:
    from hbt_ray.train.config import TrainConfig

    values = {
        "name": name,
        "storage_path": str(folder),
        "store": str(folder / "store"),
        "model": MODEL | {"max_question_length": 24, "max_passage_length": 32},
        "plan": {"batch_size": ROWS},
        "optimiser": {"steps": options.steps},
        "checkpoints": {"every": options.every},
        "validation": {"store": str(folder / "dev"), "items": 64},
        "trackers": {"use": []},
    }
    return TrainConfig.make(values, "benchmark")


def ours(place: Path, folder: Path, options: argparse.Namespace) -> float:
    """Seconds of all trials' steps."""
    from hbt_ray.tune.config import TuneConfig
    from hbt_ray.tune.search import Search
    from hbt_ray.tune.search_state import trial_run
    from hbt_ray.tune.space import Space

    space = Space({"plan.alpha": [round(0.1 * (1 + number), 1) for number in range(options.trials)]})
    search = Search(space, "benchmark", config(folder, options, place.name), TuneConfig())
    state = search.run(concurrent=1)
    assert [trial.status for trial in state.trials] == ["finished"] * options.trials
    rows = [row for trial in state.trials for row in trial_run(search.folder, trial).curve()]
    # The time of a step includes the wait for its batch, which is part of the overhead.
    return sum(ROWS / row["pairs_per_second"] - row["stall_seconds"] for row in rows)


def plain(place: Path, folder: Path, options: argparse.Namespace) -> float:
    """Seconds of all trials' steps."""
    from ray import tune

    texts = sample(folder)
    base = folder / "base"
    build_base(folder, base, options)

    def trial(values: dict[str, Any]) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        TorchTrainer(
            train_plainly,
            train_loop_config={"base": str(base), "texts": texts, "steps": options.steps, "every": options.every},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name=tune.get_context().get_trial_id(), storage_path=str(place), callbacks=[TuneReportCallback()]
            ),
        ).fit()

    tuner = tune.Tuner(
        trial,
        param_space={"alpha": tune.grid_search(list(range(options.trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(place), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    return sum(result.metrics["seconds"] for result in results)


def sample(folder: Path) -> list[tuple[str, str]]:
    """Questions and passages, as many as the steps can want."""
    from hbt_ray.data.store.store import Store

    texts = list(Store(folder / "store").sample_texts(tuple(LANGUAGES)))
    return list(zip(texts[::2], texts[1::2], strict=False))


def build_base(folder: Path, base: Path, options: argparse.Namespace) -> None:
    from hbt_ray.data.store.store import Store
    from hbt_ray.model.build import build_encoder

    texts = Store(folder / "store").sample_texts(tuple(LANGUAGES))
    build_encoder(config(folder, options, "base").model, texts).save_pretrained(str(base), create_model_card=False)


def train_plainly(settings: dict[str, Any]) -> None:
    """A training loop as in a guide: sentence-transformers' loss, checkpoints by Ray Train."""
    import ray.train
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.set_num_threads(1)
    model = SentenceTransformer(settings["base"], device="cpu")
    loss = MultipleNegativesRankingLoss(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pairs, seconds = settings["texts"], 0.0
    for step in range(settings["steps"]):
        begin = time.perf_counter()
        rows = [pairs[(step * ROWS + row) % len(pairs)] for row in range(ROWS)]
        features = [model.preprocess([row[side] for row in rows]) for side in (0, 1)]
        value = loss(features, None)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        seconds += time.perf_counter() - begin
        if (step + 1) % settings["every"] == 0:
            with tempfile.TemporaryDirectory() as folder:
                torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, Path(folder) / "state")
                checkpoint = ray.train.Checkpoint.from_directory(folder)
                ray.train.report({"loss": value.item(), "seconds": seconds}, checkpoint=checkpoint)


if __name__ == "__main__":
    main()
