"""What all tests share: a small Ray cluster in each process, and the real data where it lies beside the repository."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbt_ray.ray_session import configure

# Read by Ray when it is imported, so before any test module imports it.
configure(local=True)

# A process that imports torch, transformers and Ray takes four seconds of CPU before it does anything. Commands and
# ranks of tests are forked from a server that has imported them.
multiprocessing.set_forkserver_preload(
    [
        "tests.commands",
        "tests.train.processes",
        "ray.data",
        "hbt_ray.cli.app",
        "hbt_ray.cli.settings",
        "hbt_ray.train.driver.trainer",
        "hbt_ray.retrieval.evaluate",
        "hbt_ray.retrieval.mining.mine",
        "hbt_ray.tune.search",
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What wants a cluster takes longest: the processes that share the tests begin with it, and end together."""
    items.sort(key=lambda item: "ray_session" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local cluster of 6 logical CPUs; started by the first test that asks for it."""
    import ray

    # Ray's sockets live here, and a socket's path may have 107 characters: pytest's own folders are too deep.
    folder = tempfile.mkdtemp(prefix="hbt", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", f"{folder}/cache")  # Of Ray's processes.
        ray.init(
            num_cpus=6,
            include_dashboard=False,
            object_store_memory=300_000_000,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def encode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encodes in this process, for tests of what is done with vectors: an actor is ten seconds of imports."""
    from hbt_ray.retrieval import encoder

    monkeypatch.setattr(
        encoder, "map_blocks", lambda blocks, actor, arguments, *_, **__: map(actor(*arguments), blocks)
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real evaluation and training data."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder}, which are not part of the repository")
    return folder
