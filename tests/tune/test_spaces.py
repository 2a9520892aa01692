"""The spaces of `tune_spaces`: each makes configurations that train, and each runs to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.errors import ConfigError
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.search import Search
from hbt_ray.tune.space import load_space
from tests.small_data import small_store
from tests.tune.sweep import searched
from tests.tune.test_space import NAMES

SMALL: dict[str, Any] = {"mixing_policy": {"samples": 2}, "alpha_schedule": {"samples": 2, "segment": 10}}
"""What has no end of its own."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data, whose languages are of six families."""
    folder = tmp_path_factory.mktemp("spaces")
    for split, name in (("train", "store"), ("dev", "dev")):
        sources = [{"kind": "worldfacts", "split": split}]
        prepare(StoreConfig.make({"path": str(folder / name), "sources": sources}, "test"))
    return folder


def prepared(workspace: Path, name: str, store: str = "store") -> tuple[Search, str]:
    space, question = load_space(f"tune_spaces.{name}")
    values = {
        "name": name,
        "store": str(workspace / store),
        "storage_path": str(workspace / "runs"),
        "model": {"layers": 2, "width": 32, "heads": 2, "vocabulary": 2000, "max_question_length": 16,
                  "max_passage_length": 16},
        "plan": {"batch_size": 64},
        "optimiser": {"steps": 20, "learning_rate": 1e-3},
        "checkpoints": {"every": 10},
        "validation": {"store": str(workspace / "dev"), "items": 32},
    }  # fmt: skip
    base = TrainConfig.make(values, "test")
    settings = {"concurrent": 2, **space.settings, **SMALL.get(name, {})}
    return Search(replace(space, seeds=1), name, base, TuneConfig.make(settings, name)), question


@pytest.mark.parametrize("name", NAMES)
def test_every_combination_is_a_configuration(workspace: Path, name: str) -> None:
    search, _ = prepared(workspace, name)
    assert search.num_trials >= 2


def test_a_family_that_the_store_lacks_is_named(tmp_path: Path) -> None:
    small_store(tmp_path / "store")
    with pytest.raises(ConfigError, match="no language of the family 'Turkic'; remove it from FAMILIES"):
        prepared(tmp_path, "transfer")


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_every_space_runs_to_its_end(workspace: Path, ray_session: None, name: str) -> None:
    search, _ = prepared(workspace, name)
    outcome = searched(search)
    trained = [trial for trial in outcome.state.trials if not trial.posthoc]
    assert [trial.status for trial in trained] == ["finished"] * search.num_trials
    assert outcome.front
    assert len(outcome.configs) == len(search.settings.objectives)
    html = outcome.report.read_text(encoding="utf-8")
    assert ("Critical batch size" in html) == (name == "batch_size")
    if search.settings.posthoc:
        assert len(outcome.state.trials) == len(trained) * (1 + len(search.settings.posthoc))
