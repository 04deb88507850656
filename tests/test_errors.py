"""What a wrong request says, and what every wrong value of a number gives: a RequestError, nothing else."""

from __future__ import annotations

import copy
import math
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.errors import RequestError, closest_name, require_choice, require_range

HUGE = 10**5000  # Python refuses to write it
PARTS = {
    "key": "model.width",
    "found": -1,
    "allowed": "an integer from 1",
    "closest": "64",
    "command": "stabletrain model.width=64",
}


def test_an_error_says_all_five_parts_in_order():
    assert str(RequestError("The width is wrong.", **PARTS)).splitlines() == [
        "The width is wrong.",
        "  key      model.width",
        "  found    -1",
        "  allowed  an integer from 1",
        "  closest  64",
        "  fix      stabletrain model.width=64",
    ]


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (0, "  found    0"),
        (False, "  found    False"),
        ("", "  found    ''"),
        (math.nan, "  found    nan"),
        ([], "  found    []"),
        pytest.param(HUGE, "  found    a number of 16610 bits", id="huge"),
    ],
)
def test_what_was_found_is_shown_even_if_it_counts_as_nothing(found, line):
    assert str(RequestError("No.", found=found)).splitlines() == ["No.", line]


def test_parts_that_are_not_there_leave_no_line():
    assert str(RequestError("No.")) == "No."
    assert str(RequestError("No.", key="a", command="b")).splitlines() == ["No.", "  key      a", "  fix      b"]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_survives_the_way_between_processes(again):
    error = again(RequestError("The width is wrong.", **PARTS))
    assert isinstance(error, ValueError)
    assert (error.problem, {name: getattr(error, name) for name in PARTS}) == ("The width is wrong.", PARTS)
    assert str(error) == str(RequestError("The width is wrong.", **PARTS))


@pytest.mark.parametrize(
    "value",
    ["a", "", "3", b"3", True, False, None, [], [1], {}, 1j, object(), int, Decimal(1), np.array([1.0]), np.bool_(1)],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(RequestError, match="depth is not a number") as caught:
        require_range("depth", value, 0, 10)
    assert caught.value.key == "depth"
    assert caught.value.found is ("null" if value is None else value)
    assert "depth" in str(caught.value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 10**400, -(10**400), pytest.param(HUGE, id="huge"), np.float32("nan")]
)
@pytest.mark.parametrize("ends", [(), (0,), (None, 0), (0.5, 1e308)])
def test_what_no_float_holds_is_out_of_range(value, ends):
    with pytest.raises(RequestError, match="x is out of range"):
        require_range("x", value, *ends)


@pytest.mark.parametrize(
    "value", [1, 5, 10, 2.5, 10.0, np.int64(3), np.float32(2.5), np.float64(2.5), np.uint8(10), Fraction(7, 2)]
)
def test_a_number_in_the_range_comes_back_as_it_is(value):
    assert require_range("x", value, 1, 10) is value


@pytest.mark.parametrize(
    ("value", "options", "is_allowed"),
    [
        (0, {}, True),
        (-1e-300, {}, False),
        (1, {}, True),
        (1 + 1e-15, {}, False),
        (0, {"open_minimum": True}, False),
        (5e-324, {"open_minimum": True}, True),
        (1, {"open_maximum": True}, False),
        (1 - 1e-16, {"open_maximum": True}, True),
    ],
)
def test_the_ends_of_a_range(value, options, is_allowed):
    if is_allowed:
        assert require_range("x", value, 0, 1, **options) == value
    else:
        with pytest.raises(RequestError):
            require_range("x", value, 0, 1, **options)


@given(
    st.floats() | st.integers(),
    st.none() | st.integers(-5, 5),
    st.none() | st.integers(-5, 5),
    st.booleans(),
    st.booleans(),
)
def test_a_range_is_what_its_ends_say(value, minimum, maximum, open_minimum, open_maximum):
    low = -math.inf if minimum is None else minimum
    high = math.inf if maximum is None else maximum
    inside = abs(value) <= 1.7976931348623157e308
    inside = inside and (low < value if open_minimum else low <= value)
    inside = inside and (value < high if open_maximum else value <= high)
    try:
        found = require_range("x", value, minimum, maximum, open_minimum=open_minimum, open_maximum=open_maximum)
    except RequestError:
        assert not inside
    else:
        assert inside
        assert found is value


@pytest.mark.parametrize(
    ("value", "minimum", "maximum", "options", "allowed"),
    [
        (-1, 1, None, {}, "an integer from 1"),
        (-1.5, 1, None, {}, "a number from 1"),
        (-1, 0.0, None, {"open_minimum": True}, "a number above 0.0"),
        (9, 1, 5, {}, "an integer from 1 up to 5"),
        (9, None, 5, {"open_maximum": True}, "an integer below 5"),
        (math.nan, None, None, {}, "a finite number"),
        ("a", 0.0, 1.0, {"open_maximum": True}, "a number from 0.0 below 1.0"),
    ],
)
def test_the_allowed_range_in_words(value, minimum, maximum, options, allowed):
    with pytest.raises(RequestError) as caught:
        require_range("x", value, minimum, maximum, **options)
    assert caught.value.allowed == allowed


def test_a_choice_comes_back_or_names_the_closest():
    assert require_choice("norm", "layer", ("none", "layer")) == "layer"
    with pytest.raises(RequestError) as caught:
        require_choice("norm", "layr", (name for name in ("none", "layer")))
    error = caught.value
    assert (error.key, error.found, error.allowed, error.closest) == ("norm", "layr", "none, layer", "layer")


@pytest.mark.parametrize("value", [None, 3, True, [], {}, ""])
def test_a_choice_of_the_wrong_type_is_refused(value):
    with pytest.raises(RequestError) as caught:
        require_choice("norm", value, ("none", "layer"))
    assert caught.value.closest is None or isinstance(value, type(None))
    assert "norm" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "names", "closest"),
    [("widht", ["width", "depth"], "width"), ("zzz", ["width"], None), ("a", [], None), ("1", [1, 2], "1")],
)
def test_the_closest_name(name, names, closest):
    assert closest_name(name, names) == closest
