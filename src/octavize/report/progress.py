"""How far a long function is, and what it has to say. The library prints nothing: it tells whoever listens.

    for image in steps(images, "reading images"):
        ...

The command listens and draws bars. Where nobody does, a line goes to octavize's log now and then, as all that
the library says does: `logging.basicConfig(level=logging.INFO)` shows it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from operator import length_hint
from typing import Protocol, TypeVar

from octavize.report.numbers import seconds

T = TypeVar("T")
LINES = 30.0
"""Seconds between two lines of the log."""
Advance = Callable[[], object]
"""Called after every step."""
Show = Callable[[str], object]
"""Called with a text that replaces the one before."""
logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Shows progress."""

    def bar(self, what: str, total: int | None) -> AbstractContextManager[Advance]:
        """`total` steps of something; None if nobody knows how many."""
        ...

    def status(self) -> AbstractContextManager[Show]:
        """A text of one or more lines that changes."""
        ...


class Log:
    """Tells the log, where nobody listens."""

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Advance]:
        """A line every `LINES` seconds, with the time left."""
        begun, done = time.monotonic(), 0
        told = begun

        def advance() -> None:
            nonlocal done, told
            done, now = done + 1, time.monotonic()
            if now - told > LINES:
                told = now
                left = 0 if total is None else (now - begun) / done * (total - done)
                of = "" if total is None else f"/{total:,}"
                rest = f", {seconds(left)} left" if left > 0 else ""
                logger.info("%s: %s%s%s", what, f"{done:,}", of, rest)

        yield advance

    @contextmanager
    def status(self) -> Iterator[Show]:
        """The first line of the text every `LINES` seconds."""
        told = time.monotonic() - 2 * LINES

        def show(text: str) -> None:
            nonlocal told
            if time.monotonic() - told > LINES:
                told = time.monotonic()
                logger.info("%s", text.partition("\n")[0])

        yield show


_listener: Listener = Log()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """In here it is told of all progress."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextmanager
def logged(handler: logging.Handler, level: int = logging.INFO) -> Iterator[None]:
    """In here what octavize says goes to this handler alone."""
    own = logging.getLogger("octavize")
    before = own.handlers, own.level, own.propagate
    own.handlers = [handler]
    own.setLevel(level)
    own.propagate = False
    try:
        yield
    finally:
        own.handlers, own.propagate = before[0], before[2]
        own.setLevel(before[1])


def bar(what: str, total: int | None) -> AbstractContextManager[Advance]:
    """Count `total` steps of something: `with bar("timing", 20) as advance: …; advance()`."""
    return _listener.bar(what, total)


def status() -> AbstractContextManager[Show]:
    """Show a text that changes: `with status() as show: …; show("half way")`."""
    return _listener.status()


def steps(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items; each counts as done when the next is asked for.

    Args:
        total: how many there are, where they do not know themselves.
    """
    with bar(what, total or length_hint(items) or None) as advance:
        for item in items:
            yield item
            advance()
