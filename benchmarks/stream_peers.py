"""Other ways to feed the same rows to a trainer, for `stream.py`, as one would write them without hbt_ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from hbt_ray.data.plan.config import PlanConfig
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.store.store import Store
from hbt_ray.data.stream.loader import Loader, LoaderConfig
from hbt_ray.data.stream.rank_batch import RankBatch

CORES = os.cpu_count() or 1


class Steps(Dataset[RankBatch]):
    """Rank batches by step; every worker process opens a loader of its own."""

    def __init__(self, config: LoaderConfig, num_steps: int) -> None:
        self._config, self._num_steps = config, num_steps
        self._loader: Loader | None = None

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> RankBatch:
        if self._loader is None:
            self._loader = self._config.open()
        return self._loader.rank_batch(step, 0, 1)


def torch_loader(config: LoaderConfig, num_steps: int) -> Iterator[int]:
    """Our plan and our loader in worker processes: the strongest peer, as it lacks nothing but Ray."""
    loader = DataLoader(
        Steps(config, num_steps),
        batch_size=None,
        num_workers=CORES,
        prefetch_factor=4,
        multiprocessing_context="forkserver",
    )
    for batch in loader:
        yield len(batch.items)


def tables(config: LoaderConfig, num_steps: int) -> dict[str, pa.Table]:
    """The plan's rows as texts: one table for each language, and one of the cross-lingual rows."""
    store = Store(config.store)
    plan = Plan(store.manifest, PlanConfig(batch_size=config.plan.batch_size))
    parts: dict[str, list[pa.Table]] = {}
    for step in range(num_steps):
        batch = plan.batch(step)
        texts = store.texts(batch, plan.languages)
        table = pa.table({"question": texts.questions, "passage": texts.passages})
        parts.setdefault(batch.language or "cross", []).append(table)
    return {name: pa.concat_tables(some) for name, some in parts.items()}


def ray_mix(config: LoaderConfig, sources: dict[str, pa.Table], folder: Path) -> Iterator[int]:
    """One dataset for each source, tokenised batch by batch, and `Dataset.mix` over them."""
    import ray.data

    how, size = config.tokenising, config.plan.batch_size

    def encode(rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        sides = how.questions(rows["question"].tolist()), how.passages(rows["passage"].tolist())
        columns: dict[str, list[Any]] = {"rows": [len(rows["question"])]}
        for name, tokens in zip(("question", "passage"), sides, strict=True):
            columns |= {f"{name}_ids": [tokens.ids], f"{name}_lengths": [tokens.lengths]}
        return columns

    datasets = []
    for name, table in sources.items():
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=size)
        dataset = ray.data.read_parquet(str(folder / f"{name}.parquet")).map_batches(encode, batch_size=size)
        # A block a batch: `mix` takes whole blocks, and a block of many batches would be as many steps of one language.
        datasets.append(dataset.repartition(target_num_rows_per_block=1))
    mixed = datasets[0].mix(*datasets[1:], weights=[table.num_rows for table in sources.values()])
    mixed.context.execution_options.preserve_order = True
    mixed.context.enable_progress_bars = False
    for batch in mixed.iter_batches(batch_size=1, prefetch_batches=8):
        yield int(batch["rows"][0])


def sentence_transformers_loader(config: LoaderConfig, sources: dict[str, pa.Table], encoder: Any) -> Iterator[int]:
    """The DataLoader that SentenceTransformerTrainer builds of a DatasetDict: its samplers, its collator.

    Built by hand from the trainer's own parts, since the trainer itself requires `accelerate`.
    """
    import datasets
    from sentence_transformers.base.sampler import DefaultBatchSampler, ProportionalBatchSampler
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from torch.utils.data import RandomSampler

    how = config.tokenising
    prompts = {"question": how.question_prompt, "passage": how.passage_prompt}
    parts = ConcatDataset([datasets.Dataset(table) for table in sources.values()])
    samplers = [
        DefaultBatchSampler(RandomSampler(part), batch_size=config.plan.batch_size, drop_last=True)
        for part in parts.datasets
    ]
    loader = DataLoader(
        parts,
        batch_sampler=ProportionalBatchSampler(dataset=parts, batch_samplers=samplers),
        collate_fn=SentenceTransformerDataCollator(encoder.preprocess, prompts=prompts),
        num_workers=CORES,
        prefetch_factor=4,
        multiprocessing_context="forkserver",
    )
    for batch in loader:
        yield len(batch["question_input_ids"])
