"""Tests that an older torch, which pyproject.toml allows, cannot pass."""

from __future__ import annotations

import pytest
import torch
from packaging.version import Version


def needs_torch(version: str, why: str) -> pytest.MarkDecorator:
    """Skip a test where torch is older, and say why."""
    old = Version(torch.__version__) < Version(version)
    return pytest.mark.skipif(old, reason=f"torch {torch.__version__}, needs {version}: {why}")
