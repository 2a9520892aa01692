"""Validation: the same dev set everywhere, the measures of evaluation, the record, and what a run does with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hbt_ray.cli.train import train_run
from hbt_ray.console import Screen
from hbt_ray.data.prepare import StoreConfig, prepare
from hbt_ray.data.store.store import Store
from hbt_ray.errors import CheckpointError, ConfigError, ValidationFailed
from hbt_ray.retrieval.result import CROSS_LINGUAL, MONOLINGUAL, MULTILINGUAL
from hbt_ray.retrieval.score import score_rankings
from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex
from hbt_ray.retrieval.tasks import Task
from hbt_ray.train.checkpoint.directory import CheckpointDirectory
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.driver.trainer import fit, open_run
from hbt_ray.train.export import ExportRecord, export
from hbt_ray.train.loss.info_nce import info_nce
from hbt_ray.train.validation.config import (
    ValidationConfig,
)
from hbt_ray.train.validation.dev_set import DevSet, dev_measures, draw_items, fingerprint, make_dev_set
from hbt_ray.train.validation.record import ValidationRecord, best_step, checkpoints_to_keep, run_status
from hbt_ray.train.validation.runner import validate
from tests.small_data import LANGUAGES, small_run, small_store


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two data sets: 40 items in German and English, every fourth also in Arabic, pairs with one passage; 6 in all."""
    folder = tmp_path_factory.mktemp("uneven")

    def table(name: str, count: int, languages_of: dict[int, tuple[str, ...]]) -> dict[str, object]:
        rows = [
            {
                "item_id": f"{number}",
                "language": language,
                "question": f"{name} question {number} {language}",
                "passage": f"{name} passage {number // 2} {language}",
                "passage_id": f"{number // 2}",
            }
            for number in range(count)
            for language in languages_of[number]
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return {"kind": "table", "name": name, "path": str(path), "columns": {"passage_id": "passage_id"}}

    large = {number: ("ar", "de", "en") if number % 4 == 0 else ("de", "en") for number in range(40)}
    sources = [table("large", 40, large), table("small", 6, dict.fromkeys(range(6), ("ar", "de", "en")))]
    prepare(StoreConfig.make({"path": str(folder / "store"), "sources": sources}, "test"))
    return Store(folder / "store")


def test_the_dev_set_is_spread_over_data_sets_and_languages(uneven: Store) -> None:
    config = ValidationConfig(store=uneven.location, items=24)
    dev_set = make_dev_set(uneven, config)
    assert dev_set.languages == ("ar", "de", "en")
    # Six from the small data set, which has no more, 18 from the other; a third in each language.
    assert [sum(text.startswith(name) for text in dev_set.questions) for name in ("large", "small")] == [18, 6]
    assert np.bincount(dev_set.question_languages).tolist() == [8, 8, 8]
    assert len(set(dev_set.questions)) == 24
    again = make_dev_set(Store(uneven.location), config)
    assert (again.questions, again.passages) == (dev_set.questions, dev_set.passages)
    assert make_dev_set(uneven, config.model_copy(update={"seed": 1})).questions != dev_set.questions


def test_passages_are_there_once_in_every_language_and_known_by_their_answers(uneven: Store) -> None:
    dev_set = make_dev_set(uneven, ValidationConfig(store=uneven.location, items=46))
    assert len(dev_set.questions) == 46
    assert len(dev_set.passages) == len(set(dev_set.passages)) == 20 * 2 + 10 + 3 * 3
    for text, keys, code in zip(dev_set.questions, dev_set.positive_keys, dev_set.question_languages, strict=True):
        name, _, number, language = text.split()
        assert dev_set.languages[code] == language
        answers = [dev_set.passages[row] for row in np.flatnonzero(np.isin(dev_set.passage_keys, keys))]
        there = [tag for tag in dev_set.languages if f"{name} passage {int(number) // 2} {tag}" in dev_set.passages]
        assert answers == [f"{name} passage {int(number) // 2} {tag}" for tag in there]


def by_name(names: list[str], spread: float) -> np.ndarray:
    """Vectors of texts such as `question 7 of topic 3`: those of a topic are near each other."""
    vectors = []
    for name in names:
        topic = np.random.default_rng(int(name.split()[-1])).normal(size=16)
        own = np.random.default_rng([*name.encode()]).normal(size=16)
        vectors.append((topic + spread * own) / np.linalg.norm(topic + spread * own))
    return np.array(vectors, np.float32)


def test_the_dev_figures_do_not_depend_on_the_form_of_the_source(tmp_path: Path) -> None:
    """An id a row, no ids, an id a passage, two data sets: the texts are the same; eight questions share each."""
    texts = [(f"question {number} of topic {number // 8}", f"passage of topic {number // 8}") for number in range(96)]
    forms = {
        "an id a row": lambda number: {"passage_id": f"row {number}"},
        "no ids": lambda number: {"passage_id": ""},
        "an id a passage": lambda number: {"passage_id": f"passage {number // 8}"},
        "two data sets": lambda number: {"dataset": "ab"[number % 2]},
    }
    result = {}
    for form, columns in forms.items():
        rows = [
            {"item_id": f"i{number}", "language": "en", "question": question, "passage": passage, **columns(number)}
            for number, (question, passage) in enumerate(texts)
        ]
        path = tmp_path / f"{form}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        source = {"kind": "table", "name": "set", "path": str(path), "columns": {name: name for name in columns(0)}}
        prepare(StoreConfig.make({"path": str(tmp_path / form), "sources": [source]}, "test"))
        dev_set = make_dev_set(Store(tmp_path / form), ValidationConfig(store=str(tmp_path / form), items=96))
        assert (len(dev_set.questions), len(dev_set.passages)) == (96, 12)
        result[form] = dev_measures(by_name(dev_set.questions, 2.0), by_name(dev_set.passages, 0.0), dev_set, 0.05)
    first = result.pop("no ids")
    assert 0.5 < first["AP"] < 0.95
    for form, others in result.items():
        assert others == pytest.approx(first, rel=1e-9), form


def test_all_right_passages_of_a_question_are_relevant(tmp_path: Path) -> None:
    """Each question has three, and each passage answers two questions; one question is known by its id alone."""
    rows = [
        {"item_id": f"{q}/{d}", "language": "en", "question": f"question {q}{'!' * d if q == 4 else ''}",
         "passage": f"passage {(2 * q + d) % 12}", "question_id": f"q{q}" if q == 4 else ""}
        for q in range(6) for d in range(3)
    ]  # fmt: skip
    path = tmp_path / "several.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    source = {"kind": "table", "name": "set", "path": str(path), "columns": {"question_id": "question_id"}}
    prepare(StoreConfig.make({"path": str(tmp_path / "store"), "sources": [source]}, "test"))
    dev_set = make_dev_set(Store(tmp_path / "store"), ValidationConfig(store=str(tmp_path / "store"), items=18))
    assert len(dev_set.passages) == 12
    for question, keys in zip(dev_set.questions, dev_set.positive_keys, strict=True):
        number = int(question.rstrip("!").split()[1])
        answers = {int(dev_set.passages[row].split()[1]) for row in np.flatnonzero(np.isin(dev_set.passage_keys, keys))}
        assert answers == {(2 * number + d) % 12 for d in range(3)}


def test_a_sample_is_the_head_of_a_larger_one(uneven: Store) -> None:
    info = uneven.manifest.datasets[0]
    large, codes = draw_items(info, ("de", "en"), 30, 7)
    small, few = draw_items(info, ("de", "en"), 11, 7)
    assert large[:11].tolist() == small.tolist()
    assert codes[:11].tolist() == few.tolist()
    assert len(set(draw_items(info, ("de", "en"), 1_000, 7)[0].tolist())) == 40


def test_only_what_changes_the_measures_changes_the_fingerprint(uneven: Store) -> None:
    config = ValidationConfig(store="elsewhere")
    same = config.model_copy(update={"measure": "pool_loss", "patience": 3, "lag": 2})
    assert fingerprint(uneven.manifest, config) == fingerprint(uneven.manifest, same)
    for change in ({"items": 5}, {"seed": 1}, {"temperature": 0.1}, {"languages": ("de", "en")}):
        assert fingerprint(uneven.manifest, config) != fingerprint(uneven.manifest, config.model_copy(update=change))
    with pytest.raises(ConfigError) as error:
        fingerprint(uneven.manifest, config.model_copy(update={"languages": ("de", "fr")}))
    assert error.value.code == "DEV_LANGUAGES"


# ---- the measures


def quantised(count: int, rng: np.random.Generator) -> np.ndarray:
    """Dot products of these are exact in float32 however they are added, and tie very often."""
    return rng.integers(-2, 3, (count, 8)).astype(np.float32) / 4


@pytest.mark.parametrize("ties", [True, False])
def test_ap_is_that_of_hbt_evaluate(ray_session: None, uneven: Store, ties: bool) -> None:
    dev_set = make_dev_set(uneven, ValidationConfig(store=uneven.location, items=30))
    rng = np.random.default_rng(5)
    sides = [len(dev_set.questions), len(dev_set.passages)]
    if ties:
        questions, passages = (quantised(count, rng) for count in sides)
    else:
        questions, passages = (rng.normal(size=(count, 24)).astype(np.float32) for count in sides)
    tags, ids = dev_set.languages, [f"{row:04}" for row in range(len(dev_set.passages))]
    task = Task.from_rows(
        "dev",
        [(one, tags[code], one) for one, code in zip(ids, dev_set.passage_languages, strict=True)],
        [(f"q{row}", tags[code], "?") for row, code in enumerate(dev_set.question_languages)],
        [(f"q{row}", ids[at]) for row, keys in enumerate(dev_set.positive_keys)
         for at in np.flatnonzero(np.isin(dev_set.passage_keys, keys))],
    )  # fmt: skip
    with ShardedIndex.of_task(task, passages, SearchConfig(num_actors=1)) as index:
        card = score_rankings(task, questions, index)[1]
    result = dev_measures(questions, passages, dev_set, 0.05)
    expected = [card.settings[setting]["AP"] for setting in (MULTILINGUAL, MONOLINGUAL, CROSS_LINGUAL)]
    assert [result[name] for name in ("AP", "mono_AP", "cross_AP")] == pytest.approx(expected, rel=1e-12)
    assert result["RankDistance"] == pytest.approx(card.settings[MULTILINGUAL]["RankDistance"], rel=1e-12)


def test_the_pool_loss_is_the_training_loss_where_both_are_defined() -> None:
    """One language, a passage each, two questions of one passage: then the pool is a batch."""
    rng = np.random.default_rng(2)
    questions, versions = rng.normal(size=(9, 6)), rng.normal(size=(8, 6))
    keys = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7])
    zeros = np.zeros(9, np.int16)
    dev_set = DevSet(("en",), [""] * 9, zeros, keys[:, None], [""] * 8, zeros[:8], keys[:8])
    result = dev_measures(questions.astype(np.float32), versions.astype(np.float32), dev_set, 0.2)
    rows = [torch.tensor(side, dtype=torch.float32) for side in (questions, versions[keys])]
    # The batch has passage 7 twice, the pool once, so that the other questions would see it twice.
    losses = [
        info_nce(rows[0][kept], rows[1][kept], torch.tensor(keys)[kept], 0.2, [8]).item() * 8
        for kept in (torch.tensor([*range(7), last]) for last in (7, 8))
    ]
    shared = sum(
        -torch.log_softmax(rows[0][row] @ torch.tensor(versions, dtype=torch.float32).T / 0.2, 0)[keys[row]].item()
        for row in range(9)
    )
    assert result["pool_loss"] == pytest.approx(shared / 9, rel=1e-5)
    alone = [-torch.log_softmax(rows[0][row] @ rows[1][:8].T / 0.2, 0)[keys[row]].item() for row in (7, 8)]
    assert result["pool_loss"] == pytest.approx((losses[0] + alone[1]) / 9, rel=1e-5)
    assert losses[1] - alone[1] == pytest.approx(losses[0] - alone[0], rel=1e-5)


def test_versions_of_the_answer_do_not_compete_in_the_pool_loss() -> None:
    zeros = np.zeros(1, np.int16)
    dev_set = DevSet(("de", "en"), ["q"], zeros, np.array([[0]]), ["a", "b", "c"], np.array([0, 1, 0], np.int16),
                np.array([0, 0, 1]))  # fmt: skip
    result = dev_measures(np.float32([[1, 0]]), np.float32([[0.8, 0.6], [0.6, 0.8], [0, 1]]), dev_set, 0.5)
    assert result["pool_loss"] == pytest.approx((np.log1p(np.exp(-1.6)) + np.log1p(np.exp(-1.2))) / 2, rel=1e-6)
    assert result["AP"] == result["mono_AP"] == result["cross_AP"] == 1


# ---- the record


def test_the_record_passes_over_damaged_files_and_forgets_failures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "validation"
    record = ValidationRecord(folder)
    assert record.rows() == {}
    for step in (20, 10, 30, 50):
        record.add({"step": step, "AP": step / 100})
    record.add({"step": 40, "error": "x"})
    damaged = folder / "step-00000030.json"
    damaged.write_text(damaged.read_text().replace("0.3", "0.9"))
    assert list(record.rows()) == [10, 20, 40, 50]
    assert "step-00000030.json: damaged" in caplog.text
    assert record.results() == {step: {"step": step, "AP": step / 100} for step in (10, 20, 50)}
    assert list(record.fresh()) == [10, 20, 50]
    record.add({"step": 40, "AP": 0.4})
    assert list(record.fresh()) == [40]
    assert list(record.cut(40)) == [10, 20, 40]
    assert list(ValidationRecord(folder).rows()) == [10, 20, 40]


# ---- runs


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    small_store(folder / "store")
    small_store(folder / "dev", num_items=24)
    return folder


def validated_run(workspace: Path, *overrides: str) -> TrainConfig:
    """A run that learns next to nothing, so that patience runs out; its workers hold every CPU of the test cluster."""
    validation = ("validation.items=12", "validation.patience=2", "validation.min_delta=0.2")
    still = ("optimiser.steps=80", "optimiser.learning_rate=1.0e-5", "workers.cpus=3")
    return small_run(workspace, f"validation.store={workspace / 'dev'}", *validation, *still, *overrides)


@pytest.fixture(scope="module")
def stopped(workspace: Path, ray_session: None) -> TrainConfig:
    config = validated_run(workspace, "name=stopped")
    # The results of 10, 20 and 30 end it, and they count at 40.
    assert fit(config, lambda _: None) == 40
    return config


def comparable(config: TrainConfig) -> list[dict[str, object]]:
    rows = ValidationRecord(config.run.validation).results().values()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.integration
def test_a_run_without_improvement_stops_and_every_checkpoint_is_on_record(stopped: TrainConfig) -> None:
    rows = comparable(stopped)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert all({"dev_set", "pool_loss", "AP", "mono_AP", "cross_AP", "RankDistance"} < row.keys() for row in rows)
    assert [row["step"] for row in stopped.run.curve()] == list(range(40))
    status = run_status(stopped, 40)
    assert (status.complete, status.missing) == (True, ())
    assert status.reason.startswith("no improvement of AP for 2 validations; best at step ")


@pytest.mark.integration
def test_what_stopped_is_left_alone_and_more_patience_goes_on(stopped: TrainConfig, workspace: Path) -> None:
    before = ValidationRecord(stopped.run.validation).rows()
    assert fit(stopped, lambda _: None) == 40
    assert fit(validated_run(workspace, "name=stopped", "optimiser.steps=90"), lambda _: None) == 40
    assert ValidationRecord(stopped.run.validation).rows() == before
    assert not run_status(validated_run(workspace, "name=stopped", "validation.patience=9"), 40).complete


@pytest.mark.integration
def test_the_best_checkpoint_is_there_and_is_what_is_exported(stopped: TrainConfig) -> None:
    values = {row["step"]: row["AP"] for row in ValidationRecord(stopped.run.validation).results().values()}
    best = max(sorted(values), key=lambda step: values[step])
    assert best_step(stopped) == best
    assert export(stopped.run) == best
    made = ExportRecord.load(stopped.run)
    assert made is not None
    assert (made.steps, made.best, made.measure, made.value) == (best, True, "AP", values[best])
    exported = load_file(stopped.run.model / "model.safetensors")
    weights = load_file(CheckpointDirectory(stopped.run.checkpoints).path(best) / "weights.safetensors")
    name = next(name for name in exported if name.endswith("word_embeddings.weight"))
    there = next(key for key in weights if key.endswith(name))
    assert torch.equal(exported[name], weights[there])


def test_pruning_leaves_the_best_and_what_is_yet_to_be_validated(tmp_path: Path) -> None:
    config = small_run(tmp_path, "validation.store=dev", "checkpoints.every=5", "validation.every=10")
    checkpoints = CheckpointDirectory(config.run.checkpoints)
    for step in (5, 10, 15, 20, 25, 30):
        checkpoints.path(step).mkdir(parents=True)
    assert checkpoints_to_keep(config) == {10, 20, 30}
    record = ValidationRecord(config.run.validation)
    record.add({"step": 10, "AP": 0.5})
    record.add({"step": 20, "AP": 0.4})
    assert checkpoints_to_keep(config) == {10, 30}
    checkpoints.path(10).rmdir()
    assert checkpoints_to_keep(config) == {20, 30}
    assert checkpoints_to_keep(small_run(tmp_path, "validation.store=null")) == set()


@pytest.mark.integration
def test_the_command_says_why_it_stopped_and_what_it_exported(
    stopped: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    status = train_run(stopped, Screen())
    output = capsys.readouterr().out
    assert (status.done, status.complete, status.best) == (40, True, best_step(stopped))
    assert f"stopped early at step 40 of 80: {status.reason}" in output
    marked = [line.split()[0] for line in output.splitlines() if line.rstrip().endswith("best")]
    assert marked == [str(status.best)]
    assert f"the encoder of step {status.best} is in" in output or status.best == 40
    assert f"{status.best} steps, temperature" in (stopped.run.model / "README.md").read_text(encoding="utf-8")


@pytest.mark.integration
def test_a_failed_validation_ends_the_run_by_name_and_is_done_again(workspace: Path, stopped: TrainConfig) -> None:
    """It then goes on as the run that nothing happened to, and stops where that did."""
    config = validated_run(workspace, "name=again")
    shard = next((workspace / "dev").rglob("*.arrow"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValidationFailed, match=r"step 10 could not be validated: \w+: .*dev") as caught:
        fit(config, lambda _: None, until=20)
    assert caught.value.step == 10
    newest = CheckpointDirectory(config.run.checkpoints).newest()
    assert newest is not None
    assert newest[1].step == 20
    shard.write_bytes(whole)
    (config.run.local_root / "validation" / "step-00000020.json").write_text('{"step": 20, "AP": 0.')
    assert run_status(config, 20).missing == (10, 20)
    assert fit(config, lambda _: None) == 40
    assert comparable(config) == comparable(stopped)


@pytest.mark.integration
def test_a_damaged_checkpoint_is_on_record_as_such(workspace: Path, stopped: TrainConfig) -> None:
    config = stopped.model_copy(update={"name": "damaged"})
    config.run.root.mkdir()
    (config.run.root / "base").symlink_to(stopped.run.base)
    CheckpointDirectory(config.run.checkpoints).path(10).mkdir(parents=True)
    with pytest.raises(CheckpointError) as error:
        validate(config.model_dump(mode="json"), 10)
    assert error.value.code == "DAMAGED_CHECKPOINT"
    assert "CheckpointError" in ValidationRecord(config.run.validation).rows()[10]["error"]
    assert ValidationRecord(config.run.validation).results() == {}


@pytest.mark.integration
def test_validations_that_cannot_be_done_or_compared_are_refused(workspace: Path, stopped: TrainConfig) -> None:
    with pytest.raises(ConfigError) as error:
        open_run(validated_run(workspace, "name=cheat", f"validation.store={workspace / 'store'}"))
    assert error.value.code == "DEV_IS_TRAINING"
    with pytest.raises(ConfigError) as error:
        open_run(validated_run(workspace, "name=french", "validation.languages=[fr]"))
    assert error.value.code == "DEV_LANGUAGES"
    with pytest.raises(ConfigError, match=r"every=15 is not a multiple of checkpoints\.every=10"):
        validated_run(workspace, "name=uneven", "validation.every=15")
    with pytest.raises(ConfigError) as error:
        open_run(validated_run(workspace, "name=stopped", "validation.seed=1"))
    assert error.value.code == "OTHER_DEV_SET"
    assert not (workspace / "runs" / "cheat").exists()
    assert set(LANGUAGES) == {"ar", "de", "en"}
