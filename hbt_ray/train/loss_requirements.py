"""The auxiliary inputs that loss terms require from the stream: translations, a teacher's texts, a teacher's scores."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hbt_ray.config import Config, Language
from hbt_ray.data.index.negatives import Negatives, require_scores
from hbt_ray.data.plan.auxiliary_translations import Side, require_translations
from hbt_ray.data.plan.plan import Plan
from hbt_ray.data.stream.loader import AuxiliaryTexts
from hbt_ray.data.stream.tokenise import TokenisingConfig
from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.model.build import build_encoder, tokenising_config
from hbt_ray.model.config import ModelConfig
from hbt_ray.train.loss.objective import LossConfig

_SIDES: dict[str, Side] = {
    "question_translations": "question",
    "passage_translations": "passage",
    "teacher_questions": "question",
    "teacher_passages": "passage",
}
"""Field of `LossInputs` → the side of the data that it renders."""


class TeacherConfig(Config):
    """A frozen encoder that the student imitates. Its vectors are as wide as the student's."""

    name: str
    """Name on the Hugging Face hub, or a folder."""
    language: Language = "en"
    """Language of the texts that the teacher encodes. Rows without a text in it are left out of the term. Teachers are
    usually strongest in English."""
    question_prompt: str | None = None
    """Text before each question. By default it is the model's own."""
    passage_prompt: str | None = None
    """Text before each passage. By default it is the model's own."""
    max_question_length: int = Field(64, gt=2)
    """Most tokens of a question; longer ones are cut. The default is that of `model`."""
    max_passage_length: int = Field(256, gt=2)
    """Most tokens of a passage; longer ones are cut. The default is that of `model`."""

    @property
    def model(self) -> ModelConfig:
        """The encoder settings as `ModelConfig`; its fields have the same names."""
        return ModelConfig(**self.model_dump(exclude={"language"}))

    def load_encoder(self, width: int) -> Any:
        """The teacher as a SentenceTransformer.

        Args:
            width: width of the student's vectors.

        Raises:
            ModelError: it cannot be loaded as an encoder, or its vectors have another width.
        """
        encoder = build_encoder(self.model)
        if (teacher_width := encoder.get_embedding_dimension()) != width:
            raise ModelError(
                f"teacher.name={self.name!r} makes vectors of {teacher_width} numbers and the student of {width}, so "
                "they cannot be compared; choose a teacher or a student of the other's width",
                code="TEACHER_WIDTH",
            )
        return encoder


def auxiliary_texts(
    loss: LossConfig, student: TokenisingConfig, teacher: TeacherConfig | None, teacher_encoder: Any
) -> tuple[AuxiliaryTexts, ...]:
    """The texts that the stream renders beside each batch for the terms of the loss."""
    # Translations go through the student, with its tokenizer and prompts; only the teacher's texts have the teacher's.
    teacher_tokenising = tokenising_config(teacher_encoder, teacher.model) if teacher else student
    texts = []
    for name, side in _SIDES.items():
        if name in loss.required_inputs:
            tokenising = teacher_tokenising if _is_teachers(name) else student
            if side == "question":
                prompt, max_length = tokenising.question_prompt, tokenising.max_question_length
            else:
                prompt, max_length = tokenising.passage_prompt, tokenising.max_passage_length
            rule = _translation_rule(name, loss, teacher)
            texts.append(AuxiliaryTexts(name, side, rule, tokenising.tokenizer_json, prompt, max_length))
    return tuple(texts)


def require_auxiliary_texts(
    loss: LossConfig, teacher: TeacherConfig | None, plan: Plan, negatives: Negatives | None
) -> None:
    """Check that configuration and data can serve the terms of the loss, before any worker starts."""
    names = sorted(_SIDES.keys() & loss.required_inputs)
    needs_teacher = any(_is_teachers(name) for name in names)
    if teacher is None and needs_teacher:
        raise ConfigError(
            "loss.imitation needs a teacher; set teacher.name to an encoder, or leave the term out",
            code="TEACHER_MISSING",
        )
    if teacher is not None and not needs_teacher:
        raise ConfigError(
            f"teacher.name={teacher.name!r} has no effect without loss.imitation; set loss.imitation.weight, or leave "
            "the teacher out",
            code="TEACHER_UNUSED",
        )
    for name in names:
        require_translations(plan, f"loss ({name})", _translation_rule(name, loss, teacher))
    if "teacher_scores" in loss.required_inputs:
        require_scores(negatives)


def _is_teachers(name: str) -> bool:
    return name.startswith("teacher")


def _translation_rule(name: str, loss: LossConfig, teacher: TeacherConfig | None) -> str:
    return f"exactly:{teacher.language}" if teacher and _is_teachers(name) else loss.translations
