"""Tasks by name, one by one and as a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_ray.errors import ConfigError
from hbt_ray.retrieval.compare import Column, compare
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.retrieval.tasks import BitextTask, Suite, Task, distinct, open_task
from tests.refused import refused
from tests.retrieval.task_files import write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A BEIR folder with a comma in its name, and a bitext."""
    folder = tmp_path / "facts, all"
    write(folder / "corpus.jsonl", [{"_id": "d1", "text": "eins"}])
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "eins?"}])
    write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1"])
    for code, line in (("deu_Latn", "eins"), ("eng_Latn", "one"), ("fra_Latn", "un")):
        write(tmp_path / "devtest" / f"{code}.devtest", [line])
    return tmp_path


def suite(folder: Path, *tasks: Any) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"tasks": list(tasks)}))
    return path


def test_a_suite_is_a_list_of_tasks_with_their_options(data: Path) -> None:
    beir = {
        "kind": "beir",
        "path": str(data / "facts, all"),
        "language": "deu",
        "name": "facts",
        "measures": ["MRR@10"],
    }
    flores = {"kind": "flores", "path": str(data), "languages": ["eng", "fr"]}
    opened = Suite.load(suite(data, beir, flores, {"kind": "worldfacts", "split": "dev", "languages": ["de"]})).open()
    assert [(task.name, task.languages, task.measures) for task in opened] == [
        ("facts", ["de"], ("RR@10",)), ("flores", ["en", "fr"], ("R@1", "MarginR@1")), ("worldfacts", ["de"], ()),
    ]  # fmt: skip
    assert [type(task) for task in opened] == [Task, BitextTask, Task]


def test_the_command_line_says_the_same_as_a_suite(data: Path) -> None:
    place = str(data / "facts, all")
    spelled = open_task(f"beir={place},language=de,name=facts,measures=MRR@10,R@5")
    listed = Suite.make({"tasks": [{"kind": "beir", "path": place, "language": "de", "name": "facts",
                                    "measures": ["RR@10", "R@5"]}]}, "test").open()[0]  # fmt: skip
    assert isinstance(spelled, Task)
    assert isinstance(listed, Task)
    assert (spelled.name, spelled.measures, spelled.languages) == (listed.name, listed.measures, listed.languages)
    assert spelled.documents.equals(listed.documents)


def test_languages_of_the_command_line_win(data: Path) -> None:
    flores = {"kind": "flores", "path": str(data), "languages": ["eng", "fra"]}
    read = Suite.load(suite(data, flores))
    assert read.with_languages([]).open()[0].languages == ["en", "fr"]
    assert read.with_languages(["de", "EN"]).open()[0].languages == ["de", "en"]
    with pytest.raises(ConfigError, match=r"--languages: tasks\.0\.flores\.languages\.0: 'german' is no BCP-47"):
        read.with_languages(["german"])
    with refused("MISSING_LANGUAGE", "'pt'", "de, en, fr"):
        read.with_languages(["pt"]).open()


def test_two_tasks_of_one_name_are_refused(data: Path) -> None:
    one = {"kind": "worldfacts", "languages": ["de"]}
    with refused("TASK_NAME_TWICE", "'worldfacts'"):
        Suite.load(suite(data, one, {**one, "split": "dev"})).open()
    assert len(Suite.load(suite(data, one, {**one, "split": "dev", "name": "dev"})).open()) == 2
    with refused("TASK_NAME_TWICE", "'worldfacts'"):
        distinct([open_task("worldfacts", ["de"]), open_task("worldfacts=dev", ["de"])])


WRONG: dict[str, tuple[Any, str]] = {
    "kind": ({"kind": "bier", "path": "x"}, r"tasks\.0: .*'bier'.*'beir'"),
    "none": ({"path": "x"}, r"tasks\.0: Unable to extract tag using discriminator 'kind'"),
    "key": ({"kind": "beir", "path": "x", "splt": "dev"}, r"tasks\.0\.beir: unknown key 'splt'; did you mean 'split'"),
    "path": ({"kind": "beir"}, r"tasks\.0\.beir\.path: Field required"),
    "measure": ({"kind": "beir", "path": "x", "measures": ["AP", "P@5"]},
                r"tasks\.0\.beir\.measures\.1: 'P@5' cannot be computed from the ranks of relevant documents"),
    "language": ({"kind": "beir", "path": "x", "language": "xx"}, r"tasks\.0\.beir\.language: 'xx' starts with 'xx'"),
    "name": ({"kind": "beir", "path": "x", "name": "a/b"}, r"tasks\.0\.beir\.name: String should match pattern"),
    "split": ({"kind": "worldfacts", "split": "train"}, r"tasks\.0\.worldfacts\.split: Input should be 'dev' or"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_suite_that_is_wrong_names_the_field(tmp_path: Path, what: str) -> None:
    values, message = WRONG[what]
    with pytest.raises(ConfigError, match=rf"suite\.yaml: {message}"):
        Suite.load(suite(tmp_path, values))


def test_an_empty_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tasks: Tuple should have at least 1 item"):
        Suite.load(suite(tmp_path))
    with pytest.raises(ConfigError, match="no such file"):
        Suite.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("squad", "UNKNOWN_TASK", "xquad-r, mlqa-r, lareqa, beir, miracl, mewsli-x, tatoeba, flores, worldfacts"),
        ("beir", "NO_FOLDER", "--task beir"),
        ("beir=,split=dev", "NO_FOLDER", "--task beir=FOLDER"),
        ("worldfacts=train", "INVALID_CONFIG", "split: Input should be 'dev' or 'test'"),
        ("beir=x,splt=dev", "INVALID_CONFIG", "unknown key 'splt'; did you mean 'split'"),
        ("tatoeba=x,both_ways=perhaps", "INVALID_CONFIG", "both_ways: Input should be a valid boolean"),
    ],
)
def test_the_command_line_is_told_what_is_wrong(text: str, code: str, words: str) -> None:
    with refused(code, words):
        open_task(text)


def test_a_task_is_shown_by_its_own_measures() -> None:
    measures = {"AP": 0.5, "R@1": 0.4, "R@10": 0.6, "nDCG@10": 0.55, "R@100": 0.9}
    settings = {"monolingual": measures, "multilingual": {**measures, "RankDistance": 3.0}}
    counts = {"en": 1}
    shown = {}
    for headline in ([], ["nDCG@10", "R@100"], ["R@100", "RankDistance"], ["RR@7"]):
        result = EvaluationResult(task="t", task_fingerprint="d", model="m", fingerprint="f", headline=headline,
                          languages=["en"], num_queries=counts, num_documents=counts, settings=settings, pairs={},
                          pool={})  # fmt: skip
        shown[tuple(headline)] = compare([result])[0].columns
    mono, multi = (lambda name: Column("monolingual", name)), (lambda name: Column("multilingual", name))
    assert shown[()] == (mono("AP"), mono("R@1"), multi("AP"), multi("R@10"), multi("RankDistance"))
    assert shown["nDCG@10", "R@100"] == (mono("nDCG@10"), mono("R@100"), multi("nDCG@10"), multi("R@100"))
    assert shown["R@100", "RankDistance"] == (mono("R@100"), multi("R@100"), multi("RankDistance"))
    assert shown["RR@7",] == (*map(mono, measures), *map(multi, [*measures, "RankDistance"]))
