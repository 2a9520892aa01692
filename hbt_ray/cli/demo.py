"""`hbt demo`: prepare, train, evaluate and report on embedded data, with the two YAML files of `hbt_ray/demo`.

It does the same as `hbt prepare`, `hbt train`, `hbt evaluate --untrained` and `hbt report` with those files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hbt_ray.cli.arguments import JsonOption, Overrides

if TYPE_CHECKING:
    from hbt_ray.console import Screen
    from hbt_ray.retrieval.result import EvaluationResult
    from hbt_ray.train.config import TrainConfig

TASK = "worldfacts"


@dataclass(frozen=True, slots=True)
class Demo:
    """The outcome of the demo."""

    config: TrainConfig
    untrained: EvaluationResult
    trained: EvaluationResult
    report: Path

    @property
    def summary(self) -> str:
        from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL

        before, after = self.untrained.settings, self.trained.settings
        return (
            f"{self.config.optimiser.steps} steps of {self.config.plan} batches took an untrained encoder from AP "
            f"{before[MONOLINGUAL]['AP']:.3f} to {after[MONOLINGUAL]['AP']:.3f} within a language, "
            f"{before[CROSS_LINGUAL]['AP']:.3f} to {after[CROSS_LINGUAL]['AP']:.3f} across languages and "
            f"{before[MULTILINGUAL]['AP']:.3f} to {after[MULTILINGUAL]['AP']:.3f} in the pool of "
            f"{len(self.trained.languages)} languages, on facts that it was not trained on."
        )


def demo(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of the store, the run and the report.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Prepare, train on two workers, evaluate and report on embedded data, in some minutes on two cores.

    `plan.policy` can be hybrid, mono, cross or mixed; each policy is a run of its own.
    """
    from hbt_ray.console import Screen
    from hbt_ray.report.headline import headline_table

    screen = Screen(as_json)
    outcome = run_demo(out.absolute(), screen, overrides or ())
    screen.table(headline_table([outcome.trained], outcome.untrained))
    screen.log(outcome.summary)
    screen.log(f"Report: {outcome.report}    encoder: {outcome.config.run.model}")
    screen.result({"results": [outcome.untrained.model_dump(), outcome.trained.model_dump()], "report": outcome.report})


def run_demo(folder: Path, screen: Screen, overrides: Sequence[str] = ()) -> Demo:
    """Prepare, evaluate untrained, train, evaluate, report; everything is written below `folder`. A second call
    continues the first."""
    from hbt_ray.cli.evaluate import evaluate_tasks
    from hbt_ray.cli.store import make_store
    from hbt_ray.cli.train import exclusive_run, train_run
    from hbt_ray.data.prepare import StoreConfig
    from hbt_ray.ray_session import session
    from hbt_ray.report.runs import make_report
    from hbt_ray.retrieval.encoder import EncoderConfig
    from hbt_ray.retrieval.tasks import open_task
    from hbt_ray.train.config import TrainConfig
    from hbt_ray.train.driver.trainer import open_run

    store = StoreConfig.make(_values("store.yaml"), "store.yaml", [f"path={folder}/stores/worldfacts"])
    paths = [f"store={store.path}", f"storage_path={folder}/runs"]
    policy = TrainConfig.make(_values("train.yaml"), "train.yaml", [*paths, *overrides]).plan.policy
    config = TrainConfig.make(_values("train.yaml"), "train.yaml", [*paths, f"name=demo-{policy}", *overrides])
    run = config.run
    make_store(store, screen)
    with exclusive_run(config), session():
        task = open_task(TASK)
        opened = open_run(config)
        (untrained,) = evaluate_tasks(run, EncoderConfig(model=str(run.base)), [task], screen, of_base=True)
        train_run(config, screen, opened=opened)
        (trained,) = evaluate_tasks(run, EncoderConfig(model=str(run.model)), [task], screen)
    return Demo(config, untrained, trained, make_report([run], run.report))


def _values(name: str) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = yaml.safe_load((files("hbt_ray.demo") / name).read_text(encoding="utf-8"))
    return values
