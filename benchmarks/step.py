"""A training step beside that of sentence-transformers: the same encoder, texts, batch, chunk and precision.

The peer is `CachedMultipleNegativesRankingLoss` with what its trainer does around it (fused AdamW, gradients clipped
at 1). Both get batches that are tokenised already. Our rows say where the gain comes from, each adding one thing:

- as the peer: every chunk is encoded twice, all chunks of equally many texts
- kept graphs: what fits into the budget of activations is encoded once
- sorted too: both towers' texts in chunks of about equal length; this is how hbt_ray trains

The texts are random ids, as long as the questions and paragraphs of SQuAD: lengths are log-normal with medians 14
and 160 tokens, cut at 64 and 256. Every side runs in a process of its own. Memory is what a step takes beside weights
and optimiser state: on a CPU the high-water mark of the process, on a GPU that of its allocator.

    python benchmarks/step.py [--json] [--model e5-small] [--batch 128] [--chunk 32] [--precision fp32] [--steps 3]
    python benchmarks/step.py --memory [--model tiny]      peak memory of batches of 256 to 16,384

On a GPU (`--device cuda`) it also prints the share of the dense bf16 peak, and `--largest` searches the largest batch.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hbt_ray.data.stream.rank_batch import RankBatch
from hbt_ray.data.stream.tokenise import Tokens, TokenSections

SHAPES = {
    "tiny": {"layers": 2, "width": 64, "heads": 2},
    "e5-small": {"layers": 12, "width": 384, "heads": 12},
    "xlm-r-base": {"layers": 12, "width": 768, "heads": 12},
}
VOCABULARY = 32_000
LENGTHS = {"questions": (14, 0.4, 64), "passages": (160, 0.45, 256)}
"""Median, sigma of the logarithm, and the longest."""
PEER, COPY, KEPT, OURS = "sentence-transformers", "as the peer", "kept graphs", "hbt_ray: sorted too"
TWICE = "hbt_ray: no graph kept"
PEAK = {"bf16": 989e12, "fp32": 67e12}
"""Dense operations a second of an H100 SXM."""
FLAGS = ("json", "memory", "largest", "side")
MEMORY_BATCHES = (256, 1_024, 4_096, 16_384)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", choices=SHAPES, default="e5-small")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=32, help="texts that go through the encoder together")
    parser.add_argument("--budget", type=int, default=65_536, help="tokens whose graphs are kept")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--largest", action="store_true", help="largest batch, a power of two, that the GPU holds")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options)))
    elif options.memory:
        show_memory(options)
    elif options.largest:
        show_largest(options)
    else:
        show_speed(options)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure one side in this process."""
    import torch

    encoder = build_encoder(options)
    step = (peer_step if options.side == PEER else our_step)(encoder, options)
    some = batches(options.batch, options.steps + 1)
    resting = memory(options.device, reset=True)
    step(next(some))  # The first one allocates, and on a GPU chooses kernels.
    begin = time.perf_counter()
    losses = [step(batch) for batch in some]
    if options.device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - begin) / options.steps
    tokens = real_tokens(options)
    # 6 operations for each weight and token: 2 in the forward pass, 4 in the backward pass.
    flops = 6 * sum(p.numel() for name, p in encoder.named_parameters() if "embeddings" not in name) * tokens
    return {
        "pairs_per_second": options.batch / seconds,
        "peak_mib": (memory(options.device) - resting) / 2**20,
        "loss": losses[-1],
        "peak_share": flops / seconds / PEAK[options.precision],
    }


def build_encoder(options: argparse.Namespace) -> Any:
    """Random weights: they are as fast as trained ones. The tokenizer is never used."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    shape = SHAPES[options.model]
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=4 * shape["width"],
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({"<unk>": 1, "<pad>": 0}, unk_token="<unk>"))
    with tempfile.TemporaryDirectory() as folder:
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
        transformer = Transformer(folder)
    modules = [transformer, Pooling(shape["width"], "mean"), Normalize()]
    return SentenceTransformer(modules=modules, device=options.device)


def our_step(encoder: Any, options: argparse.Namespace) -> Callable[[RankBatch], float]:
    import torch

    from hbt_ray.train.loss.objective import LossConfig, Objective
    from hbt_ray.train.step import grad_cache
    from hbt_ray.train.step.optimizer import OptimiserConfig
    from hbt_ray.train.step.train_step import TrainStep

    if options.side in (COPY, KEPT):
        # Chunks in the order of the texts, as the peer cuts them, instead of by length.
        grad_cache.microbatch_rows = lambda lengths, chunk_rows, _: [
            np.arange(start, min(start + chunk_rows, len(lengths))) for start in range(0, len(lengths), chunk_rows)
        ]
    config = OptimiserConfig(
        chunk_rows=options.chunk,
        activation_tokens=0 if options.side == COPY else options.budget,
        precision=options.precision,
    )
    learner = TrainStep(
        encoder,
        config,
        Objective(LossConfig()),
        padding_id=0,
        rank_sizes=(options.batch,),
        device=torch.device(options.device),
    )
    return lambda batch: learner.run(batch).loss


def peer_step(encoder: Any, options: argparse.Namespace) -> Callable[[RankBatch], float]:
    """A step as SentenceTransformerTrainer makes it, without its data loader and its log."""
    import torch
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    from hbt_ray.model.microbatch import encoder_features

    loss = CachedMultipleNegativesRankingLoss(encoder, scale=20.0, mini_batch_size=options.chunk)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    device = torch.device(options.device)
    encoder.train()

    def step(batch: RankBatch) -> float:
        columns = [encoder_features(side, 0, device) for side in (batch.texts["questions"], batch.texts["passages"])]
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            value = loss(columns, None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        return float(value.item())

    return step


def batches(size: int, number: int) -> Iterator[RankBatch]:
    """Random batches, the same for every side."""
    for step in range(number):
        rng = np.random.default_rng(step)
        sections = {}
        for name, (median, sigma, longest) in LENGTHS.items():
            lengths = np.exp(rng.normal(np.log(median), sigma, size)).clip(4, longest).astype(np.int32)
            ids = rng.integers(2, VOCABULARY, lengths.sum()).astype(np.int32)
            sections[name] = Tokens.from_lengths(ids, lengths)
        rows, languages = np.arange(size), np.zeros(size, np.int64)
        texts, keys = TokenSections.concatenate(sections), (rows + size * step)[:, None]
        yield RankBatch(step, "mono", "random", "", rows, texts, keys, languages, languages)


def real_tokens(options: argparse.Namespace) -> float:
    """Mean number of tokens in a batch, without padding."""
    return float(np.mean([len(b.texts.tokens.flat_ids()) for b in batches(options.batch, 3)]))


def memory(device: str, reset: bool = False) -> int:
    """Peak memory so far, in bytes. On a GPU `reset` lowers the peak to the memory in use first."""
    if device == "cuda":
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(options: argparse.Namespace, side: str, **changes: object) -> dict[str, float]:
    """Measure one side in a process of its own; a failure is a RuntimeError with the end of its output."""
    values = settings(options) | changes
    command = [sys.executable, __file__, "--side", side, *(f"--{name}={value}" for name, value in values.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr[-2_000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def show_speed(options: argparse.Namespace) -> None:
    sides = {side: run(options, side) for side in (PEER, COPY, KEPT, OURS)}
    ratio = sides[OURS]["pairs_per_second"] / sides[PEER]["pairs_per_second"]
    if options.json:
        print(json.dumps({"sides": sides, "ratio": ratio, **settings(options)}))
        return
    table = Table("side", "pairs/s", "times the peer", "peak MiB", "share of peak", title=title(options))
    for side, measured in sides.items():
        speed = measured["pairs_per_second"]
        table.add_row(
            side,
            f"{speed:,.1f}",
            f"{speed / sides[PEER]['pairs_per_second']:.2f}",
            f"{measured['peak_mib']:,.0f}",
            f"{measured['peak_share']:.1%}" if options.device == "cuda" else "",
        )
    Console(width=120).print(table)


def show_memory(options: argparse.Namespace) -> None:
    sides = {PEER: (PEER, options.budget), OURS: (OURS, options.budget), TWICE: (OURS, 0)}
    rows = {
        size: {name: run(options, side, batch=size, steps=1, limits=budget) for name, (side, budget) in sides.items()}
        for size in MEMORY_BATCHES
    }
    if options.json:
        peaks = {size: {side: measured["peak_mib"] for side, measured in row.items()} for size, row in rows.items()}
        print(json.dumps({"peak_mib": peaks, **settings(options)}))
        return
    budget = f"{options.budget:,} tokens kept"
    heads = ("batch", PEER, f"hbt_ray, {budget}", "hbt_ray, none kept", "vectors", "scores")
    table = Table(*heads, title=f"peak MiB: {options.model}, chunks of {options.chunk}, {options.precision}")
    for size, row in rows.items():
        vectors, scores = 2 * size * SHAPES[options.model]["width"] * 4 / 2**20, size * size * 4 / 2**20
        texts = (f"{row[name]['peak_mib']:,.0f}" for name in sides)
        table.add_row(f"{size:,}", *texts, f"{vectors:,.1f}", f"{scores:,.0f}")
    Console(width=120).print(table)


def show_largest(options: argparse.Namespace) -> None:
    """Double the batch until a side runs out of memory."""
    largest = {}
    for side in (PEER, OURS):
        size = 1_024
        while size < 2**22:
            try:
                run(options, side, batch=size, steps=1)
            except RuntimeError as error:
                if "out of memory" not in str(error).lower():
                    raise
                break
            largest[side], size = size, 2 * size
    print(json.dumps(largest) if options.json else "\n".join(f"{side}: {size:,}" for side, size in largest.items()))


def title(options: argparse.Namespace) -> str:
    return (
        f"{options.model}, batch {options.batch:,}, chunks of {options.chunk}, {options.budget:,} tokens kept, "
        f"{options.precision} on {options.device}"
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in FLAGS}


if __name__ == "__main__":
    main()
