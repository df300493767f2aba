"""What mistakes are answered with: one line that names the argument, its value and the remedy."""

from __future__ import annotations

from octavize.errors import InputError, one_line


def test_an_exception_on_one_line() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError("two\n  lines"), kind=True) == "ValueError: two lines"
    assert one_line(AssertionError()) == one_line(AssertionError(), kind=True) == "AssertionError"


def test_only_what_others_say_is_cut() -> None:
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert len(one_line(InputError("x" * 1000))) == 1000
