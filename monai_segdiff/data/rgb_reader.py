# SPDX-License-Identifier: Apache-2.0
"""RGB pictures from files, with everything else refused by name."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import PILReader
from monai.utils import ensure_tuple
from PIL import ExifTags, Image

from ..exceptions import ImageError

__all__ = ["RGBReader"]


class PictureReader(PILReader):
    """Base of the picture readers: decodes the whole file, closes it, and raises ``ImageError`` for what it cannot use.

    ``read`` only looks at the suffix and ``get_data`` does the work. ``LoadImage`` swallows what ``read`` raises and
    tries MONAI's own readers next, which would load a refused picture after all; what ``get_data`` raises arrives.

    Args:
        reverse_indexing: True gives (W, H) arrays, x first; False gives (H, W).
    """

    suffixes: tuple[str, ...] = ()
    expected: str = "a picture"

    def __init__(self, reverse_indexing: bool = True) -> None:
        super().__init__(reverse_indexing=reverse_indexing)

    @abstractmethod
    def convert(self, image: Image.Image, path: Path) -> Image.Image:
        """Turn an opened picture into what this reader delivers, or raise ``ImageError``."""

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether all the file names end in one of the suffixes of this reader (in any case)."""
        return all(Path(name).suffix.lower() in self.suffixes for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike | np.ndarray, **kwargs: Any) -> list[Path]:
        """Accept files by their names; they are opened by :meth:`get_data`.

        Args:
            data: one path or several; several are stacked as channels.
            kwargs: ignored.

        Raises:
            ImageError: for a suffix that this reader does not take.
        """
        for name in ensure_tuple(data):
            if not self.verify_suffix(name):
                raise ImageError(
                    f"{name}: not {self.expected} by its name; expected a file with {', '.join(self.suffixes)}."
                )
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[np.ndarray, dict]:
        """Decode what :meth:`read` accepted.

        Args:
            img: what :meth:`read` gave.

        Returns:
            The array and its metadata, as ``PILReader`` gives them.

        Raises:
            ImageError: when a file is missing, empty, truncated, no picture, or of an unsuitable kind.
        """
        return super().get_data([self.decode(path, path) for path in img])

    def decode(self, source: Path | Image.Image, name: Path) -> Image.Image:
        """Check and decode one picture.

        Args:
            source: its file, or a picture that PIL has opened.
            name: what the picture is called in messages.

        Returns:
            What :meth:`convert` makes of it.

        Raises:
            ImageError: when it is missing, empty, truncated, no picture, or of an unsuitable kind.
        """
        if isinstance(source, Path) and not source.is_file():
            raise ImageError(f"{name}: this file does not exist; expected {self.expected}.")
        try:
            with Image.open(source) if isinstance(source, Path) else nullcontext(source) as image:
                if isinstance(source, Path):  # of an opened one its user has chosen the page
                    refuse_stack(image, name, self.expected)
                # before decoding: 16 bits of colour would silently be cut to the upper 8
                refuse_deep_colour(image, name, self.expected)
                refuse_rotation(image, name)
                image.load()
                result = self.convert(image, name)
                result.format = image.format
                return result
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{name}: refused by PIL (DecompressionBombError: {error}); expected fewer pixels, or a higher "
                "PIL.Image.MAX_IMAGE_PIXELS from who trusts the file."
            ) from error
        except Exception as error:  # PIL's plugins raise many types on damaged files, SyntaxError among them
            raise ImageError(
                f"{name}: cannot be decoded ({type(error).__name__}: {error}); expected {self.expected} "
                "(is the file truncated?)."
            ) from error


def refuse_stack(image: Image.Image, path: Path, expected: str) -> None:
    """Refuse several pages of equal size, of which only the first would be seen; a pyramid or thumbnail is fine.

    Raises:
        ImageError: for such a stack.
    """
    size, pages = image.size, getattr(image, "n_frames", 1)
    for page in range(1, pages):
        image.seek(page)
        if image.size == size:
            raise ImageError(f"{path}: holds a stack of {pages} pages; expected {expected} of one page.")
    if pages > 1:
        image.seek(0)


def refuse_deep_colour(image: Image.Image, path: Path, expected: str) -> None:
    """Refuse 16 bits per channel in pictures of several channels.

    Raises:
        ImageError: for such a picture.
    """
    for tile in getattr(image, "tile", []):
        args = tile[3]
        layout = args if isinstance(args, str) else str(args[0]) if args else ""
        if ";16" in layout and not layout.startswith("I"):
            raise ImageError(f"{path}: holds {image.mode} colours of 16 bits; expected {expected} of 8 bits.")


def refuse_rotation(image: Image.Image, path: Path) -> None:
    """Refuse pictures that viewers turn by their EXIF data: a mask of the pixels as stored would not lie on them.

    The orientation of a TIFF is none of them: PIL turns the pixels themselves.

    Raises:
        ImageError: for such a picture.
    """
    orientation = 1 if image.format == "TIFF" else image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation not in (0, 1):
        raise ImageError(
            f"{path}: is turned by its EXIF orientation ({orientation}); expected upright pixels: save it turned, for "
            "instance with PIL's ImageOps.exif_transpose."
        )


class RGBReader(PictureReader):
    """Read tif, png and jpg files as 8-bit RGB.

    RGB is taken as it is; the alpha channel of RGBA is dropped (pathology exports carry an opaque one); grey, black and
    white, and palette pictures become RGB. 16-bit, float, CMYK and other pictures are refused, since the stains would
    be read wrongly, and so are pictures that their EXIF data turns.

    Args:
        reverse_indexing: True gives (W, H, 3) arrays, x first, as MONAI's ``PILReader``; False gives (H, W, 3).

    Example:
        >>> load = LoadImaged(keys="image", reader=RGBReader())  # doctest: +SKIP
        >>> load({"image": "images/a.tif"})["image"].shape  # doctest: +SKIP
        torch.Size([1000, 1000, 3])
    """

    suffixes = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
    expected = "an 8-bit RGB, RGBA, grey or palette picture"

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike | np.ndarray, **kwargs: Any) -> list[Path]:
        """Accept any name; :meth:`get_data` refuses other suffixes, so that no other reader takes those files."""
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[np.ndarray, dict]:
        """Decode the files; see the base class."""
        super().read(img)
        return super().get_data(img)

    def convert(self, image: Image.Image, path: Path) -> Image.Image:
        """Give the picture in mode RGB.

        Raises:
            ImageError: for a mode that has no exact RGB form.
        """
        if image.mode in ("LA", "P", "PA"):
            # by way of RGBA: PIL warns when a palette with transparency goes to RGB directly
            image = image.convert("RGBA")
        if image.mode not in ("1", "L", "RGB", "RGBA"):
            raise ImageError(f"{path}: has the mode {image.mode}; expected {self.expected}.")
        return image.convert("RGB")
