"""Which encoder, how it reads texts, and how it runs in training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.model.lora import LoraConfig

SCRATCH = "scratch"
QUESTION_PROMPT, PASSAGE_PROMPT = "query: ", "passage: "
"""Of scratch encoders, and of pretrained ones that say nothing of prompts: those of E5 (2212.03533)."""
FLASH = "flash_attention_2"
_MANNER = {"attention", "gradient_checkpointing", "compile"}


class ModelConfig(Config):
    """Which encoder, and how it reads texts."""

    name: str = SCRATCH
    """A Hugging Face name, a local folder (plain or SentenceTransformer), or `scratch` for a new small encoder. Weights
    are read from safetensors only, and code that comes with a model is never run."""
    pooling: Literal["mean", "cls"] = "mean"
    """How token vectors become one; a SentenceTransformer keeps its own."""
    question_prompt: str | None = None
    """Written before every question; by default the model's own, and `query: ` for a model that says nothing of
    prompts. The export keeps it."""
    passage_prompt: str | None = None
    """Written before every passage; by default the model's own, or `passage: `."""
    max_question_length: int = Field(64, gt=2)
    """Tokens, special ones included."""
    max_passage_length: int = Field(256, gt=2)
    layers: int = Field(2, gt=0)
    """Of a scratch encoder, as are the next three."""
    width: int = Field(128, gt=0)
    heads: int = Field(4, gt=0)
    vocabulary: int = Field(8_000, gt=100)
    seed: int = 0
    """Of the initial weights, adapters included."""
    lora: LoraConfig | None = None
    """Train adapters of low rank beside the encoder's own weights; by default those are trained, all of them."""
    freeze_embeddings: bool = False
    """Leave the token embeddings as they are. They are most of the weights of a multilingual encoder (of
    multilingual-e5-small 96 of 118 million), so updates, checkpoints and what ranks exchange get that much smaller."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """In training; null leaves what the encoder says, 0.1 of a scratch one."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """How attention is computed in training; auto leaves it to transformers, which takes sdpa where the encoder has it.
    flash_attention_2 needs a GPU and the package flash-attn. On a CPU in bf16 try eager for short texts: sdpa's
    backward pass makes many small matrix products there."""
    gradient_checkpointing: bool = False
    """Keep only what goes into each layer, and compute the rest again in the backward pass: about a third slower, in
    far less memory. The gradients are the same."""
    compile: bool = False
    """Compile the layers with torch.compile, once for any batch and length; takes a minute at the start and needs a C++
    compiler. Dropout draws the same numbers as without."""

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a run's weights what they are: all but how they are computed, which may change on the way."""
        return self.model_dump(mode="json", exclude=_MANNER)
