"""Configurations: YAML and overrides in, frozen values out; every mistake is named with what to write instead."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_ray.errors import ConfigError
from hbt_ray.train.loss.terms import Lakda
from hbt_ray.train.settings import TrainConfig

MINIMAL = "name: a\nstore: s\n"


def load(tmp_path: Path, text: str, *overrides: str) -> TrainConfig:
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return TrainConfig.load(path, overrides)


def test_overrides_reach_any_depth(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "plan.alpha=0.3", "plan.languages=[de, zh_hant]", "optimiser.learning_rate=3e-5")
    assert config.plan.alpha == 0.3
    assert config.plan.languages == ("de", "zh-Hant")
    assert config.optimiser.learning_rate == 3e-5


def test_an_override_reaches_into_what_was_null(tmp_path: Path) -> None:
    written = load(tmp_path, MINIMAL).to_yaml()
    assert "lakda: null" in written
    assert load(tmp_path, written, "loss.lakda.weight=2").loss.terms == {"lakda": Lakda(weight=2)}


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "plan.languages=['no', de]")
    assert load(tmp_path, config.to_yaml()) == config


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            MINIMAL + "plan: {alhpa: 0.3}",
            (),
            r"train\.yaml: plan: unknown key 'alhpa'; did you mean 'alpha'\? Known: policy",
        ),
        (MINIMAL, ("optimizer.steps=3",), r"unknown key 'optimizer'; did you mean 'optimiser'\?"),
        (MINIMAL + "plan: {alpha: 1.5}", (), r"plan\.alpha\.number: .*less than or equal to 1 \(got 1\.5\)"),
        (MINIMAL + "plan: {policy: both}", (), r"plan\.policy: .*'mono', 'cross', 'hybrid' or 'mixed'"),
        (MINIMAL + "plan: {languages: [de, no]}", (), r"plan\.languages\.1: .*write 'no' in quotes"),
        (MINIMAL + "plan: {languages: [german]}", (), r"'german' is no BCP-47 language tag"),
        ("store: s\n", (), r"name: Field required"),
        (MINIMAL + "plan: {alpha: 2, batch_size: 0}", (), r"plan\.alpha.*; plan\.batch_size"),
        ("- a\n- b\n", (), r"holds a list, not keys and values"),
        ("name: [a\n", (), r"cannot be read as YAML"),
        (MINIMAL, ("plan.alpha",), r"'plan\.alpha' is no override; write key=value"),
        (MINIMAL, ("name.deep=1",), r"there is nothing|cannot set"),
        ("name: ../up\nstore: s", (), r"no plain folder name; put the path into storage_path"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text, *overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        TrainConfig.load(tmp_path / "nowhere.yaml")


@given(st.text(max_size=40))
def test_no_override_ends_in_a_traceback(text: str) -> None:
    with contextlib.suppress(ConfigError):
        TrainConfig.make({"name": "a", "store": "s"}, "test", (text,))


def test_configurations_are_frozen() -> None:
    config = TrainConfig.make({"name": "a", "store": "s"}, "test")
    with pytest.raises(Exception, match="frozen"):
        config.name = "b"  # type: ignore[misc]
