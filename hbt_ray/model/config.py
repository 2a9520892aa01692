"""Configuration of the encoder: where it comes from, how it reads texts, and how it runs in training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hbt_ray.config import Config

SCRATCH = "scratch"
QUESTION_PROMPT, PASSAGE_PROMPT = "query: ", "passage: "
"""Prompts of E5 (2212.03533), for scratch encoders and for pretrained ones that do not define prompts."""
FLASH = "flash_attention_2"
_COMPUTE_OPTIONS = {"attention", "gradient_checkpointing", "compile"}


class LoraConfig(Config):
    """LoRA (2106.09685): the weights are frozen, and products of two narrow matrices are trained beside them.

        y = W x + (alpha / rank) · B A x      A: [rank, in], random; B: [out, rank], zero, so that training starts at W

    Only A and B are trained, stored in checkpoints and exchanged between ranks. The export adds the products to the
    weights, so that it is an ordinary encoder.
    """

    rank: int = Field(8, gt=0)
    """Width of the adapter matrices."""
    alpha: float = Field(16, gt=0)
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the adapters."""
    targets: tuple[str, ...] | Literal["all-linear"] | None = None
    """Linear layers that get an adapter, by the ends of their names, such as `query` or `output.dense`. null: the
    layers that peft names for the architecture, as a rule the query and value projections."""


class ModelConfig(Config):
    """Which encoder, and how it reads texts."""

    name: str = SCRATCH
    """A Hugging Face name, a local folder (plain or SentenceTransformer), or `scratch` for a new small encoder. Weights
    are read from safetensors only, and code that comes with a model is never run."""
    pooling: Literal["mean", "cls"] = "mean"
    """How token vectors become one vector; a SentenceTransformer keeps its own pooling."""
    question_prompt: str | None = None
    """Text before every question. null: the model's own, or `query: ` if the model does not define prompts. The export
    keeps it."""
    passage_prompt: str | None = None
    """Text before every passage. null: the model's own, or `passage: `."""
    max_question_length: int = Field(64, gt=2)
    """Maximum tokens of a question, special tokens included."""
    max_passage_length: int = Field(256, gt=2)
    """Maximum tokens of a passage, special tokens included."""
    layers: int = Field(2, gt=0)
    """Transformer layers of a scratch encoder."""
    width: int = Field(128, gt=0)
    """Vector width of a scratch encoder."""
    heads: int = Field(4, gt=0)
    """Attention heads of a scratch encoder; must divide `width`."""
    vocabulary: int = Field(8_000, gt=100)
    """Vocabulary size of a scratch encoder's tokenizer."""
    seed: int = 0
    """Seed for initial weights, adapters included."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside frozen weights; null trains all weights."""
    freeze_embeddings: bool = False
    """Keep the token embeddings fixed. They are most of the weights of a multilingual encoder (96 of 118 million in
    multilingual-e5-small), so updates, checkpoints and gradient exchange get that much smaller."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout in training; null keeps the encoder's own, which is 0.1 for a scratch encoder."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation in training. auto leaves it to transformers, which takes sdpa if the encoder has it.
    flash_attention_2 needs a GPU and the package flash-attn. On a CPU in bf16 eager may be faster for short texts:
    sdpa's backward pass makes many small matrix products there."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each layer and recompute the rest in the backward pass: about a third slower, far less
    memory. The gradients are the same."""
    compile: bool = False
    """Compile the layers with torch.compile, once for any batch size and length; takes about a minute at the start and
    needs a C++ compiler. Dropout draws the same numbers as without."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the weights of a run: all except how they are computed, which may change."""
        return self.model_dump(mode="json", exclude=_COMPUTE_OPTIONS)
