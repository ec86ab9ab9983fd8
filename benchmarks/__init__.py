# SPDX-License-Identifier: Apache-2.0
"""Measurements of the bundles: what inference costs, what it gains, and how both change with the settings."""

from __future__ import annotations
