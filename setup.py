# SPDX-License-Identifier: Apache-2.0
"""Packaging of monai_segdiff; versions that were tested together are in constraints.txt."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

DICOM = ["highdicom>=0.27", "itk-core", "itk-io", "pydicom>=3"]
EXPORT = ["onnx", "onnxruntime", "onnxscript"]
TEST = [*DICOM, *EXPORT, "coverage", "jsonschema", "mypy", "pytest", "ruff", "scikit-learn", "tifffile", "types-tqdm"]

setup(
    name="monai_segdiff",
    version="0.1.0",
    description="Diffusion segmentation (SegDiff) for MONAI",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["monai_segdiff", "monai_segdiff.*"]),
    package_data={"monai_segdiff": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "einops",
        "fire",
        "matplotlib>=3.7",
        "monai>=1.6",
        "nibabel",
        "numpy>=1.26,<3",
        "pillow>=10",
        "pytorch-ignite>=0.5",
        "scikit-image>=0.22",
        "scipy>=1.11",
        "tensorboard",
        "torch>=2.8",
        "tqdm",
        "typer",
        "typing_extensions",
    ],
    entry_points={"console_scripts": ["monai-segdiff = monai_segdiff.cli:main"]},
    extras_require={
        "dicom": DICOM,
        "export": EXPORT,
        "test": TEST,
        "dev": [*TEST, "pre-commit"],
        "tracking": ["mlflow"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
)
