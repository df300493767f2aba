"""Fixtures of all tests that need torch; `tests/conftest.py` loads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.helpers.training import make_folder

from octavize.nn import dispatch
from octavize.plans import planning
from octavize.plans.deciding import DEFAULT_MIN_LOW


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors: more threads only cost time, and results depend on them."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dense fallback has been announced, and random numbers do not depend on the tests before."""
    monkeypatch.setattr(dispatch, "_announced", set())
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _narrow_layers_become_octave() -> Iterator[None]:
    """The networks of the tests have few channels, for speed, and would stay vanilla."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "DEFAULT_MIN_LOW", 0)
        yield


@pytest.fixture(autouse=True)
def _unless_marked(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("usual_min_low") is not None:
        monkeypatch.setattr(planning, "DEFAULT_MIN_LOW", DEFAULT_MIN_LOW)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny images of two classes; only to be read."""
    return make_folder(tmp_path_factory.mktemp("images"))
