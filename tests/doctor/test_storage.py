"""The folder of the runs: what each machine writes there, and whether it sees the driver's marker."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from hbt_ray.doctor import probe
from hbt_ray.doctor.checks import DRIVER, NodeFacts, check_storage
from hbt_ray.doctor.probe import NodeProbe, marker_file, sees_driver
from tests.doctor.nodes import GIB, as_tuples, node


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "VISIBLE_SECONDS", 0.0)


def probed(driver_folder: Path, folders: dict[str, Path]) -> list[NodeFacts]:
    """Each machine probes its own folder while the driver holds its marker, as nodes do."""
    driver = NodeProbe()
    driver.hold_marker(str(driver_folder), "token")
    facts = {name: NodeProbe().probe_storage(str(folder), "token") for name, folder in folders.items()}
    driver.release_marker()
    return [node(name, **{**fact, "storage_free_bytes": 50 * GIB}) for name, fact in facts.items()]


def test_one_folder(tmp_path: Path) -> None:
    nodes = probed(tmp_path / "s", {"a": tmp_path / "s", "b": tmp_path / "s"})
    assert as_tuples(check_storage("/mnt/hbt", node(DRIVER), nodes)) == [
        ("ok", "/mnt/hbt: one folder at the driver and on 2 nodes, 50.0 GiB free", "")
    ]
    assert list(tmp_path.iterdir()) == []


def test_nodes_that_do_not_see_the_drivers_folder_are_named(tmp_path: Path) -> None:
    folders = {"a": tmp_path / "shared", "b": tmp_path / "other", "c": tmp_path / "local"}
    nodes = probed(tmp_path / "shared", folders)
    ((level, message, remedy),) = as_tuples(check_storage("/mnt/hbt", node(DRIVER), nodes))
    assert level == "failure"
    assert message.endswith("the driver's file is not visible (b, c)")
    assert "storage_path=" in remedy


def test_a_truncated_marker_is_not_visible(tmp_path: Path) -> None:
    with marker_file(str(tmp_path), "token"):
        assert sees_driver(str(tmp_path), "token")
        (tmp_path / ".hbt-doctor-token" / "driver").write_text("tok")
        assert not sees_driver(str(tmp_path), "token")


def test_machines_that_cannot_write_are_a_separate_finding() -> None:
    nodes = [
        node("a"),
        node("b", storage_error="[Errno 13] Permission denied: '/mnt/hbt'"),
        node("c", storage_error="no answer within 7 s"),
    ]
    ((level, message, remedy),) = as_tuples(check_storage("/mnt/hbt", node(DRIVER), nodes))
    assert level == "failure"
    assert message == (
        "/mnt/hbt cannot be used: [Errno 13] Permission denied: '/mnt/hbt' (b), no answer within 7 s (c)"
    )
    assert "let Ray's user write below /mnt/hbt" in remedy


def test_a_driver_that_cannot_write_is_the_only_finding() -> None:
    driver = node(DRIVER, storage_error="no answer within 7 s")
    ((_, message, _),) = as_tuples(check_storage("/mnt/hbt", driver, [node("a", sees_driver=False)]))
    assert message == f"/mnt/hbt cannot be used: no answer within 7 s ({DRIVER})"


def test_a_file_in_the_way_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(NotADirectoryError):
        NodeProbe().probe_storage(str(tmp_path / "runs"), "token")


@pytest.mark.parametrize(("free", "level"), [(GIB, "failure"), (5 * GIB, "warning"), (11 * GIB, "ok")])
def test_free_space(free: int, level: str) -> None:
    findings = check_storage("/mnt/hbt", node(DRIVER), [node("a", storage_free_bytes=free)])
    ((highest, message, remedy),) = as_tuples(findings)
    assert highest == level
    assert f"{free / GIB:.1f} GiB" in message
    assert ("old runs" in remedy) == (level != "ok")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Folders that were created for markers are removed too; what was there before stays."""
    folder = tmp_path / "mnt" / "runs"
    with marker_file(str(folder), "token"), ExitStack() as nodes:
        for name in "ab":
            nodes.enter_context(marker_file(str(folder), "token", name))
        assert len(list((folder / ".hbt-doctor-token").iterdir())) == 3
    assert list(tmp_path.iterdir()) == []
    with marker_file(str(folder), "other"):
        (folder / "run").mkdir()
    assert [path.name for path in folder.iterdir()] == ["run"]
