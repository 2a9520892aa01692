"""Loss terms against language bias and for distillation. Each is added to InfoNCE with a weight of its own.

    lakda          a question ranks the passages alike in two languages              needs question translations
    alignment      a passage has the same vector in two languages                    needs passage translations
    erasure        vectors are not correlated with the language                      needs batches of several languages
    imitation      vectors lie where a teacher puts the text in its language         needs a teacher
    distillation   a row's candidates get the probabilities that a teacher gives     needs scores of mined negatives

Rows that lack what a term needs are left out, and the mean of the term is over the rows of all ranks that have it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.checkpoint import checkpoint

from hbt_ray.config import Config
from hbt_ray.train.loss.gather import first_row, gather
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.tiles import full_precision, share_key, upcast

_LAKDA_BLOCK_ROWS = 512
"""Rows of the similarity matrix in memory at once; the backward pass computes each block again."""
_MIN_DIVERGENCE = 1e-12
"""Smaller divergences are rounding errors."""
_MIN_VARIANCE = 1e-12
"""Smaller products of variances are rounding errors of constant columns."""


class Term(Config):
    """A term that can be added to the contrastive loss: its configuration and its function in one class."""

    weight: float = Field(1.0, gt=0)
    """Factor of the term in the loss."""
    required_inputs: ClassVar[frozenset[str]] = frozenset()
    """Names of the optional fields of `LossInputs` that the term reads."""

    @abstractmethod
    def rank_loss(self, inputs: LossInputs, rank_sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's share of the unweighted term; the shares of all ranks sum to the value of one process.

        Args:
            temperature: the temperature of the contrastive loss, without gradient.
        """


class Lakda(Term):
    """LaKDA: a question weighs the passages of the batch as its translation does.

        KL(p_b || p_a) = Σ_j p_b(j) · (log p_b(j) - log p_a(j))        p_x(j) ∝ exp(q_x·d_j / t)

    q_a is the row's question, q_b its translation, and j runs over the passages of the global batch. Both questions get
    gradients, as in the one public implementation that we found (the baseline of MIMO, 2605.31171). That implementation
    compares plain cosines: at a temperature of 1 no passage can weigh more than e² = 7.4 times as much as another.

    When to use: training pairs in one language rank well, but a question in another language ranks the same passages
    differently. It needs data whose questions exist in several languages.

    Source: Language Bias in Multilingual Information Retrieval (MRL 2024, 2024.mrl-1.23). The paper minimises
    (1 - a) InfoNCE + a KL, which has the same minimum as a weight of a / (1 - a): 1 for the paper's a of 0.5.
    """

    temperature: float | None = Field(None, gt=0)
    """Cosines are divided by it. By default it is the temperature of the loss; 1 is the paper's."""
    required_inputs = frozenset({"question_translations"})

    def rank_loss(self, inputs: LossInputs, rank_sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's share of the mean over questions that have a translation."""
        assert inputs.question_translations is not None
        questions, translations = upcast(inputs.questions), upcast(inputs.question_translations.vectors)
        passages = gather(upcast(inputs.passages), rank_sizes)
        passage_keys = gather(inputs.positive_keys[:, :1], rank_sizes)
        own_rows = torch.arange(len(questions), device=questions.device) + first_row(rank_sizes)
        columns = (questions, translations, inputs.positive_keys, own_rows)
        blocks = zip(*(column.split(_LAKDA_BLOCK_ROWS) for column in columns), strict=True)
        temperature = self.temperature or temperature
        divergences = [
            checkpoint(_lakda_divergence, *block, passages, passage_keys, temperature, use_reentrant=False)
            for block in blocks
        ]
        return masked_mean(torch.cat(divergences), inputs.question_translations.mask, rank_sizes)


def _lakda_divergence(
    questions: Tensor,
    translations: Tensor,
    positive_keys: Tensor,
    own_rows: Tensor,
    passages: Tensor,
    passage_keys: Tensor,
    temperature: float | Tensor,
) -> Tensor:
    """KL of some rows, [rows]. As in InfoNCE, other passages that answer the question are left out."""
    excluded = share_key(positive_keys, passage_keys)
    excluded[torch.arange(len(own_rows), device=own_rows.device), own_rows] = False
    with full_precision(questions.device):  # Inside this function, so that it also holds for the recomputation.
        a, b = (
            (side @ passages.T / temperature).masked_fill(excluded, -torch.inf).log_softmax(1)
            for side in (questions, translations)
        )
    # Excluded entries are -inf in both, and -inf - (-inf) is NaN.
    return (b.exp() * (b - a).masked_fill(excluded, 0)).sum(1)


class Alignment(Term):
    """Alignment: a passage has the same vector in two languages.

        √JSD(softmax(z_a), softmax(z_b))        JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2

    The softmax is over the entries of the vectors z. The root is a distance, and its slope has no bound where both
    distributions are equal; there the gradient is taken as 0.

    When to use: search in a pool of several languages prefers passages in the question's language. It needs data whose
    passages exist in several languages, and InfoNCE beside it, without which all vectors collapse into one.

    Source: 2604.05684.
    """

    required_inputs = frozenset({"passage_translations"})

    def rank_loss(self, inputs: LossInputs, rank_sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's share of the mean over passages that have a translation."""
        assert inputs.passage_translations is not None
        p, q = (upcast(side).log_softmax(1) for side in (inputs.passages, inputs.passage_translations.vectors))
        middle = torch.logaddexp(p, q) - torch.tensor(2.0, dtype=p.dtype, device=p.device).log()  # log m
        divergence = ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)) / 2
        # Below its bound the clamp has gradient 0; the root alone would have an infinite one at 0.
        distances = divergence.clamp(min=_MIN_DIVERGENCE).sqrt()
        return masked_mean(distances, inputs.passage_translations.mask, rank_sizes)


class Erasure(Term):
    """Erasure of the language: no entry of the vectors is correlated with any language.

        mean over entries d and languages l of  corr(z_d, [row is in l])²

    over the questions and passages of the global batch. The correlation is of the whole batch, so every rank gathers
    all vectors. In a batch of one language the term is 0.

    When to use: vectors cluster by language, and mixed batches (`plan.policy: mixed`) are affordable.

    Source: the penalty on the correlation between embeddings and language labels of LANCER (2024.emnlp-main.736), here
    with one indicator for each language of the batch as labels.
    """

    def rank_loss(self, inputs: LossInputs, rank_sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's share: every rank computes the whole value and returns an equal part of it."""
        vectors = torch.cat([gather(upcast(side), rank_sizes) for side in (inputs.questions, inputs.passages)])
        languages = (inputs.question_languages, inputs.passage_languages)
        labels = torch.cat([gather(side, rank_sizes) for side in languages])
        indicators = (labels[:, None] == labels.unique()).to(vectors.dtype)  # [2 · all rows, languages]
        z, y = (columns - columns.mean(0) for columns in (vectors, indicators))
        covariance = z.T @ y / len(z)  # [width, languages]
        variances = (z * z).mean(0)[:, None] * (y * y).mean(0)  # [width, languages]
        # The denominator is clamped too: `where` passes a zero gradient into the division, and 0 / 0 would be NaN.
        correlation = torch.where(variances > _MIN_VARIANCE, covariance**2 / variances.clamp(min=_MIN_VARIANCE), 0)
        # The backward pass of `gather` sums the gradients of the ranks' equal copies.
        return correlation.mean() / len(rank_sizes)


class Imitation(Term):
    """Imitation: the student's vector of a text lies where a teacher puts the same text in the teacher's language.

        1 - cos(student(x in its language), teacher(x in the teacher's language))

    for questions and passages. The teacher is frozen and has the student's width.

    When to use: a strong encoder of one language exists, and the data is parallel to that language.

    Source: Reimers and Gurevych (2004.09813), with the cosine of MIMO (2605.31171) instead of the squared error.
    """

    required_inputs = frozenset({"teacher_questions", "teacher_passages"})

    def rank_loss(self, inputs: LossInputs, rank_sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's share of the mean over the texts that exist in the teacher's language."""
        assert inputs.teacher_questions is not None
        assert inputs.teacher_passages is not None
        targets = (inputs.teacher_questions, inputs.teacher_passages)
        student = torch.cat([upcast(inputs.questions), upcast(inputs.passages)])
        teacher = torch.cat([upcast(target.vectors) for target in targets])
        distances = 1 - cosine_similarity(student, teacher)
        return masked_mean(distances, torch.cat([target.mask for target in targets]), rank_sizes)


class Distillation(Term):
    """Distillation: the student weighs a row's candidates, in any language, as a teacher weighed them in English.

        KL(p_T || p_S) = Σ_j p_T(j) · (log p_T(j) - log p_S(j))

    j runs over the row's passage and its own mined negatives. p_T is the softmax of the teacher's scores, which
    `hbt mine` stores beside the negatives, and p_S that of the student's cosines. Candidates without a score and mined
    negatives that answer the question are left out, and so are rows with fewer than two candidates.

    When to use: negatives were mined with a cross-encoder's scores, and the ranking among them matters.

    Source: Translate-Distill (2401.04810; 2405.00977).
    """

    teacher_temperature: float = Field(1.0, gt=0)
    """The teacher's scores are divided by it. Use 1 for logits of a cross-encoder, the loss's temperature for cosines.
    """
    required_inputs = frozenset({"hard_negatives", "teacher_scores"})

    def rank_loss(self, inputs: LossInputs, rank_sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        """This rank's share of the mean over rows with at least two scored candidates."""
        assert inputs.hard_negatives is not None
        assert inputs.teacher_scores is not None
        negatives = inputs.hard_negatives
        candidates = torch.cat([inputs.passages[:, None], negatives.vectors], dim=1)  # [rows, 1 + n, width]
        with full_precision(candidates.device):
            student = torch.einsum("rw,rnw->rn", upcast(inputs.questions), upcast(candidates)) / temperature
        is_positive = (negatives.keys[:, :, None] == inputs.positive_keys[:, None, :]).any(2)  # [rows, n]
        passage_mask = torch.ones_like(negatives.mask[:, :1])
        scored = torch.cat([passage_mask, negatives.mask & ~is_positive], dim=1) & ~inputs.teacher_scores.isnan()
        counted = scored.sum(1) >= 2
        # Rows that do not count keep all candidates, so that their gradients are finite before the mask drops them.
        scored = scored | ~counted[:, None]
        teacher = inputs.teacher_scores.nan_to_num().to(student.dtype) / self.teacher_temperature
        t, s = (scores.masked_fill(~scored, -torch.inf).log_softmax(1) for scores in (teacher, student))
        divergences = (t.exp() * (t - s).masked_fill(~scored, 0)).sum(1)
        return masked_mean(divergences, counted, rank_sizes)


def masked_mean(values: Tensor, mask: Tensor, rank_sizes: Sequence[int]) -> Tensor:
    """This rank's share of the mean over the masked-in rows of all ranks; 0 with a graph if there are none.

    Args:
        values: [rows] of this rank; any finite value where `mask` is False.
        mask: [rows] bool; rows that count.
    """
    count = mask.sum().to(values.dtype)
    if len(rank_sizes) > 1:
        dist.all_reduce(count)
    # `values` is used even without a counted row: the backward collectives need a graph on every rank.
    return values.masked_fill(~mask, 0).sum() / count.clamp(min=1)
