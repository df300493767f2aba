"""What the tests of `octavize.paddle` need: Paddle, a fixed seed, nothing announced yet, narrow layers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

if find_spec("paddle") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import paddle

    from octavize.paddle import dispatch, enable
    from octavize.plans import planning

    enable()  # before tests name functions as their parameters

    @pytest.fixture(autouse=True)
    def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
        """No dense fallback has been announced, and random numbers do not depend on the tests before."""
        monkeypatch.setattr(dispatch, "_announced", set())
        paddle.seed(0)

    @pytest.fixture(scope="session", autouse=True)
    def _narrow_layers_become_octave() -> Iterator[None]:
        """The networks of the tests have few channels, for speed, and would stay vanilla."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "DEFAULT_MIN_LOW", 0)
            yield
