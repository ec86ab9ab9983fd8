# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from skimage.color import hed_from_rgb, rgb_from_hed

from monai_segdiff.transforms import RandStainJitter, RandStainJitterD, RandStainJitterd, RandStainJitterDict


def picture(seed: int = 0, shape: tuple[int, ...] = (6, 7)) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (3, *shape)).astype(np.float32)
    image[:, 0, 0], image[:, 0, 1] = 0, 255  # black must stay finite, white is without stain
    return image


def stained(densities: tuple[float, float, float]) -> np.ndarray:
    """One pixel with so much of haematoxylin, eosin and DAB."""
    return 256 * np.exp(-np.array(densities) @ rgb_from_hed).reshape(3, 1, 1) - 1


@pytest.mark.parametrize("shape", [(6, 7), (2, 3, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_each_stain_is_changed_by_its_own_factor_and_offset(seed: int, shape: tuple[int, ...]) -> None:
    jitter = RandStainJitter(strength=0.3, shift=0.1).set_random_state(seed)
    image = picture(seed, shape)
    out = jitter(image)
    expected = np.empty_like(image)
    for place in np.ndindex(shape):
        density = -np.log((image[(slice(None), *place)].astype(float) + 1) / 256)
        stains = (density @ hed_from_rgb) * jitter.factors + jitter.offsets
        expected[(slice(None), *place)] = np.clip(256 * np.exp(-stains @ rgb_from_hed) - 1, 0, 255)
    np.testing.assert_allclose(out, expected, atol=2e-3)


def test_draws_lie_in_their_ranges_and_differ_by_stain() -> None:
    jitter = RandStainJitter(strength=0.3, shift=0.1).set_random_state(0)
    drawn = []
    for _ in range(200):
        jitter.randomize()
        drawn.append((jitter.factors, jitter.offsets))
    factors, offsets = (np.stack(kind) for kind in zip(*drawn, strict=True))
    assert 0.7 <= factors.min() < 0.71
    assert 1.29 < factors.max() <= 1.3
    assert -0.1 <= offsets.min() < -0.099
    assert 0.099 < offsets.max() <= 0.1
    assert np.abs(np.corrcoef(np.concatenate([factors, offsets], axis=1).T) - np.eye(6)).max() < 0.25


def test_more_haematoxylin_alone() -> None:
    jitter = RandStainJitter(strength=1)
    jitter._do_transform, jitter.factors, jitter.offsets = True, np.array([1.5, 1, 1]), np.zeros(3)
    np.testing.assert_allclose(jitter(stained((0.4, 0.2, 0.1)), randomize=False), stained((0.6, 0.2, 0.1)), atol=1e-3)


def test_values_stay_in_range() -> None:
    jitter = RandStainJitter(strength=1, shift=3).set_random_state(0)
    for seed in range(20):
        out = jitter(picture(seed))
        assert out.min() >= 0
        assert out.max() <= 255
        assert np.isfinite(out).all()


@pytest.mark.parametrize("arguments", [{}, {"strength": 0.5, "prob": 0.0}])
def test_left_alone(arguments: dict[str, float]) -> None:
    np.testing.assert_array_equal(RandStainJitter(**arguments).set_random_state(0)(picture()), picture())


def test_acts_with_its_probability() -> None:
    jitter = RandStainJitter(strength=0.5, prob=0.3).set_random_state(0)
    changed = sum(not np.array_equal(jitter(picture()), picture()) for _ in range(300))
    assert 70 < changed < 110


def test_array_types_and_meta_data() -> None:
    jitter = RandStainJitter(strength=0.5).set_random_state(0)
    meta = MetaTensor(picture(), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    out = jitter(meta)
    assert isinstance(out, MetaTensor)
    assert out.dtype == torch.float32
    assert torch.equal(out.affine, meta.affine)
    torch.testing.assert_close(out.as_tensor(), jitter(meta.as_tensor(), randomize=False))
    as_bytes = jitter(picture().astype(np.uint8), randomize=False)
    assert isinstance(as_bytes, np.ndarray)
    assert as_bytes.dtype == np.float32
    np.testing.assert_allclose(as_bytes, out.numpy(), atol=1e-4)


def test_input_is_not_changed() -> None:
    image = picture()
    RandStainJitter(strength=0.5, shift=0.1).set_random_state(0)(image)
    np.testing.assert_array_equal(image, picture())


def test_dictionary_gives_all_keys_the_same_draw() -> None:
    jitter = RandStainJitterd(keys=["image", "other"], strength=0.5).set_random_state(3)
    out = jitter({"image": picture(), "other": picture(), "label": 1})
    np.testing.assert_array_equal(out["image"], out["other"])
    assert not np.array_equal(out["image"], picture())
    assert out["label"] == 1
    again = jitter({"image": picture(), "other": picture()})
    assert not np.array_equal(again["image"], out["image"])


def test_same_seed_same_pictures_inside_of_compose() -> None:
    def draw(seed: int) -> np.ndarray:
        transform = Compose([RandStainJitterd(keys="image", strength=0.5)]).set_random_state(seed)
        return np.stack([transform({"image": picture()})["image"] for _ in range(3)])

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_missing_keys() -> None:
    with pytest.raises(KeyError):
        RandStainJitterd(keys="image")({"label": 1})
    assert RandStainJitterd(keys="image", allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_names() -> None:
    assert RandStainJitterD is RandStainJitterd
    assert RandStainJitterDict is RandStainJitterd


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -0.1}, "strength is -0.1, expected a number in 0..1"),
        ({"strength": 1.1}, "strength is 1.1, expected a number in 0..1"),
        ({"strength": float("nan")}, "strength is nan, expected a number in 0..1"),
        ({"shift": -1}, "shift is -1, expected a number of at least 0"),
        ({"shift": float("inf")}, "shift is inf, expected a number of at least 0"),
    ],
)
def test_bad_amplitudes(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandStainJitter(**arguments)
    with pytest.raises(ValueError, match=message):
        RandStainJitterd(keys="image", **arguments)


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4, 3), (3,)])
def test_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected RGB with channels first, \[3, \*spatial\]"):
        RandStainJitter(strength=0.5)(np.zeros(shape))
