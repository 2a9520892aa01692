"""What the terms of the loss ask of the stream: second versions of the texts, a teacher's texts, a teacher's scores."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hbt_ray.config import Config, Language
from hbt_ray.data.index.negatives import Negatives, require_scores
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.plan.translations import Side, require_translations
from hbt_ray.data.stream.loader import AuxiliaryTexts
from hbt_ray.data.stream.tokenise import TokenisingConfig
from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.train.loss.config import LossConfig

_SIDES: dict[str, Side] = {
    "question_versions": "question",
    "passage_versions": "passage",
    "teacher_questions": "question",
    "teacher_passages": "passage",
}


class TeacherConfig(Config):
    """A frozen encoder that the student imitates, of the student's width."""

    name: str
    """A Hugging Face name or a folder."""
    language: Language = "en"
    """Of the texts that it reads; rows that are not there in it teach nothing."""
    question_prompt: str | None = None
    """By default the model's own, as in `model`."""
    passage_prompt: str | None = None
    max_question_length: int = Field(64, gt=2)
    max_passage_length: int = Field(256, gt=2)

    @property
    def model(self) -> ModelConfig:
        """What it is built from."""
        return ModelConfig(**self.model_dump(exclude={"language"}))

    def encoder(self, width: int) -> Any:
        """Raises: ModelError where it is no encoder, or its vectors are not as wide as the student's."""
        encoder = build_encoder(self.model)
        if (found := encoder.get_embedding_dimension()) != width:
            raise ModelError(
                f"teacher.name={self.name!r} makes vectors of {found} numbers and the student of {width}, so they "
                "cannot be compared; take a teacher or a student of the other's width"
            )
        return encoder


def auxiliary_texts_of(
    loss: LossConfig, how: TokenisingConfig, teacher: TeacherConfig | None, taught: Any
) -> tuple[AuxiliaryTexts, ...]:
    """The views that the terms look at.

    Args:
        how: the student's.
        taught: the teacher's encoder, if there is one.
    """
    of_teacher = tokenising_config(taught, teacher.model) if teacher else how
    views = []
    for name, side in _SIDES.items():
        if name in loss.needs:
            used = of_teacher if name.startswith("teacher") else how
            prompt, length = (
                (used.question_prompt, used.max_question_length)
                if side == "question"
                else (used.passage_prompt, used.max_passage_length)
            )
            views.append(AuxiliaryTexts(name, side, _rule(name, loss, teacher), used.tokenizer_json, prompt, length))
    return tuple(views)


def require_auxiliary_texts(
    loss: LossConfig, teacher: TeacherConfig | None, plan: Plan, negatives: Negatives | None
) -> None:
    """Ask, before any worker starts, whether the data can serve the terms.

    Raises:
        ConfigError, PlanError, NegativesError: the text says what is missing.
    """
    asked = sorted(_SIDES.keys() & loss.needs)
    if teacher is None and any(name.startswith("teacher") for name in asked):
        raise ConfigError("loss.imitation needs a teacher to imitate; set teacher.name to an encoder, or leave it out")
    if teacher is not None and not any(name.startswith("teacher") for name in asked):
        raise ConfigError(
            f"teacher.name={teacher.name!r} does nothing without loss.imitation; set loss.imitation.weight, or leave "
            "the teacher out"
        )
    for name in asked:
        require_translations(plan, f"loss ({name})", _rule(name, loss, teacher))
    if "teacher_scores" in loss.needs:
        require_scores(negatives)


def _rule(name: str, loss: LossConfig, teacher: TeacherConfig | None) -> str:
    return f"exactly:{teacher.language}" if teacher and name.startswith("teacher") else loss.versions
