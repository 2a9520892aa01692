"""The model card of an exported encoder: its origin, training, usage and results."""

from __future__ import annotations

from typing import Any

import yaml

from hbt_ray.config import without_secrets
from hbt_ray.data.store.store import read_manifest
from hbt_ray.errors import StoreError
from hbt_ray.markdown import block, code, inline, pipe_table
from hbt_ray.model.files import read_prompts
from hbt_ray.retrieval.compare import Column, compare
from hbt_ray.retrieval.result import EvaluationResult
from hbt_ray.run_dir import RunDir
from hbt_ray.storage import local_folder, write_text
from hbt_ray.train.config import TrainConfig
from hbt_ray.train.export import ExportRecord

_TEXT = """\
# {name}

A multilingual dense retriever, trained with hybrid batches ([arXiv 2408.10536](https://arxiv.org/abs/2408.10536)):
some batches hold one language, the others questions and passages in different languages.

- base: {base}
- batches: {policy}, {batch_size} pairs, {steps} steps, temperature {temperature}
- weights: {weights}
- trained on: {languages}

## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
questions = model.encode_query(["Which currency is used in Kenya?"])
passages = model.encode_document(["Die Landeswährung von Kenia ist der Kenia-Schilling."])
print(model.similarity(questions, passages))
```

Questions are read with the prompt {question_prompt} and passages with {passage_prompt}; the two calls add them.

## Results

{results}

## Training configuration

{config}
"""


def write_card(run: RunDir) -> None:
    """Write `README.md` with all evaluations into the exported model of a run. Without a model, nothing is written."""
    exported = ExportRecord.load(run)
    if exported is None or not run.config.exists():
        return
    config = TrainConfig.load(run.config)
    evaluations = [EvaluationResult.load(path) for path in run.results()]
    languages, prompts = _trained_languages(config), read_prompts(local_folder(run.model))
    text = _TEXT.format(
        name=inline(without_secrets(run.name)),
        base=code(without_secrets(config.model.name)),
        policy=code(str(config.plan)),
        batch_size=config.plan.batch_size,
        steps=exported.steps,
        weights=_weights(exported),
        temperature=config.loss.temperature,
        languages=", ".join(languages) or "those of the store",
        question_prompt=code(prompts.get("query", "")),
        passage_prompt=code(prompts.get("document", "")),
        results=_results(evaluations),
        config=block(config.to_yaml(), "yaml"),
    )
    metadata = without_secrets(_metadata(run, languages, evaluations))
    header = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    write_text(run.model / "README.md", f"---\n{header}---\n\n{text}")


def _weights(exported: ExportRecord) -> str:
    """The exported checkpoint: `the best checkpoint, after 600 steps; AP on the dev store 0.612`."""
    which = "the best" if exported.best else "the last"
    average = ", averaged over the steps" if exported.averaged else ""
    lora = f"; adapters of rank {exported.lora_rank} (LoRA) were trained and are merged" if exported.lora_rank else ""
    dev = f"; {exported.measure} on the dev store {_number(exported.value)}" if exported.measure else ""
    return f"{which} checkpoint, after {exported.steps:,} steps{average}{lora}{dev}"


def _trained_languages(config: TrainConfig) -> list[str]:
    """Languages of the plan, else of the store; empty if the plan names none and the store is gone."""
    try:
        return sorted(config.plan.languages or read_manifest(config.store).languages)
    except StoreError:
        return []


def _results(evaluations: list[EvaluationResult]) -> str:
    if not evaluations:
        return "Not evaluated yet: `hbt evaluate RUN --task …`."
    columns = list(dict.fromkeys(column for evaluation in evaluations for column in _columns(evaluation)))
    rows = []
    for evaluation in evaluations:
        reported = _columns(evaluation)
        # A value in a column that only other tasks report is left out.
        values = (column.value(evaluation) if column in reported else None for column in columns)
        rows.append([_label(evaluation), *map(_number, values)])
    return pipe_table(["task", *(inline(column.name) for column in columns)], rows)


def _columns(evaluation: EvaluationResult) -> tuple[Column, ...]:
    return compare([evaluation])[0].columns  # the columns of the report


def _label(evaluation: EvaluationResult) -> str:
    return inline(f"{evaluation.task}, {evaluation.variant}" if evaluation.variant else evaluation.task)


def _number(value: float | None) -> str:
    # Values above 1 are ranks, which `Column` rounds to whole numbers.
    return "–" if value is None else f"{value:.3f}" if value <= 1 else f"{value:,.0f}"


def _metadata(run: RunDir, languages: list[str], evaluations: list[EvaluationResult]) -> dict[str, Any]:
    """The YAML header for model hubs, with results in the hubs' `model-index` format."""
    results = [
        {
            "task": {"type": "retrieval"},
            "dataset": {"name": evaluation.task, "type": evaluation.task},
            "metrics": [
                {"type": column.measure, "name": column.name, "value": value}
                for column in _columns(evaluation)
                if (value := column.value(evaluation)) is not None
            ],
        }
        for evaluation in evaluations
        if not evaluation.variant  # The exported model gives other vectors than a variant.
    ]
    return {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "language": languages,
        "tags": ["sentence-transformers", "hbt_ray", "multilingual", "retrieval"],
        **({"model-index": [{"name": run.name, "results": results}]} if results else {}),
    }
