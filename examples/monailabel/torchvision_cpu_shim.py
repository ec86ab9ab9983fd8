# SPDX-License-Identifier: Apache-2.0
"""Lets a torchvision wheel that is linked against CUDA be imported beside a CPU build of torch.

The compiled operators of such a wheel cannot be loaded then, and torchvision asks for two of them by name while it is
imported. This module declares the two. MONAI Label runs none of them for this package's bundles.
"""

import sys


class _DeclareOperators:
    """Import hook that acts once, when torchvision is imported."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torch._torchvision_cpu_shim = library  # the declarations live as long as this object


sys.meta_path.insert(0, _DeclareOperators())
