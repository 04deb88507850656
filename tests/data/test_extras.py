"""Optional packages: imported if installed, else named together with the command that installs them."""

import json
import sys

import pytest

from stabletrain.data.extras import require_package
from stabletrain.errors import RequestError


def test_returns_the_module():
    assert require_package("json", "data") is json
    assert require_package("os.path", "data") is sys.modules["os.path"]


@pytest.mark.parametrize("module", ["no_such_package_here", "no_such_package_here.inner"])
def test_says_which_extra_brings_a_missing_package(module):
    with pytest.raises(RequestError) as caught:
        require_package(module, "pictures")
    error = caught.value
    assert (error.key, error.found) == ("data", "no no_such_package_here")
    assert error.command == "python -m pip install 'stabletrain[pictures]'"
    assert isinstance(error.__cause__, ImportError)


def test_a_package_that_is_there_but_broken_says_why(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import its_missing_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequestError, match="its_missing_part"):
        require_package("half_installed", "data")


def test_a_mistake_inside_a_package_is_no_missing_package(tmp_path, monkeypatch):
    (tmp_path / "faulty_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require_package("faulty_module", "data")
