# SPDX-License-Identifier: Apache-2.0
"""Segmentation as one object: load a bundle once, segment images of many kinds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import EnsureChannelFirstd
from tqdm import tqdm

from .exceptions import BundleError, ImageError, PredictionCancelledError, PredictionTimeoutError
from .inferers.call_progress import Progress
from .inferers.generation_inferer import GenerationInferer
from .io.bundle import OpenedBundle
from .io.image_in_memory import as_meta_tensor, check_image, is_rows_first
from .prediction import Prediction, Provenance

if TYPE_CHECKING:
    from .io.dicom_series import DicomSeries

__all__ = ["SegDiffPredictor"]


class SegDiffPredictor:
    """Segment images with a bundle of this project, in two dimensions or three.

    The bundle is loaded once; :meth:`predict` may then be called from several threads at the same time. It keeps no
    state between calls, reads and changes no global state (random numbers, number of threads, logging), prints nothing,
    and raises typed errors. Same image, settings and seed give the same bits on one device, as
    ``python -m monai.bundle run inference`` does.

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
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(OpenedBundle(path, str(device)))

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
                start and after each. It may raise ``PredictionCancelledError`` (or anything else) to stop.

        Raises:
            ImageError: the image cannot be read or used; the message names the file.
            SeriesError: the folder holds no usable DICOM series.
            PredictionTimeoutError: it took too long.
            ValueError: a setting out of range.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        inferer = self.bundle.inferer(num_inference_steps, num_generations, seed, max_batch)
        steps = self.bundle.transforms()
        data, series = self._load(image, steps.load)
        source: MetaTensor = data["image"]
        data = _apply(steps.prepare, data)
        if 0 in data["image"].shape:
            raise ImageError(
                f"{_name(image)}: is too small for this bundle: its size {list(source.shape[1:])} becomes "
                f"{list(data['image'].shape[1:])}."
            )
        device = next(self.bundle.network.parameters()).device
        with _reporting(_name(image), deadline, timeout_s, progress) as report:
            inputs = data["image"][None].to(device)
            data["pred"] = inferer.with_progress(report)(inputs, self.bundle.network)[0].cpu()
        del inputs
        data = _apply(steps.restore, data)
        probability = torch.as_tensor(data["pred"]).clamp(0, 1)
        mask = torch.as_tensor(_apply(steps.make_mask, data)["pred"])[0]
        uncertainty = inferer.tally.entropy(probability[None])[0].sum(dim=0)
        turned = is_rows_first(image) and source.ndim == 3
        affine = np.asarray(source.affine, dtype=np.float64) if source.ndim == 4 else None
        return Prediction(
            mask=_array(mask, np.uint8, turned),
            probability=_array(probability, np.float32, turned),
            uncertainty=_array(uncertainty, np.float32, turned),
            affine=affine,
            spacing=None if affine is None else tuple(affine_to_spacing(affine).tolist()),
            labels=self.bundle.labels,
            source=os.fspath(image) if isinstance(image, (str, os.PathLike)) else None,
            provenance=self._provenance(inferer),
            meta=dict(source.meta),
            series=series,
        )

    def predict_many(
        self, images: Iterable[Any], *, progress: bool = True, **settings: Any
    ) -> Iterator[tuple[Any, Prediction | Exception]]:
        """Segment images one after another; one that fails does not stop the others.

        Args:
            images: as for :meth:`predict`.
            progress: show a bar over the images.
            settings: as for :meth:`predict`; ``timeout_s`` is for each image.

        Yields:
            Each image as given, with its prediction, or with the error that it raised. ``PredictionCancelledError``
            ends the rest.

        Example:
            >>> for path, result in predictor.predict_many(["a.png", "b.png"]):  # doctest: +SKIP
            ...     print(path, result if isinstance(result, Exception) else result.mask.mean())
        """
        for image in tqdm(images, desc="segmenting", unit="image", disable=not progress):
            try:
                result: Prediction | Exception = self.predict(image, **settings)
            except PredictionCancelledError:
                raise
            except Exception as error:
                result = error
            yield image, result

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

    def _load(self, image: Any, load: Sequence[Callable[[Any], Any]]) -> tuple[dict[str, Any], DicomSeries | None]:
        """Return the image as the bundle's transforms expect it."""
        network, series = self.bundle.network, None
        if isinstance(image, (str, os.PathLike)):
            if not Path(image).is_dir():
                data = _apply([*load, EnsureChannelFirstd(keys="image")], {"image": os.fspath(image)})
                check_image(data["image"], network.spatial_dims, network.image_channels)
                data["image"].meta["original_channel_dim"] = 0  # the bundle may say so once more
                return data, None
            if network.spatial_dims != 3:
                raise ImageError(f"{image}: is a folder; expected a picture.")
            from .io.dicom_series import read_dicom_series  # its packages are an extra

            series = read_dicom_series(image, modality=self.bundle.modality)
            image = series.image
        return {"image": as_meta_tensor(image, network.spatial_dims, network.image_channels)}, series

    def _provenance(self, inferer: GenerationInferer) -> Provenance:
        return Provenance(
            bundle=self.bundle.name,
            bundle_version=self.bundle.version,
            weights_sha256=self.bundle.weights_sha256,
            package_version=version("monai_segdiff"),
            torch_version=torch.__version__,
            device=str(next(self.bundle.network.parameters()).device),
            settings={"num_inference_steps": inferer.num_calls, "num_generations": inferer.num_generations},
            seed=inferer.seed,
        )


def _apply(transforms: Sequence[Callable[[Any], Any]], data: dict[str, Any]) -> dict[str, Any]:
    """Apply one after another. MONAI's ``Compose`` would hide the types of their errors."""
    for transform in transforms:
        data = transform(data)
    return data


@contextmanager
def _reporting(
    name: str, deadline: float | None, timeout_s: float | None, progress: Progress
) -> Iterator[Callable[[int, int], None]]:
    """Give what the inferer calls between the calls of the network."""
    with tqdm(desc="segmenting", unit="call", disable=progress is not True) as bar:

        def report(done: int, total: int) -> None:
            if deadline is not None and time.monotonic() > deadline:
                raise PredictionTimeoutError(
                    f"{name}: not done after {timeout_s} s; {done} of {total} calls of the network were."
                )
            bar.total = total
            bar.update(done - bar.n)
            if callable(progress):
                progress(done, total)

        yield report


def _array(tensor: torch.Tensor, dtype: type, turned: bool) -> np.ndarray:
    array = tensor.numpy()
    return np.ascontiguousarray(array.swapaxes(-1, -2) if turned else array, dtype=dtype)


def _name(image: Any) -> str:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else "The image"
