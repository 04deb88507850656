"""What can be tested without Ray; tests/cluster/ray.sh trains on a real cluster."""

from __future__ import annotations

import importlib
import sys

import pytest


def test_without_ray_it_says_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "stabletrain.integrations.ray", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'stabletrain\[ray\]'"):
        importlib.import_module("stabletrain.integrations.ray")


def test_without_the_module_ray_stays_out():
    import stabletrain  # noqa: F401

    assert "ray" not in sys.modules
