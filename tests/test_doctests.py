"""The examples in the docstrings run and print what they show."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import stabletrain

OPTIONAL = {  # modules that need a package that may be missing
    "stabletrain.signal.kernels.triton_kernel": "triton",
    "stabletrain.integrations.huggingface": "transformers",
    "stabletrain.integrations.ray": "ray",
}
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(stabletrain.__path__, "stabletrain.")
    if "__main__" not in m.name and (m.name not in OPTIONAL or importlib.util.find_spec(OPTIONAL[m.name]))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert {"stabletrain.signal.watch.Watch", "stabletrain.integrations.plain_loop.doctor.Doctor"} <= {
        t.name for t in found
    }
