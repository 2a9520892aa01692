"""`hbt demo`: prepare, train, evaluate and report on embedded data, with the two YAML files of `hbt_ray/demo`.

It does the same as `hbt prepare`, `hbt train`, `hbt evaluate --untrained` and `hbt report` with those files.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hbt_ray.cli.arguments import JsonOption, Overrides

if TYPE_CHECKING:
    from hbt_ray.retrieval.result import EvaluationResult
    from hbt_ray.train.config import TrainConfig

TASK = "worldfacts"


def demo(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of the store, the run and the report.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Prepare, train on two workers, evaluate and report on embedded data, in some minutes on two cores.

    `plan.policy` can be hybrid, mono, cross or mixed; each policy is a run of its own. A second call continues the
    first.
    """
    from hbt_ray.cli.evaluate import evaluate_tasks
    from hbt_ray.cli.store import make_store
    from hbt_ray.cli.train import exclusive_run, train_run
    from hbt_ray.console import Screen
    from hbt_ray.data.prepare import StoreConfig
    from hbt_ray.ray_session import session
    from hbt_ray.report.headline import headline_table
    from hbt_ray.report.runs import make_report
    from hbt_ray.retrieval.encoder import EncoderConfig
    from hbt_ray.retrieval.tasks import open_task
    from hbt_ray.train.config import TrainConfig
    from hbt_ray.train.driver.trainer import open_run

    screen, folder = Screen(as_json), out.absolute()
    store = StoreConfig.make(_values("store.yaml"), "store.yaml", [f"path={folder}/stores/worldfacts"])
    settings = [f"store={store.path}", f"storage_path={folder}/runs", *(overrides or ())]
    # The policy is part of the run's name, so the settings are read twice.
    policy = TrainConfig.make(_values("train.yaml"), "train.yaml", settings).plan.policy
    config = TrainConfig.make(_values("train.yaml"), "train.yaml", [f"name=demo-{policy}", *settings])
    run = config.run
    make_store(store, screen)
    with exclusive_run(config), session():
        task = open_task(TASK)
        opened = open_run(config)
        (untrained,) = evaluate_tasks(run, EncoderConfig(model=str(run.base)), [task], screen, of_base=True)
        train_run(config, screen, opened=opened)
        (trained,) = evaluate_tasks(run, EncoderConfig(model=str(run.model)), [task], screen)
    page = make_report([run], run.report)
    screen.table(headline_table([trained], untrained))
    screen.log(_summary(config, untrained, trained))
    screen.log(f"Report: {page}    encoder: {run.model}")
    screen.result({"results": [untrained.model_dump(), trained.model_dump()], "report": page})


def _summary(config: TrainConfig, untrained: EvaluationResult, trained: EvaluationResult) -> str:
    from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL

    before, after = untrained.settings, trained.settings
    return (
        f"{config.optimiser.steps} steps of {config.plan} batches took an untrained encoder from AP "
        f"{before[MONOLINGUAL]['AP']:.3f} to {after[MONOLINGUAL]['AP']:.3f} within a language, "
        f"{before[CROSS_LINGUAL]['AP']:.3f} to {after[CROSS_LINGUAL]['AP']:.3f} across languages and "
        f"{before[MULTILINGUAL]['AP']:.3f} to {after[MULTILINGUAL]['AP']:.3f} in the pool of "
        f"{len(trained.languages)} languages, on facts that it was not trained on."
    )


def _values(name: str) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = yaml.safe_load((files("hbt_ray.demo") / name).read_text(encoding="utf-8"))
    return values
