# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_segdiff.transforms import RandColorJitter, RandColorJitterD, RandColorJitterd, RandColorJitterDict

ALL = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def picture(seed: int = 0, shape: tuple[int, ...] = (6, 7)) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (3, *shape)).astype(np.float32)
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = 0, 255, 77  # black, white and grey have no hue
    return image


def grey(image: np.ndarray) -> np.ndarray:
    return 0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(image * factor, 0, 255)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * grey(image).mean(), 0, 255)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * grey(image), 0, 255)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    out = np.empty_like(image)
    for place in np.ndindex(image.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*(image[(slice(None), *place)].astype(float) / 255))
        out[(slice(None), *place)] = np.multiply(colorsys.hsv_to_rgb((h + shift) % 1, s, v), 255)
    return out


REFERENCES: tuple[Callable, ...] = (brightness, contrast, saturation, hue)
NAMES = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.parametrize("index", range(4), ids=NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_each_operation(index: int, seed: int) -> None:
    jitter = RandColorJitter(**{NAMES[index]: 0.5}).set_random_state(seed)
    out = jitter(picture(seed))
    factor = jitter.factors[index]
    assert (-0.5 <= factor <= 0.5) if index == 3 else (0.5 <= factor <= 1.5)
    assert factor not in (0, 1)
    np.testing.assert_allclose(out, REFERENCES[index](picture(seed), factor), atol=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_order(seed: int) -> None:
    jitter = RandColorJitter(**ALL).set_random_state(seed)
    out = jitter(picture())
    expected = picture()
    for index in jitter.order:
        expected = REFERENCES[index](expected, jitter.factors[index])
    np.testing.assert_allclose(out, expected, atol=5e-3)


def test_draws_follow_their_distributions() -> None:
    jitter = RandColorJitter(brightness=2.0, contrast=0.4, saturation=0.0, hue=0.1).set_random_state(0)
    orders, factors = set(), []
    for _ in range(500):
        jitter.randomize()
        orders.add(jitter.order)
        factors.append(jitter.factors)
    drawn = np.array(factors)
    assert len(orders) == 24
    np.testing.assert_allclose(drawn.min(0), [0, 0.6, 1, -0.1], atol=0.03)
    np.testing.assert_allclose(drawn.max(0), [3, 1.4, 1, 0.1], atol=0.03)
    np.testing.assert_allclose(drawn.mean(0), [1.5, 1, 1, 0], atol=0.15)


@pytest.mark.parametrize("jitter", [RandColorJitter(), RandColorJitter(**ALL, prob=0.0)])
def test_identity(jitter: RandColorJitter) -> None:
    out = jitter(picture())
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, picture())


@pytest.mark.parametrize("seed", range(5))
def test_range_and_finite(seed: int) -> None:
    jitter = RandColorJitter(brightness=1, contrast=1, saturation=1, hue=0.5).set_random_state(seed)
    for shape in ((8, 9), (4, 5, 6)):
        out = jitter(picture(seed, shape))
        assert out.shape == (3, *shape)
        assert np.isfinite(out).all()
        assert out.min() >= 0
        assert out.max() <= 255


def test_types_and_meta() -> None:
    jitter = RandColorJitter(**ALL)
    expected = jitter.set_random_state(3)(picture())
    whole = torch.from_numpy(picture()).to(torch.uint8)
    image = MetaTensor(whole, meta={"filename_or_obj": "a.png"})
    out = jitter.set_random_state(3)(image)
    assert isinstance(out, MetaTensor)
    assert out.meta["filename_or_obj"] == "a.png"
    assert out.dtype == torch.float32
    np.testing.assert_array_equal(out.numpy(), expected)
    assert torch.equal(image, whole)
    plain = jitter.set_random_state(3)(whole)
    assert type(plain) is torch.Tensor
    assert isinstance(expected, np.ndarray)


def test_reproducible() -> None:
    first, second = (RandColorJitter(**ALL).set_random_state(7) for _ in range(2))
    a, b, c = first(picture()), first(picture()), second(picture())
    np.testing.assert_array_equal(a, c)
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(first(picture(), randomize=False), b)


def test_dictionary() -> None:
    chain = Compose([RandColorJitterd(keys=["image", "other"], **ALL)])
    data = {"image": picture(), "other": picture(), "label": np.ones((1, 6, 7))}
    first = chain.set_random_state(5)(data)
    np.testing.assert_array_equal(first["image"], first["other"])
    assert not np.array_equal(first["image"], data["image"])
    assert first["label"] is data["label"]
    np.testing.assert_array_equal(data["image"], picture())
    second = chain(data)
    assert not np.array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(chain.set_random_state(5)(data)["image"], first["image"])


def test_dictionary_probability_and_missing_keys() -> None:
    jitter = RandColorJitterd("image", **ALL, prob=0.3).set_random_state(0)
    changed = [not np.array_equal(jitter({"image": picture()})["image"], picture()) for _ in range(200)]
    assert 0.2 < np.mean(changed) < 0.4
    assert RandColorJitterd("image", allow_missing_keys=True)({"x": 1}) == {"x": 1}
    with pytest.raises(KeyError):
        RandColorJitterd("image")({"x": 1})
    assert RandColorJitterD is RandColorJitterDict is RandColorJitterd


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4, 4), (4, 4, 3), (3,)])
def test_wrong_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected RGB"):
        RandColorJitter(**ALL)(np.zeros(shape, np.float32))


@pytest.mark.parametrize("wrong", [{"brightness": -0.1}, {"contrast": -1}, {"saturation": float("nan")}, {"hue": 0.6}])
def test_wrong_amplitudes(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* expected"):
        RandColorJitter(**wrong)
