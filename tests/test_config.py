"""Configurations: YAML and overrides in, frozen values out; every mistake is named with what to write instead."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_ray.config import without_secrets
from hbt_ray.data.sources.file_sources import SquadSource
from hbt_ray.errors import ConfigError
from hbt_ray.strict_yaml import read_yaml
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.loss.terms import Lakda

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
        (MINIMAL + "plan: {languages: [de, true]}", (), r"plan\.languages\.1: True is not a language"),
        (MINIMAL + "plan: {languages: [german]}", (), r"'german' is no BCP-47 language tag"),
        ("store: s\n", (), r"name: Field required"),
        (MINIMAL + "plan: {alpha: 2, batch_size: 0}", (), r"plan\.alpha.*; plan\.batch_size"),
        ("- a\n- b\n", (), r"holds a list, not keys and values"),
        ("name: [a\n", (), r"cannot be read as YAML"),
        (MINIMAL, ("plan.alpha",), r"'plan\.alpha' is not KEY=VALUE; write"),
        (MINIMAL, ("name.deep=1",), r"has no keys|cannot set"),
        ("name: ../up\nstore: s", (), r"cannot name a file or folder"),
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
    for override in (text, f"name={text}", f"plan={text}", f"{text}=1", f"plan.languages=[{text}]"):
        with contextlib.suppress(ConfigError):
            TrainConfig.make({"name": "a", "store": "s"}, "test", (override,))


def bomb(levels: int = 12) -> str:
    """Aliases of aliases: 9 ** `levels` values in some 500 bytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


HOSTILE = {
    "an alias bomb": (bomb(), "more than 100,000 values"),
    "an alias within itself": ("plan: &a [*a]", "contains itself"),
    "lists of lists": (MINIMAL + "plan: " + "[" * 5000, "nested more than 50 deep"),
    "mappings of mappings": (MINIMAL + "plan: " + "{a: " * 5000, "nested more than 50 deep"),
    "a key twice": (MINIMAL + "store: t\n", "duplicate key 'store' in line 3"),
    "a key twice within": (MINIMAL + "plan: {alpha: 0.1, alpha: 0.2}", "duplicate key 'alpha' in line 3"),
    "thousands of digits": (MINIMAL + "plan: {seed: " + "9" * 5000 + "}", "a number of 5,000 digits in line 3"),
    "digits as text": (MINIMAL + "plan: {seed: '" + "9" * 4000 + "'}", "an integer of 13288 bits"),
    "beyond 64 bits": (MINIMAL + "plan: {seed: 18446744073709551616}", "an integer of 65 bits"),
    "infinity": (MINIMAL + "optimiser: {learning_rate: .inf}", "finite number"),
    "not a number": (MINIMAL + "plan: {alpha: .nan}", "finite number"),
    "infinity as text": (MINIMAL + "plan: {dataset_weights: {a: '1e999'}}", "finite number"),
    "a NUL": ('name: "a\\0b"\nstore: s\n', "unprintable character"),
    "a raw NUL": ("name: a\0b\nstore: s\n", "cannot be read as YAML"),
    "half a surrogate pair": ('name: a\nstore: "s\\ud800"\n', "half a surrogate pair"),
    "an object of Python": ("!!python/object/apply:os.system [ls]", "tag"),
    "a bad date with its tag": ("name: !!timestamp 2020-13-45", "tag"),
    "a long key": ("? " + "k" * 100_000 + "\n: 1", "unknown key"),
    "many keys": ("plan: {languages: [" + "xx, " * 1000 + "]}", "and 9"),
    "a long file": ("# " + "x" * (5 << 20), "more than 4 MiB"),
    "a list as name": ("store: s\nname: [" + "x, " * 9999 + "]", "name: Input should be a valid string"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_one_short_line(tmp_path: Path, case: str) -> None:
    text, message = HOSTILE[case]
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    line = str(error.value)
    assert message in line
    assert "train.yaml" in line
    assert "\n" not in line
    assert len(line) < 4000


@pytest.mark.parametrize("override", ["store=" + "[" * 1000, "plan.seed=" + "9" * 5000, "a." * 5000 + "b=1",
                                      "plan.languages.²=de", "name=\ud800", "plan={alpha: 1, alpha: 2}",
                                      "plan.languages=[de, deu]x"])  # fmt: skip
def test_hostile_overrides_end_in_one_short_line(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig.make({"name": "a", "store": "s", "plan": {"languages": ["de"]}}, "test", (override,))
    assert len(str(error.value)) < 1000


def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path) -> None:
    for text in ("2020-01-01", "2020-13-45", "12:30", "no", "on", "007", "1e5", "0x1f", "1_000"):
        assert load(tmp_path, f"name: {text}\nstore: s\n").name == text
    config = load(tmp_path, "name: a\nstore: s\nplan: {languages: [no, on], seed: 1_000}".replace(", on", ""))
    assert config.plan.languages == ("no",)
    assert config.plan.seed == 1000
    again = load(tmp_path, TrainConfig.make({"name": "2020-01-01", "store": "1e5"}, "test").to_yaml())
    assert (again.name, again.store) == ("2020-01-01", "1e5")


def test_what_an_alias_stands_for_is_changed_in_one_place(tmp_path: Path) -> None:
    text = MINIMAL + "workers: &w {count: 2}\nplan: {dataset_weights: {a: 1}}\nteacher: null\n"
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n", encoding="utf-8")
    values = read_yaml(path)
    values["a"]["x"] = 2
    assert values == {"a": {"x": 2}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    assert load(tmp_path, text, "workers.count=3").workers.count == 3


def test_languages_are_one_however_they_are_spelt() -> None:
    made = TrainConfig.make({"name": "a", "store": "s", "plan": {"languages": ["iw", "en", "eng_Latn", "he"]}}, "test")
    assert made.plan.languages == ("he", "en")
    with pytest.raises(ConfigError, match=r"'en' and 'eng_Latn' are one language"):
        SquadSource.make({"kind": "squad", "name": "s", "files": {"en": "a.json", "eng_Latn": "b.json"}}, "test")


YAML_PIECES = [
    "name", "store", "plan", "a", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", "&x ", "*x", "<<", "!!str ", "|",
    ">", "'", '"', "#", "2020-01-01", "9" * 50, "9" * 5000, ".inf", "\\ud800", "\t", "? ", "%YAML 1.1\n", "---", "...",
    "~", "true", "\u2028", "no",
]  # fmt: skip
YAML_WORDS = st.lists(st.sampled_from(YAML_PIECES), max_size=25)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(YAML_WORDS.map("".join).map(str.encode) | st.binary(max_size=60))
def test_any_file_is_a_configuration_or_an_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.yaml"
        path.write_bytes(content)
        message = ""
        try:
            TrainConfig.load(path)
        except ConfigError as error:
            message = str(error)
        assert len(message) < 8000


def test_configurations_are_frozen() -> None:
    config = TrainConfig.make({"name": "a", "store": "s"}, "test")
    with pytest.raises(Exception, match="frozen"):
        config.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("s3://KEY:SE/CR+ET@bucket/a", "s3://bucket/a"),
        ("s3://KEY:SE%2FCR@bucket/a@v1", "s3://bucket/a@v1"),
        ("https://user:p@ss@host/x", "https://host/x"),
        ("s3://bucket/store?access_key=A&secret_key=B&region=eu", "s3://bucket/store?region=eu"),
        ("s3://bucket/store?region=eu&session_token=C", "s3://bucket/store?region=eu"),
        ("s3://bucket/store?secret_key=B", "s3://bucket/store"),
        ("https://user:p%40ss@host:5000/x#y", "https://host:5000/x#y"),
        ("https://hf_token@host/x", "https://host/x"),
        ("postgresql+psycopg2://me:pw@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        ("http://host:8080/a@b?monitor=1", "http://host:8080/a@b?monitor=1"),
        ("s3://bucket/store", "s3://bucket/store"),
        ("query: key=1", "query: key=1"),
        ("/a/folder?token=1", "/a/folder?token=1"),
    ],
)
def test_keys_and_passwords_are_not_written(text: str, published: str) -> None:
    assert without_secrets({"a": [text, 1], "b": None}) == {"a": [published, 1], "b": None}
