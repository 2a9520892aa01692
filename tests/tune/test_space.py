"""Search spaces: values become a configuration, or an error before a trial starts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from hbt_ray.errors import ConfigError
from hbt_ray.tune.config import TuneConfig
from hbt_ray.tune.space import Space, load_space
from hbt_ray.tune.trainable import trial_folder
from tests.small_data import small_run

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "tune_spaces").glob("[!_]*.py"))


def base(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    return small_run(tmp_path, *overrides).model_dump(mode="json")


def test_values_become_a_configuration_and_the_seed_is_of_weights_and_dropout(tmp_path: Path) -> None:
    space = Space({"plan.alpha": [0.1, 0.9], "loss.lakda": [None]}, seeds=2)
    config = space.config(base(tmp_path), {"plan.alpha": 0.9, "loss.lakda": {"weight": 2.0}, "seed": 1}, "x", tmp_path)
    assert (config.plan.alpha, config.model.seed, config.optimiser.seed, config.plan.seed) == (0.9, 1, 1, 0)
    assert config.loss.lakda is not None
    assert config.loss.lakda.weight == 2
    assert config.run.root == tmp_path / "x"


def test_the_base_is_not_changed_and_unset_parents_are_made(tmp_path: Path) -> None:
    fields = base(tmp_path)
    before = base(tmp_path)
    space = Space({"loss.alignment.weight": [1.0]})
    config = space.config(fields, {"loss.alignment.weight": 3.0}, "x", tmp_path)
    assert config.loss.alignment is not None
    assert config.loss.alignment.weight == 3
    assert fields == before


def test_a_key_that_the_configuration_does_not_know_is_named_with_the_values(tmp_path: Path) -> None:
    space = Space({"plan.alfa": [0.3]})
    with pytest.raises(ConfigError, match=r"the space, at plan\.alfa=0\.3.*alfa"):
        space.config(base(tmp_path), {"plan.alfa": 0.3}, "x", tmp_path)
    with pytest.raises(ConfigError, match=r"the space, at plan\.alpha=3"):
        space.config(base(tmp_path), {"plan.alpha": 3}, "x", tmp_path)


def test_a_space_has_to_vary_something_and_domains_are_lists_or_of_tune() -> None:
    with pytest.raises(ConfigError) as error:
        Space({})
    assert error.value.code == "INVALID_SPACE"
    for wrong in (0.5, [], (0.1, 0.2)):
        with pytest.raises(ConfigError) as error:
            Space({"plan.alpha": wrong})
        assert error.value.code == "INVALID_SPACE"
    space = Space({"plan.alpha": tune.uniform(0, 1), "plan.cross": ["rows"]})
    assert (space.drawn, space.varied) == (["plan.alpha"], "plan.alpha")


def test_modules_and_files_are_found_and_others_are_named(tmp_path: Path) -> None:
    space, question = load_space("tune_spaces.mixing_ratio")
    assert space.seeds == 3
    assert question.startswith("Which share of monolingual batches")
    own = tmp_path / "own.py"
    own.write_text('"""Mine?"""\nfrom hbt_ray.tune import Space\nSPACE = Space({"plan.alpha": [0.5]})\n')
    assert load_space(str(own))[1] == "Mine?"
    with pytest.raises(ConfigError, match=r"mixing_ratio") as error:
        load_space("tune_spaces.mixing")
    assert error.value.code == "NO_SPACE"
    with pytest.raises(ConfigError) as error:
        load_space(str(tmp_path / "none.py"))
    assert error.value.code == "NO_SPACE"
    own.write_text("SPACE = 3\n")
    with pytest.raises(ConfigError) as error:
        load_space(str(own))
    assert error.value.code == "INVALID_SPACE"
    own.write_text("import nothing_of_that_name\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        load_space(str(own))


@pytest.mark.parametrize("name", NAMES)
def test_every_space_asks_a_question_and_says_what_it_costs(name: str) -> None:
    space, question = load_space(f"tune_spaces.{name}")
    assert question.split("\n")[0].endswith("?")
    assert "Costs" in question
    TuneConfig.make(dict(space.settings), name)
    assert importlib.import_module(f"tune_spaces.{name}").SPACE is space


def test_a_run_keeps_its_folder_when_its_values_change(tmp_path: Path) -> None:
    first = trial_folder(tmp_path, {"plan.alpha": 0.123456, "x": ["a/b"]}, "ab_1")
    assert first.name == "alpha=0.1235,x=_a_b_-ab_1"
    first.mkdir()
    assert trial_folder(tmp_path, {"plan.alpha": 0.9}, "ab_1") == first
    assert trial_folder(tmp_path, {"plan.alpha": 0.9}, "ab_2") != first
