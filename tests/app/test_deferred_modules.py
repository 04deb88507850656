"""Modules whose code runs later: when, how often, and that the result is the real module."""

from __future__ import annotations

import importlib
import re
import sys
import types

import pytest

from stabletrain.app.lean_start.deferred_modules import Deferral, DeferringFinder, is_deferred, load

PACKAGE = "deferred_toy"
FILES = {
    "__init__": "import toy_log\ntoy_log.ran.append('package')\n"
    "from deferred_toy.part import Part\nfrom deferred_toy.inner import VALUE\nconstant = 7\n",
    "part": "import toy_log\ntoy_log.ran.append('part')\nclass Part: pass\n",
    "other": "import toy_log\ntoy_log.ran.append('other')\nfrom deferred_toy import constant\n",
    "inner/__init__": "import toy_log\ntoy_log.ran.append('inner')\nVALUE = 3\n",
    "inner/leaf": "import toy_log\ntoy_log.ran.append('leaf')\n",
}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """What has run so far of a package on disk, in order."""
    for name, code in FILES.items():
        path = tmp_path / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    log = types.ModuleType("toy_log")
    log.ran = []
    monkeypatch.setitem(sys.modules, "toy_log", log)
    monkeypatch.syspath_prepend(tmp_path)
    yield log.ran
    for name in [m for m in sys.modules if m.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def defer(monkeypatch):
    """Defer the package; the argument says whether its versions are known."""

    def install(may_defer: bool = True) -> list[str]:
        after: list[str] = []
        stand_ins = {PACKAGE: {"Part": "stand-in"}.get, f"{PACKAGE}.inner": lambda name: None}
        early = re.compile(rf"{PACKAGE}\.(part|inner\.leaf)")
        deferral = Deferral(PACKAGE, stand_ins, early, after=lambda: after.append("after"))
        finder = DeferringFinder([deferral], lambda: may_defer)
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        return after

    return install


def test_a_stand_in_is_had_without_running_the_module(ran, defer):
    after = defer()
    package = importlib.import_module(PACKAGE)
    assert package.Part == "stand-in"
    assert importlib.import_module(f"{PACKAGE}.part").Part.__name__ == "Part"
    assert importlib.import_module(f"{PACKAGE}.inner.leaf").__name__ == f"{PACKAGE}.inner.leaf"
    assert (ran, after) == (["part", "leaf"], [])
    assert is_deferred(PACKAGE)
    assert is_deferred(f"{PACKAGE}.inner")


@pytest.mark.parametrize(
    "ask",
    [
        lambda package: package.constant,
        lambda package: importlib.import_module(f"{PACKAGE}.other"),
        lambda package: dir(package),
        lambda package: setattr(package, "mine", 1),
        lambda package: importlib.import_module(f"{PACKAGE}.inner").VALUE,
        lambda package: load(PACKAGE),
    ],
    ids=["name", "submodule", "dir", "assignment", "inside", "load"],
)
def test_anything_else_runs_all_of_it_once_in_the_same_object(ran, defer, ask):
    after = defer()
    package, part = importlib.import_module(PACKAGE), importlib.import_module(f"{PACKAGE}.part")
    importlib.import_module(f"{PACKAGE}.inner")
    ask(package)
    other = importlib.import_module(f"{PACKAGE}.other")
    assert sorted(ran) == ["inner", "other", "package", "part"]
    assert after == ["after"]
    assert type(package) is types.ModuleType
    assert sys.modules[PACKAGE] is package
    assert package.Part is part.Part
    assert (package.constant, package.VALUE, other.constant) == (7, 3, 7)
    assert package.other is other is sys.modules[f"{PACKAGE}.other"]
    for module in (package, part, other, package.inner):
        assert module.__spec__.name == module.__name__
        assert module.__spec__.loader is module.__loader__
        assert importlib.util.find_spec(module.__name__).origin == module.__file__


def test_a_submodule_that_the_package_imports_is_not_imported_twice(ran, defer, tmp_path):
    defer()
    (tmp_path / PACKAGE / "__init__.py").write_text(FILES["__init__"] + "import deferred_toy.other\n")
    package = importlib.import_module(PACKAGE)
    other = importlib.import_module(f"{PACKAGE}.other")
    assert ran.count("other") == 1
    assert package.other is other


def test_what_inspect_asks_of_every_module_runs_nothing(ran, defer):
    defer()
    package = importlib.import_module(PACKAGE)
    assert not hasattr(package, "__wrapped__")
    assert package.__file__.endswith("__init__.py")
    assert ran == []


def test_other_versions_are_imported_as_usual(ran, defer):
    defer(may_defer=False)
    package = importlib.import_module(PACKAGE)
    assert type(package) is types.ModuleType
    assert ran == ["package", "part", "inner"]


def test_what_is_imported_already_stays(ran, defer):
    package = importlib.import_module(PACKAGE)
    defer()
    assert importlib.import_module(PACKAGE) is package
    assert importlib.import_module(f"{PACKAGE}.other").constant == 7
    assert ran == ["package", "part", "inner", "other"]


def test_an_error_in_the_code_is_raised_where_it_is_needed(ran, defer, tmp_path):
    defer()
    (tmp_path / PACKAGE / "__init__.py").write_text("raise OSError('broken')")
    package = importlib.import_module(PACKAGE)
    with pytest.raises(OSError, match="broken"):
        _ = package.constant
    assert PACKAGE not in sys.modules
