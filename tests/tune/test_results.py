"""Results of a search: the table, the curves as files, the best configurations."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.results import results_table, write_results
from hbt_ray.tune.search_state import SearchState, Trial
from tests.small_data import small_run

OBJECTIVES = ("AP", "RankDistance")


def trial(name: str, alpha: float | list[float], ap: float, distance: float, status: str = "finished") -> Trial:
    rows = {step: {"step": step, "AP": ap * step / 20, "RankDistance": distance} for step in (10, 20)}
    result = Trial(name, f"alpha-{name}", {"plan.alpha": alpha, "seed": 0}, 20, rows=rows, seconds=3.14159)
    result.status = status  # type: ignore[assignment]
    return result


BOARD = SearchState(
    [
        trial("a", 0.2, 0.31, 1214.4),
        trial("b", 0.5, 0.42, 900.0),
        trial("c", 0.8, 0.40, 950.0),
        trial("d", 0.9, 0.99, 1.0, "stopped"),
        Trial("e", "alpha-e", {"plan.alpha": 1.0, "seed": 0}, 20, status="failed", error="NonFiniteLoss: step 3"),
    ]
)


def shown(most: int = 20) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(results_table(BOARD, OBJECTIVES, most))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_table_has_the_best_first_and_marks_the_front() -> None:
    lines = shown()
    assert "RankDistance ↓" in lines[0]
    assert [line.split()[:5] for line in lines[1:4]] == [
        ["*", "0.5", "0", "0.420", "900"],
        ["0.8", "0", "0.400", "950"],
        ["0.2", "0", "0.310", "1,214"],
    ]
    assert "✗" in lines[4]
    assert "failed: NonFiniteLoss: step 3" in lines[4]
    assert any("… and 2 more" in line for line in shown(1))


def test_files_hold_every_curve_and_the_best_configurations(tmp_path: Path) -> None:
    def config_of(best: Trial, name: str) -> TrainConfig:
        alpha = best.values["plan.alpha"]
        return small_run(tmp_path, f"name={name}", f"plan.alpha={alpha}")

    paths = write_results(tmp_path, BOARD, OBJECTIVES, config_of)
    assert [path.name for path in paths] == ["AP.yaml", "RankDistance.yaml"]
    best = TrainConfig.load(paths[0])
    assert (best.plan.alpha, best.name) == (0.5, "best-AP")
    assert paths[0].read_text().startswith("# The best AP of the search, 0.420 on the dev store: alpha-b\n")
    table = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert len(table) == 8
    assert table[1] == {"trial": "a", "name": "alpha-a", "status": "finished", "plan.alpha": 0.2, "seed": 0,
                        "step": 20, "AP": 0.31, "RankDistance": 1214.4}  # fmt: skip
    summaries = json.loads((tmp_path / "trials.json").read_text())
    assert [summary["status"] for summary in summaries] == ["finished", "finished", "finished", "stopped", "failed"]
    assert summaries[0]["curve"][0] == {"step": 10, "AP": 0.155, "RankDistance": 1214.4}
    assert summaries[4]["error"] == "NonFiniteLoss: step 3"


def test_values_of_several_kinds_share_a_column(tmp_path: Path) -> None:
    state = SearchState([trial("a", 0.2, 0.3, 1.0), trial("b", [0.1, 0.9], 0.4, 1.0)])
    write_results(tmp_path, state, OBJECTIVES, lambda best, name: small_run(tmp_path))
    column = pq.read_table(tmp_path / "trials.parquet")["plan.alpha"].to_pylist()
    assert column == ["0.2", "0.2", "[0.1, 0.9]", "[0.1, 0.9]"]


def test_nothing_finished_leaves_files_without_a_best(tmp_path: Path) -> None:
    assert write_results(tmp_path, SearchState([]), OBJECTIVES, lambda best, name: small_run(tmp_path)) == []
    assert json.loads((tmp_path / "trials.json").read_text()) == []
