"""How far long functions are, told to the log or to who listens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from octavize.report import progress
from octavize.report.progress import Advance, Show, bar, listening, logged, status, steps


class Notes:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Advance]:
        self.told.append(f"{what} of {total}")
        yield lambda: self.told.append(what)
        self.told.append(f"{what} ends")

    @contextmanager
    def status(self) -> Iterator[Show]:
        yield self.told.append


def test_steps_are_told_one_by_one() -> None:
    notes = Notes()
    with listening(notes):
        assert list(steps("ab", "letters")) == ["a", "b"]
        with status() as show:
            show("half way")
    assert notes.told == ["letters of 2", "letters", "letters", "letters ends", "half way"]
    list(steps("ab", "letters"))
    assert notes.told[-1] == "half way", "it listens no longer"


def test_a_loop_that_ends_early_ends_its_bar() -> None:
    notes = Notes()
    with listening(notes):
        for _ in steps(iter("abc"), "letters", 3):
            break
    assert notes.told[0] == "letters of 3"
    assert len(notes.told) == 1, "no step was finished"


def test_the_log_has_the_time_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, "octavize"), bar("layers", 3) as advance:
        advance()
        advance()
        advance()
    assert caplog.messages == ["layers: 1/3, 2 min left", "layers: 2/3, 60 s left", "layers: 3/3"]


def test_quick_steps_leave_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "octavize"):
        list(steps(range(1000), "steps"))
    assert caplog.messages == []


def test_the_log_goes_to_one_handler_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    own = logging.getLogger("octavize")
    before = own.handlers[:], own.level, own.propagate
    with logged(logging.StreamHandler()), logged(inner := logging.StreamHandler()):
        assert own.handlers == [inner]
        logging.getLogger("octavize.report").info("once")
    assert capsys.readouterr().err == "once\n"
    assert (own.handlers, own.level, own.propagate) == before
