"""Each method by hand on a handful of vectors, and what it does where it cannot do anything."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from hbt_ray.errors import ConfigError, ModelError
from hbt_ray.retrieval.transforms import Centering, Lir, Method, Shift, Transform, fit, make_method
from hbt_ray.retrieval.transforms.fit import FitVectors

DE = np.array([[3.0, 0, 1], [1, 2, 1], [2, 1, 1]])
EN = np.array([[1.0, 1, 0], [0, 3, 0], [2, 2, 0]])
ASKED = np.array([[0.0, 3, 4], [2, 1, 1], [1, 1, 1]])


def fitted(method: Method, scale: float = 1.0) -> Transform:
    """To German and English, the same on both sides but for a factor."""
    if method.anchor:
        return fit(method, {"passage": {"de": FitVectors(DE, EN)}}, encoder="e")
    sides = {"question": scale, "passage": 1.0}
    return fit(method, {side: {"de": FitVectors(f * DE), "en": FitVectors(f * EN)} for side, f in sides.items()})


def test_centering_takes_the_mean_of_the_language_and_side() -> None:
    transform = fitted(Centering(), scale=2)
    # Means: de (2, 1, 1), en (1, 2, 0); of questions twice that.
    assert transform.apply(ASKED, ["de", "en", "de"], "passage").tolist() == [[-2, 2, 3], [1, -1, 1], [-1, 0, 0]]
    assert transform.apply(ASKED, ["de", "en", "de"], "question").tolist() == [[-4, 1, 2], [0, -3, 1], [-3, -1, -1]]
    assert transform.apply(DE, ["de"] * 3, "passage").mean(axis=0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["centering", "lir"])
def test_questions_stay_where_they_are_if_documents_alone_are_moved(kind: str) -> None:
    method = make_method(kind, documents_only=True)
    transform = fit(method, {side: {"de": FitVectors(DE)} for side in method.sides})
    whole = fit(make_method(kind), {side: {"de": FitVectors(DE)} for side in ("question", "passage")})
    assert np.array_equal(transform.apply(ASKED, ["de"] * 3, "question"), ASKED)
    assert np.array_equal(transform.apply(ASKED, ["de"] * 3, "passage"), whole.apply(ASKED, ["de"] * 3, "passage"))
    assert not np.array_equal(whole.apply(ASKED, ["de"] * 3, "question"), ASKED)
    assert transform.fingerprint != whole.fingerprint


def test_lir_takes_the_shadow_on_the_first_directions_of_vectors_that_are_not_centred() -> None:
    along = np.array([[4.0, 3, 0], [8, 6, 0], [-4, -3, 0]])  # All on the line of (0.8, 0.6, 0).
    transform = fit(Lir(), {"passage": {"de": FitVectors(along)}})
    # (0, 3, 4): its shadow is 1.8 · (0.8, 0.6, 0).
    assert transform.apply(ASKED[:1], ["de"], "passage") == pytest.approx(np.array([[-1.44, 1.92, 4]]))
    assert np.abs(transform.apply(along, ["de"] * 3, "passage")).max() < 1e-5
    two = fit(Lir(directions=2), {"passage": {"de": FitVectors(np.vstack([along, [[0, 0, 0.1]]]))}})
    assert two.apply(ASKED[:1], ["de"], "passage") == pytest.approx(np.array([[-1.44, 1.92, 0]]), abs=1e-6)


def test_shift_takes_alpha_of_the_offset_from_passages_alone() -> None:
    transform = fitted(Shift(alpha=0.5))
    # Mean of DE - EN: (2, -1, 1), (1, -1, 1), (0, -1, 1) → (1, -1, 1).
    assert transform.apply(ASKED, ["de", "en", "de"], "passage").tolist() == [
        [-0.5, 3.5, 3.5],
        [2, 1, 1],
        [0.5, 1.5, 0.5],
    ]
    assert np.array_equal(transform.apply(ASKED, ["de", "en", "de"], "question"), ASKED)


def test_vectors_of_length_one_get_it_back() -> None:
    unit = DE / np.linalg.norm(DE, axis=1, keepdims=True)
    transform = fit(Centering(), {"passage": {"de": FitVectors(unit)}})
    assert transform.unit
    moved = unit - unit.mean(axis=0)
    expected = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    assert transform.apply(unit, ["de"] * 3, "passage") == pytest.approx(expected, abs=1e-6)
    assert not fitted(Centering()).unit
    # What lies on the mean has no direction left; it becomes nothing, and not NaN.
    same = fit(Centering(), {"passage": {"de": FitVectors(unit[[0, 0]])}})
    assert np.isfinite(same.apply(unit[:1], ["de"], "passage")).all()


def test_languages_that_it_does_not_know_stay_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        moved = fitted(Centering()).apply(ASKED, ["th", "de", "fr"], "passage")
    assert np.array_equal(moved[[0, 2]], ASKED[[0, 2]].astype(np.float32))
    assert moved[1].tolist() == [0, 0, 0]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "posthoc centering was not fitted for fr, th"
    ]
    caplog.clear()
    fitted(Shift()).apply(ASKED, ["en", "de", "en"], "passage")
    fitted(Shift()).apply(ASKED, ["th", "de", "fr"], "question")
    assert not caplog.records, "the source language and questions stay because they should"


def test_equal_vectors_stay_equal_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(999, 37)).astype(np.float32)
    vectors[500:] = vectors[:499]
    for method in (Centering(), Lir(directions=3)):
        transform = fit(method, {"passage": {"de": FitVectors(rng.normal(size=(50, 37)))}})
        moved = transform.apply(vectors, ["de"] * 999, "passage")
        assert np.array_equal(moved[500:], moved[:499])


@pytest.mark.parametrize("method", [Centering(texts=7), Lir(directions=2), Shift(alpha=0.3, source="en")])
def test_a_saved_transform_is_loaded_unchanged(method: Method, tmp_path: Path) -> None:
    transform = fitted(method)
    path = transform.save(tmp_path / "new" / "mine-0.3.safetensors")
    loaded = Transform.load(path)
    assert (loaded.name, loaded.method, loaded.unit) == ("mine-0.3", method, transform.unit)
    assert (loaded.encoder, loaded.texts, loaded.fingerprint) == (
        transform.encoder,
        transform.texts,
        transform.fingerprint,
    )
    for side in ("question", "passage"):
        languages = ["de", "en", "de"]
        assert np.array_equal(loaded.apply(ASKED, languages, side), transform.apply(ASKED, languages, side))
    assert [file.name for file in path.parent.iterdir()] == ["mine-0.3.safetensors"]


def test_the_fingerprint_covers_parameters_and_settings() -> None:
    transforms = [fitted(Centering()), fitted(Centering(), scale=2), fitted(Shift()), fitted(Shift(alpha=0.5))]
    assert len({transform.fingerprint for transform in transforms}) == 4
    assert fitted(Shift()).fingerprint == fitted(Shift()).fingerprint


def test_other_files_than_transforms_are_refused(tmp_path: Path) -> None:
    path = fitted(Lir()).save(tmp_path / "lir.safetensors")
    with pytest.raises(ModelError) as error:
        Transform.load(tmp_path / "centering.safetensors")
    assert error.value.code == "INVALID_TRANSFORM"
    whole = path.read_bytes()
    for content in (whole[:-5], b"", whole.replace(b'\\"lir\\"', b'\\"lor\\"'), whole.replace(b"hbt_ray", b"hbt_rat")):
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(ModelError) as error:
            Transform.load(path)
        assert error.value.code == "INVALID_TRANSFORM"
    with pytest.raises(ConfigError) as error:
        fitted(Lir()).save(tmp_path / "a b.safetensors")
    assert error.value.code == "INVALID_NAME"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as error:
        fitted(Lir()).save(tmp_path / "file" / "lir.safetensors")
    assert error.value.code == "STORAGE"


def test_vectors_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        fitted(Lir()).apply(ASKED, ["de", "en"], "passage")
    assert error.value.code == "INVALID_VECTORS"
    with pytest.raises(ConfigError) as error:
        fitted(Lir()).apply(ASKED[:, :2], ["de"] * 3, "passage")
    assert error.value.code == "OTHER_ENCODER"
    with pytest.raises(ConfigError) as error:
        fitted(Lir(directions=3))
    assert error.value.code == "INVALID_CONFIG"
    with pytest.raises(ConfigError) as error:
        fit(Shift(), {"passage": {"de": FitVectors(DE, EN[:2])}})
    assert error.value.code == "INVALID_CONFIG"
    with pytest.raises(ConfigError) as error:
        make_method("shift", directions=2)
    assert error.value.code == "INVALID_CONFIG"
    assert make_method("shift", alpha=0.6, texts=None) == Shift(alpha=0.6)
