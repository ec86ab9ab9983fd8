# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect

import pytest

from monai_segdiff import exceptions


@pytest.mark.parametrize("name", exceptions.__all__)
def test_callers_of_plain_python_errors_catch_them_too(name: str) -> None:
    error = getattr(exceptions, name)
    assert issubclass(error, (ValueError, RuntimeError, TimeoutError))
    assert inspect.getdoc(error)
