"""What mistakes are answered with: one line that names the argument, its value and the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavize.errors import InputError, number, one_line, shown, whole


def test_an_exception_on_one_line() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError("two\n  lines"), kind=True) == "ValueError: two lines"
    assert one_line(AssertionError()) == one_line(AssertionError(), kind=True) == "AssertionError"


def test_only_what_others_say_is_cut() -> None:
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert len(one_line(InputError("x" * 1000))) == 1000


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, "2", None])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(
        InputError, match=f"rounds={value!r}: give a whole number of at least 1".replace(".", "[.]")
    ):
        whole("rounds", value, 1)


def test_a_long_value_is_cut() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert (len(shown("x" * 500)), "\n" in shown(np.ones((9, 9)))) == (100, False)
    with pytest.raises(InputError, match=r"^n=\[0, 1, .*…: give a whole number of at least 1$"):
        whole("n", list(range(999)), 1)


def test_whole_numbers() -> None:
    assert (whole("n", 3, 1), whole("n", np.int64(3), 1), whole("n", 8, 0, 8)) == (3, 3, 8)
    with pytest.raises(InputError, match="n=9: give a whole number from 0 to 8"):
        whole("n", 9, 0, 8)


def test_numbers() -> None:
    assert (number("a", 1, 0, 1), number("a", np.float32(0.5), 0, 1)) == (1.0, 0.5)
    for value in (-0.1, 1.1, True, "0.5", float("nan"), None):
        with pytest.raises(InputError, match=r"alpha=.*: give a number from 0 to 1, the share"):
            number("alpha", value, 0, 1, meaning="the share")
    for value in (0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"t=.*: give a number above 0$"):
            number("t", value, 0, above=True)
