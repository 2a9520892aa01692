"""The objective: its configuration, the learned temperature, and the terms that are added."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hbt_ray.errors import ConfigError
from hbt_ray.train.loss.info_nce import info_nce
from hbt_ray.train.loss.inputs import LossInputs
from hbt_ray.train.loss.objective import LossConfig, Objective
from hbt_ray.train.loss.terms import Term


class Length(Term):
    """A term for these tests: the mean sum of the questions' numbers, divided by the temperature."""

    def rank_loss(self, inputs: LossInputs, rank_sizes: Sequence[int], temperature: float | Tensor) -> Tensor:
        return (inputs.questions / temperature).sum() / sum(rank_sizes)


class Lengthened(LossConfig):
    first: Length | None = None
    second: Length | None = None


def encoded() -> LossInputs:
    generator = torch.Generator().manual_seed(2)
    questions, passages = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    keys = torch.arange(4)
    return LossInputs(questions.requires_grad_(), passages, keys[:, None], keys, keys)


def test_the_objective_of_no_options_is_info_nce() -> None:
    some = encoded()
    objective = Objective(LossConfig(temperature=0.2))
    assert not list(objective.parameters())
    assert objective.temperature == 0.2
    assert objective(some, (4,)) == info_nce(some.questions, some.passages, some.positive_keys, 0.2, (4,))


def test_terms_that_are_set_are_added_with_their_weight_and_name() -> None:
    some = encoded()
    objective = Objective(Lengthened(temperature=0.5, second=Length(weight=3.0), learn_temperature=True))
    parts = objective.rank_losses(some, (4,))
    assert list(parts) == ["info_nce", "second"]
    assert parts["second"].item() == pytest.approx(3 * some.questions.sum().item() / 0.5 / 4)
    assert objective(some, (4,)).item() == pytest.approx(sum(part.item() for part in parts.values()))
    parts["second"].backward()
    assert objective.log_scale.grad is None, "a term must not move the temperature"
    assert list(Lengthened().terms) == []


def test_a_temperature_beyond_its_bound_comes_back_and_can_leave_it_again() -> None:
    objective = Objective(LossConfig(temperature=0.01, learn_temperature=True))
    with torch.no_grad():
        objective.log_scale.fill_(9.0)  # A step of the optimiser may lead there.
    assert objective.temperature.item() == pytest.approx(0.01)
    objective(encoded(), (4,)).backward()
    assert objective.log_scale.item() == pytest.approx(4.60517, abs=1e-5)
    assert objective.log_scale.grad.item() > 0  # These rows are wrong, so a flatter softmax is better.
    torch.optim.SGD(objective.parameters(), lr=1e-3).step()
    assert objective.temperature.item() > 0.01


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dimensions": [4, 4]}, "distinct numbers"),
        ({"dimensions": [0]}, "above 0"),
        ({"temperature": 0}, "greater than 0"),
        ({"tile": 0}, "greater than 0"),
        ({"temperature": 0.005, "learn_temperature": True}, "cannot start at 0.005"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LossConfig.make(settings, "train.yaml")


@pytest.mark.parametrize("dimensions", [(4, 6), (7,)])
def test_prefixes_must_be_narrower_than_the_vectors(dimensions: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="below 6") as caught:
        Objective(LossConfig(dimensions=dimensions), width=6)
    assert caught.value.code == "PREFIX_TOO_WIDE"
