"""What tests of evaluation share: indexes that are closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbt_ray.retrieval.search.sharded_index import SearchConfig, ShardedIndex


@pytest.fixture
def index_of(ray_session: None) -> Iterator[Callable[..., ShardedIndex]]:
    """Makes indexes and closes them after the test."""
    made: list[ShardedIndex] = []

    def make(*arguments: Any, **options: Any) -> ShardedIndex:
        made.append(ShardedIndex(*arguments, SearchConfig(**options)))
        return made[-1]

    yield make
    for index in made:
        index.close()
