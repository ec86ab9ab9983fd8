# SPDX-License-Identifier: Apache-2.0
"""Segmentation as one object: load a bundle once, segment images of many kinds."""

from __future__ import annotations

import copy
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta
from monai.data.utils import affine_to_spacing
from monai.transforms import EnsureChannelFirstd
from tqdm import tqdm

from .exceptions import BundleError, ImageError, PredictionCancelledError
from .inferers.call_progress import Progress
from .inferers.generation_inferer import GenerationInferer
from .io.bundle import OpenedBundle
from .io.image_in_memory import as_meta_tensor, check_image, is_rows_first
from .io.limited_calls import limited_calls
from .io.usable_device import usable_device
from .prediction import Prediction, Provenance

if TYPE_CHECKING:
    from .io.dicom_series import DicomSeries

__all__ = ["SegDiffPredictor"]


class SegDiffPredictor:
    """Segment images with a bundle of this project, in two dimensions or three.

    The bundle is loaded once; :meth:`predict` may then be called from several threads at the same time. It keeps no
    state between calls, neither reads nor changes global state (random numbers, number of threads, autocast, logging),
    prints nothing, and raises typed errors. Same image, settings, ``max_batch`` and seed give the same bits on one
    device, as ``python -m monai.bundle run inference`` does. It can be pickled: the copy loads the bundle anew.

    Args:
        bundle: an opened bundle; see :meth:`from_bundle`.

    Example:
        >>> predictor = SegDiffPredictor.from_bundle("bundles/monuseg")  # doctest: +SKIP
        >>> result = predictor.predict("slide.png", num_generations=8)  # doctest: +SKIP
        >>> result.mask.shape, result.labels  # doctest: +SKIP
        ((1000, 1000), {1: 'nuclei'})
    """

    def __init__(self, bundle: OpenedBundle) -> None:
        self.bundle = bundle

    @classmethod
    def from_bundle(cls, path: str | os.PathLike[str], device: str | torch.device = "auto") -> SegDiffPredictor:
        """Load a bundle.

        Args:
            path: its folder. A bundle is code: expressions in its configs are run. Its weights are loaded without
                running anything.
            device: where to compute, as ``"cpu"`` or ``"cuda:1"``; ``"auto"``: the first GPU if there is one.

        Raises:
            BundleError: the folder is missing or incomplete.
            CheckpointError: the weights are missing, damaged, or of another network.
            ValueError: this machine has no such device.
        """
        return cls(OpenedBundle(path, str(usable_device(device))))

    def __reduce__(self) -> tuple[Any, ...]:
        return SegDiffPredictor.from_bundle, (str(self.bundle.root), self.bundle.device)

    def predict(
        self,
        image: Any,
        *,
        num_inference_steps: int | None = None,
        num_generations: int | None = None,
        seed: int | None = None,
        max_batch: int | None = None,
        timeout_s: float | None = None,
        progress: Progress = False,
        series_uid: str | None = None,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: path of a file as the bundle reads it (png, tif, jpg; NIfTI) or, for volumes, of a folder with one
                DICOM series; or an image in memory: a PIL picture, an array or a tensor, as
                :func:`~monai_segdiff.io.image_in_memory.as_meta_tensor` takes it.
            num_inference_steps: steps of the sampler; default: the bundle's.
            num_generations: results to average; default: the bundle's.
            seed: start of all random streams; default: the bundle's.
            max_batch: rows in one call of the network, which bounds its memory; default: the bundle's.
            timeout_s: seconds after which the prediction is given up; looked at before and after every call of the
                network. Default: never.
            progress: True shows a bar; a function is called with the calls of the network done and those in all, at the
                start, and after each call and each encoding of a window. It may raise ``PredictionCancelledError`` (or
                anything else) to stop.
            series_uid: SeriesInstanceUID of the series to take from a folder that holds several.

        Raises:
            ImageError: the image cannot be read or used; the message names the file.
            SeriesError: the folder holds no usable DICOM series.
            PredictionTimeoutError: it took too long.
            DivergenceError: the network returned NaN.
            TypeError: an image or a setting of another kind.
            ValueError: a setting out of range; or MONAI's ``set_track_meta(False)`` or another default dtype of PyTorch
                than float32 is in force, with which MONAI's transforms compute something else.
        """
        _check_globals()
        begun = time.monotonic()
        inferer = self.bundle.inferer(num_inference_steps, num_generations, seed, max_batch)
        steps = self.bundle.transforms()
        data, series = self._load(image, steps.load, series_uid)
        source: MetaTensor = data["image"]
        data = _apply(steps.prepare, data)
        if 0 in data["image"].shape:
            raise ImageError(
                f"{_name(image)}: is too small for this bundle: its size {list(source.shape[1:])} becomes "
                f"{list(data['image'].shape[1:])}."
            )
        device = next(self.bundle.network.parameters()).device
        plain = torch.autocast(device.type, enabled=False)  # whatever the caller has switched on
        with plain, limited_calls(_name(image), begun, timeout_s, progress) as report:
            inputs = data["image"][None].to(device)
            data["pred"] = inferer.with_progress(report)(inputs, self.bundle.network)[0].cpu()
        del inputs
        data = _apply(steps.restore, data)
        probability = torch.as_tensor(data["pred"]).clamp(0, 1)
        mask = torch.as_tensor(_apply(steps.make_mask, data)["pred"])[0]
        uncertainty = inferer.tally.entropy(probability[None])[0].sum(dim=0)
        turned = is_rows_first(image) and source.ndim == 3
        affine = np.array(source.affine, dtype=np.float64) if source.ndim == 4 else None
        return Prediction(
            mask=_array(mask, np.uint8, turned),
            probability=_array(probability, np.float32, turned),
            uncertainty=_array(uncertainty, np.float32, turned),
            affine=affine,
            spacing=None if affine is None else tuple(affine_to_spacing(affine).tolist()),
            labels=dict(self.bundle.labels),
            rows_first=turned,
            source=os.path.abspath(_path(image)) if isinstance(image, (str, os.PathLike)) else None,
            provenance=self._provenance(inferer),
            meta=copy.deepcopy(dict(source.meta)),
            series=series,
        )

    def predict_many(
        self,
        images: Iterable[Any],
        *,
        num_inference_steps: int | None = None,
        num_generations: int | None = None,
        seed: int | None = None,
        max_batch: int | None = None,
        timeout_s: float | None = None,
        progress: Progress = True,
    ) -> Iterator[tuple[Any, Prediction | Exception]]:
        """Segment images one after another; one that fails does not stop the others.

        Args:
            images: as for :meth:`predict`.
            num_inference_steps: as for :meth:`predict`, like the following.
            num_generations: results to average.
            seed: start of all random streams.
            max_batch: rows in one call of the network.
            timeout_s: seconds for each image.
            progress: True shows a bar over the images; a function is called during each, as by :meth:`predict`.

        Returns:
            An iterator that segments the next image when asked: the image as given, with its prediction, or with the
            error that it raised. ``PredictionCancelledError`` ends the rest.

        Raises:
            TypeError: ``images`` is one path; or a setting of another kind.
            ValueError: a setting out of range.

        Example:
            >>> for path, result in predictor.predict_many(["a.png", "b.png"]):  # doctest: +SKIP
            ...     print(path, result if isinstance(result, Exception) else result.mask.mean())
        """
        if isinstance(images, (str, os.PathLike)):
            raise TypeError(f"images is one path, {images}; expected a list of images.")
        self.bundle.inferer(num_inference_steps, num_generations, seed, max_batch)

        def segment(image: Any) -> Prediction | Exception:
            try:
                return self.predict(
                    image,
                    num_inference_steps=num_inference_steps,
                    num_generations=num_generations,
                    seed=seed,
                    max_batch=max_batch,
                    timeout_s=timeout_s,
                    progress=progress if callable(progress) else False,
                )
            except PredictionCancelledError:
                raise
            except Exception as error:
                _let_go(error)
                return error

        bar = tqdm(images, desc="segmenting", unit="image", disable=progress is not True)
        return ((image, segment(image)) for image in bar)

    def separate_instances(self, prediction: Prediction) -> np.ndarray:
        """Tell the objects of a prediction apart, as the bundle does.

        Args:
            prediction: of this bundle.

        Returns:
            int32 ``[*spatial]``: 0 for background, 1..N for the objects.

        Raises:
            BundleError: the bundle does not say how.
        """
        if self.bundle.make_instances is None:
            raise BundleError(f"Bundle {self.bundle.name} does not separate objects: it has no entry make_instances.")
        found = self.bundle.make_instances({"pred": torch.from_numpy(prediction.probability.copy())})["pred"]
        return found[0].numpy()

    def _load(
        self, image: Any, load: Sequence[Callable[[Any], Any]], series_uid: str | None
    ) -> tuple[dict[str, Any], DicomSeries | None]:
        """Return the image as the bundle's transforms expect it."""
        network, series = self.bundle.network, None
        if isinstance(image, (str, os.PathLike)):
            path = _path(image)
            if not os.path.isdir(path):
                data = _apply([*load, EnsureChannelFirstd(keys="image")], {"image": path})
                check_image(data["image"], network.spatial_dims, network.image_channels)
                data["image"].meta["original_channel_dim"] = 0  # the bundle may say so once more
                return data, None
            if network.spatial_dims != 3:
                raise ImageError(f"{image}: is a folder; expected a picture.")
            from .io.dicom_series import read_dicom_series  # its packages are an extra

            series = read_dicom_series(path, modality=self.bundle.modality, series_uid=series_uid)
            image = series.image
        return {"image": as_meta_tensor(image, network.spatial_dims, network.image_channels)}, series

    def _provenance(self, inferer: GenerationInferer) -> Provenance:
        return Provenance(
            bundle=self.bundle.name,
            bundle_version=self.bundle.version,
            weights_sha256=self.bundle.weights_sha256,
            config_sha256=self.bundle.config_sha256,
            package_version=version("monai_segdiff"),
            torch_version=torch.__version__,
            device=str(next(self.bundle.network.parameters()).device),
            settings={
                "num_inference_steps": inferer.num_calls,
                "num_generations": inferer.num_generations,
                "max_batch": inferer.max_batch,
            },
            seed=inferer.seed,
        )


def _apply(transforms: Sequence[Callable[[Any], Any]], data: dict[str, Any]) -> dict[str, Any]:
    """Apply one after another. MONAI's ``Compose`` would hide the types of their errors."""
    for transform in transforms:
        data = transform(data)
    return data


def _array(tensor: torch.Tensor, dtype: type, turned: bool) -> np.ndarray:
    array = tensor.numpy()
    return np.ascontiguousarray(array.swapaxes(-1, -2) if turned else array, dtype=dtype)


def _name(image: Any) -> str:
    return _path(image) if isinstance(image, (str, os.PathLike)) else "The image"


def _path(image: str | os.PathLike[str]) -> str:
    path = os.fspath(image)
    if not path:
        raise ImageError("The image: is an empty path; expected a file or a folder.")
    return os.path.expanduser(path)


def _check_globals() -> None:
    if not get_track_meta():
        raise ValueError("monai.data.set_track_meta(False) is in force; expected MONAI's default, True.")
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(f"PyTorch's default dtype is {torch.get_default_dtype()}; expected torch.float32.")


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of an error hold: an image and all that was made of it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
