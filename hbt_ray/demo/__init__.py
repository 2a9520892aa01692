"""The demo: the whole way, from facts to a judged encoder, on embedded data and two cores.

It does what `hbt prepare`, `hbt train`, `hbt evaluate --untrained` and `hbt report` do with the two YAML files beside
this module, which are good to start from.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hbt_ray.console import Screen
from hbt_ray.data.prepare import StoreConfig
from hbt_ray.ray_session import session
from hbt_ray.report.runs import make_report
from hbt_ray.retrieval.encoder import EncoderConfig
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL, EvaluationResult
from hbt_ray.retrieval.tasks import open_task
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import open_run
from hbt_ray.workflow.data import make_store
from hbt_ray.workflow.judging import evaluate_tasks
from hbt_ray.workflow.training import exclusive_run, train_run

TASK = "worldfacts"


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo made."""

    config: TrainConfig
    untrained: EvaluationResult
    trained: EvaluationResult
    report: Path

    @property
    def sentence(self) -> str:
        before, after = self.untrained.settings, self.trained.settings
        return (
            f"{self.config.optimiser.steps} steps of {self.config.plan} batches took an untrained encoder from AP "
            f"{before[MONOLINGUAL]['AP']:.3f} to {after[MONOLINGUAL]['AP']:.3f} within a language, "
            f"{before[CROSS_LINGUAL]['AP']:.3f} to {after[CROSS_LINGUAL]['AP']:.3f} across languages and "
            f"{before[MULTILINGUAL]['AP']:.3f} to {after[MULTILINGUAL]['AP']:.3f} in the pool of "
            f"{len(self.trained.languages)} languages, on facts it was never taught."
        )


def run_demo(folder: Path, policy: str, screen: Screen, overrides: tuple[str, ...] = ()) -> Demo:
    """Prepare, judge untrained, train, judge, report; everything lands under `folder`. Run again, it continues."""
    places = (f"store={folder}/stores/worldfacts", f"storage_path={folder}/runs")
    store = StoreConfig.make(_values("store.yaml"), "store.yaml", (f"path={folder}/stores/worldfacts",))
    named = (f"name=demo-{policy}", f"plan.policy={policy}")
    config = TrainConfig.make(_values("train.yaml"), "train.yaml", (*places, *named, *overrides))
    run = config.run
    make_store(store, screen)
    with exclusive_run(config), session():
        task = open_task(TASK)
        open_run(config)
        untrained = evaluate_tasks(run, EncoderConfig(model=str(run.base)), [task], screen, of_base=True)[0]
        train_run(config, screen)
        trained = evaluate_tasks(run, EncoderConfig(model=str(run.model)), [task], screen)[0]
    return Demo(config, untrained, trained, make_report([run], run.report))


def _values(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((files("hbt_ray.demo") / name).read_text(encoding="utf-8"))
    return values
