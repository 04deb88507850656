"""Options against signatures: what is unknown, and what the message says."""

import functools

import pytest

from stabletrain.errors import RequestError
from stabletrain.signatures import find_unknown, require_options


def scale(width, factor=1.0, bias=0.0):
    return width * factor + bias


@pytest.mark.parametrize(
    ("target", "options", "exclude", "expected"),
    [
        (scale, ["factor"], (), ([], ["width", "factor", "bias"])),
        (scale, ["typo", "factor", "other"], (), (["typo", "other"], ["width", "factor", "bias"])),
        (scale, ["width"], ("width",), (["width"], ["factor", "bias"])),
        (functools.partial(scale, 2), ["width"], (), (["width"], ["factor", "bias"])),
        (lambda **options: options, ["anything"], (), ([], ["options"])),
        (None, ["factor"], (), (["factor"], [])),
    ],
)
def test_what_is_unknown(target, options, exclude, expected):
    assert find_unknown(target, options, exclude) == expected


def test_the_message_names_the_first_unknown_option_and_the_closest():
    with pytest.raises(RequestError) as caught:
        require_options(scale, {"bias": 0, "factr": 2, "typo": 3}, "scaling 'plain'", exclude=("width",))
    error = caught.value
    assert error.problem == "scaling 'plain' has no option 'factr'."
    assert (error.key, error.found, error.allowed, error.closest) == ("factr", 2, "factor, bias", "factor")
    assert require_options(scale, {"bias": 0}, "scaling 'plain'") is None
