"""What a command tells: progress and remarks on standard error, its answer on standard output.

Every command has `--quiet` and `--json`, and ends in one line after Ctrl-C and where a disk is full: `told`
sees to it, the one place of the command that prints.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from octavize.errors import InputError
from octavize.files import is_full
from octavize.report.progress import Advance, Show, listening, logged
from octavize.report.tables import show
from octavize.text import Table

ANEW = "nothing was written; the same command begins anew"
RESUMED = "the same command goes on from the last finished epoch"
"""What is left of a command that was stopped."""
REFRESH = 0.1
"""Seconds between two looks of a bar."""
OUTPUT: dict[str, Any] = {"rich_help_panel": "Output"}
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result, warnings and errors.", **OUTPUT)]
AsJson = Annotated[
    bool, typer.Option("--json", help="The result as JSON, and nothing else on standard output.", **OUTPUT)
]


@dataclass(frozen=True)
class Answer:
    """What a command found: JSON values for programs, texts and tables for people."""

    values: Any
    shown: Sequence[str | Table]


class Bars:
    """Bars on a terminal, drawn only when a step is done: no thread of theirs disturbs what is timed."""

    def __init__(self, console: Console) -> None:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Speed is the mean of all steps: some take minutes.
        every: dict[str, Any] = {"speed_estimate_period": float("inf"), "auto_refresh": False}
        self._console = console
        self._progress = Progress(*columns, console=console, transient=True, **every)
        self._drawn = 0.0

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Advance]:
        """A bar below those that are there."""
        if not self._progress.tasks:
            self._progress.start()
        task = self._progress.add_task(what, total=total)

        def advance() -> None:
            self._progress.advance(task)
            if time.monotonic() - self._drawn > REFRESH:
                self._drawn = time.monotonic()
                self._progress.refresh()

        try:
            yield advance
        finally:
            self._progress.remove_task(task)
            if not self._progress.tasks:
                self._progress.stop()

    @contextmanager
    def status(self) -> Iterator[Show]:
        """Some lines."""
        with self._console.status("") as status:
            yield lambda text: status.update(Text(text))


class Lines(logging.Handler):
    """Prints octavize's log, a record a line."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            warn(record.getMessage())
        else:
            remark(record.getMessage())


_errors: Console | None = None


def errors() -> Console:
    """Standard error; all that is printed there goes through it, so that bars stay whole."""
    return _errors or Console(stderr=True, highlight=False)


def remark(text: str) -> None:
    """Lines on standard error, as they are."""
    errors().print(Text(text), soft_wrap=True)


def warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning in one line; where in the code it was raised helps nobody who typed a command."""
    say("Warning: ", "bold yellow", str(message))


def say(label: str, style: str, message: str) -> None:
    """A line on standard error."""
    errors().print(Text.assemble((label, style), " ".join(message.split())), soft_wrap=True)


def told(command: Callable[..., Answer], kept: str) -> Callable[..., None]:
    """The command with `--quiet` and `--json`, which tells its answer and how far it is.

    Args:
        kept: what is left of it when it is stopped, and how to go on.
    """
    asked = inspect.signature(command).parameters
    own = inspect.Parameter.KEYWORD_ONLY
    options = [
        *asked.values(),
        inspect.Parameter("quiet", own, default=False, annotation=Quiet),
        *(
            []
            if "as_json" in asked
            else [inspect.Parameter("as_json", own, default=False, annotation=AsJson)]
        ),
    ]

    @wraps(command)
    def run(*, quiet: bool, as_json: bool, **given: Any) -> None:
        given |= {"as_json": as_json} if "as_json" in asked else {}
        try:
            with _listened(quiet), redirect_stdout(sys.stderr) if as_json else nullcontext():
                answer = command(**given)
            tell(answer, as_json)
        except KeyboardInterrupt:
            say("Interrupted: ", "bold", kept)
            raise typer.Exit(130) from None
        except Exception as error:
            if isinstance(error, InputError) or not is_full(error):
                raise
            raise InputError(f"the disk is full: make room; {kept}") from error

    run.__signature__ = inspect.Signature(options)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def tell(answer: Answer, as_json: bool) -> None:
    """Print what a command found; of several processes that share a training, all but one found nothing."""
    if not answer.values and not answer.shown:
        return
    if as_json:
        typer.echo(json.dumps(answer.values, ensure_ascii=False, indent=2, allow_nan=False))
        return
    console = Console(highlight=False)
    for part in answer.shown:
        if isinstance(part, Table):
            show(part, console)
        else:
            typer.echo(part)


@contextmanager
def _listened(quiet: bool) -> Iterator[None]:
    """Show progress and the log."""
    global _errors
    _errors = console = Console(file=sys.stderr, highlight=False)
    bars: AbstractContextManager[None] = nullcontext()
    if console.is_terminal and not quiet:
        bars = listening(Bars(console))
    try:
        with bars, logged(Lines(), logging.WARNING if quiet else logging.INFO):
            yield
    finally:
        _errors = None
