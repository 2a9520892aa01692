"""Configuration of the encoder: its origin, its prompts and lengths, and options of its computation in training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hbt_ray.config import Config

SCRATCH = "scratch"
QUESTION_PROMPT, PASSAGE_PROMPT = "query: ", "passage: "
"""Prompts of E5 (2212.03533), for scratch encoders and for pretrained ones that do not define prompts."""
FLASH = "flash_attention_2"
# May change between a run and its resume.
_COMPUTE_OPTIONS = {"attention", "gradient_checkpointing", "compile"}


class LoraConfig(Config):
    """LoRA (2106.09685): the weights are frozen, and a product of two narrow matrices is trained beside each of them.

        y = W x + (alpha / rank) · B A x      A: [rank, in], random; B: [out, rank], zero, so that training starts at W

    Only A and B are trained, stored in checkpoints and exchanged between ranks. The export adds the products to the
    weights and is an ordinary encoder.
    """

    rank: int = Field(8, gt=0)
    """Rank of the adapters: the inner dimension of the product."""
    alpha: float = Field(16, gt=0)
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability on the input of the adapters."""
    targets: tuple[str, ...] | Literal["all-linear"] | None = None
    """Linear layers that get an adapter, by the ends of their names, such as `query` or `output.dense`. null: the
    default layers of peft for the architecture, as a rule the query and value projections."""


class ModelConfig(Config):
    """The encoder, its prompts and lengths, and options of its training."""

    name: str = SCRATCH
    """A Hugging Face name, a local folder (plain or SentenceTransformer), or `scratch` for a new small encoder. Weights
    are read from safetensors only, and code that comes with a model is never run."""
    pooling: Literal["mean", "cls"] = "mean"
    """Pooling of the token vectors into one vector. A SentenceTransformer keeps its own pooling."""
    question_prompt: str | None = None
    """Text before every question. null: the model's own, or `query: ` if the model does not define prompts. The export
    keeps it."""
    passage_prompt: str | None = None
    """Text before every passage. null: the model's own, or `passage: `."""
    max_question_length: int = Field(64, gt=2)
    """Maximum number of tokens of a question, special tokens included."""
    max_passage_length: int = Field(256, gt=2)
    """Maximum number of tokens of a passage, special tokens included."""
    layers: int = Field(2, gt=0)
    """Number of transformer layers of a scratch encoder."""
    width: int = Field(128, gt=0)
    """Dimension of the vectors of a scratch encoder."""
    heads: int = Field(4, gt=0)
    """Number of attention heads of a scratch encoder; must divide `width`."""
    vocabulary: int = Field(8_000, gt=100)
    """Vocabulary size of a scratch encoder's tokenizer."""
    seed: int = 0
    """Seed for the initial weights, adapters included."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside frozen weights. null: train all weights."""
    freeze_embeddings: bool = False
    """Keep the token embeddings fixed. They are most of the weights of a multilingual encoder (96 of 118 million in
    multilingual-e5-small), so updates, checkpoints and gradient exchange get that much smaller."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout probability in training. null: the encoder's own, which is 0.1 for a scratch encoder."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation in training. auto leaves it to transformers, which takes sdpa if the encoder has it.
    flash_attention_2 needs a GPU and the package flash-attn. On a CPU in bf16 eager may be faster for short texts:
    sdpa's backward pass makes many small matrix products there."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each layer and recompute the rest in the backward pass: about a third slower, far less
    memory. The gradients are the same."""
    compile: bool = False
    """Compile the layers with torch.compile, once for any batch size and length. This takes about a minute at the start
    and needs a C++ compiler. Dropout draws the same numbers as without compilation."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the weights of a run: all but those of their computation, which may change."""
        return self.model_dump(mode="json", exclude=_COMPUTE_OPTIONS)
