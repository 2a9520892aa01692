"""Train steps on small base encoders, some after a few steps of training."""

from __future__ import annotations

from pathlib import Path

from hbt_ray.model.config import ModelConfig
from hbt_ray.model.trainable_encoder import load_for_training
from hbt_ray.train.loss.objective import LossConfig, Objective
from hbt_ray.train.step.optimizer import OptimiserConfig
from hbt_ray.train.step.train_step import TrainStep
from tests.train.batches import batch, sizes_of


def small_train_step(base: Path, config: ModelConfig, rank: int = 0, world_size: int = 1) -> TrainStep:
    how = OptimiserConfig(steps=20, learning_rate=1e-2, warmup=0, decay="none", chunk_rows=4, activation_tokens=40)
    encoder = load_for_training(base, config)
    padding_id = encoder.tokenizer.pad_token_id
    objective = Objective(LossConfig())
    return TrainStep(encoder, how, objective, padding_id=padding_id, rank=rank, rank_sizes=sizes_of(world_size))


def trained_step(base: Path, config: ModelConfig, rank: int = 0, world_size: int = 1, steps: int = 4) -> TrainStep:
    made = small_train_step(base, config, rank, world_size)
    for step in range(steps):
        made.run(batch(step, rank, world_size))
    return made
