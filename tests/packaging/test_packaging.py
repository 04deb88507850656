"""The distribution holds exactly this tree, works from any folder, and imports no more than it needs."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import stabletrain as st

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
YAMLS = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("conf/**/*.yaml"))
HEAVY = {"torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "mlflow"}


def run(command: list[str | Path], cwd: Path, **variables: str) -> str:
    """Run a command without this process's paths and return its output; a failure shows what it printed."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTEST_ADDOPTS", "COVERAGE_PROCESS_START")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# --- the distribution holds this tree -----------------------------------------------------------------------------


def test_packages_are_the_folders_that_exist():
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ROOT.glob("stabletrain/**/*.py")}
    assert sorted(PACKAGES) == sorted(folders | {"stabletrain.conf"})
    assert sorted(PACKAGES) == PACKAGES


def test_version_is_one():
    assert PROJECT["project"]["version"] == st.__version__


def imported_modules() -> set[str]:
    """Return the top-level name of everything that the package imports from elsewhere, also inside functions."""
    names = set()
    for path in ROOT.glob("stabletrain/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"stabletrain"}


def requirements(*extras: str) -> dict[str, Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
    return {canonicalize_name(r.name): r for r in map(Requirement, texts) if r.name != project["name"]}


def test_every_import_is_a_declared_dependency():
    homes = packages_distributions()
    declared = set(requirements(*PROJECT["project"]["optional-dependencies"]))
    undeclared = {m for m in imported_modules() if not declared & {canonicalize_name(d) for d in homes.get(m, [m])}}
    assert undeclared <= {"triton"}  # part of torch's CUDA builds, and imported only with them


def test_constraints_pin_every_dependency_within_its_range():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+", line)] == []
    assert lines == sorted(lines)
    pins = dict(line.split("==") for line in lines)
    wrong = {
        name: pins.get(name, "not pinned")
        for name, requirement in requirements("test", "dev", "server", "slurm", "kubernetes").items()
        if name not in pins or pins[name] not in requirement.specifier
    }
    assert wrong == {}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what a build reads, so that nothing is left behind in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("stabletrain", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    """A folder with an sdist and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", out, "."], cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_wheel_holds_the_package_its_configuration_and_its_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if ".dist-info/" not in n)
        info = {n.partition(".dist-info/")[2] for n in archive.namelist() if ".dist-info/" in n}
    modules = [p.relative_to(ROOT).as_posix() for p in ROOT.glob("stabletrain/**/*.py")]
    assets = [p.relative_to(ROOT).as_posix() for p in ROOT.glob("stabletrain/*/assets/*")]
    assert len(assets) > 3
    assert names == sorted([*modules, *assets, "stabletrain/py.typed", *(f"stabletrain/{y}" for y in YAMLS)])
    assert {"licenses/LICENSE", "METADATA", "entry_points.txt"} <= info


def test_sdist_holds_what_a_build_needs_and_no_tests(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert {*YAMLS, "LICENSE", "pyproject.toml", "stabletrain/py.typed"} <= names
    assert [n for n in names if n.startswith(("tests", "benchmarks"))] == []


# --- the same from everywhere --------------------------------------------------------------------------------------


def make_environment(folder: Path) -> Path:
    """Make a virtual environment that can import what this one can, and return its interpreter; downloads nothing."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    paths = json.loads(run([python, "-c", "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))"], folder))
    # A plain path line: what is installed there can be imported, but its own .pth files (an editable stabletrain) are
    # not read, and what is installed here comes first.
    (Path(paths["purelib"]) / "parent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def install(python: Path, *arguments: str | Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    run([*pip, *arguments], cwd=python.parent, PIP_DISABLE_PIP_VERSION_CHECK="1")


@pytest.fixture(scope="module")
def overlay(tmp_path_factory) -> Path:
    """A user's folder of options, with a clip of its own."""
    folder = tmp_path_factory.mktemp("overlay")
    (folder / "clip").mkdir()
    (folder / "clip/mine.yaml").write_text("_target_: stabletrain.gradient.NormClip\nmax_norm: 0.125\n")
    return folder


@pytest.fixture(scope="module")
def composed(overlay) -> tuple[str, str, str]:
    """The output of the checkout, run in the checkout."""
    return ask([sys.executable, "-m", "stabletrain"], ROOT, overlay)


def ask(program: list[str | Path], cwd: Path, overlay: Path, **variables: str) -> tuple[str, str, str]:
    """Return the help, a composition, and a composition with an option of an overlay."""
    return (
        run([*program, "--help"], cwd, **variables),
        run([*program, "--cfg", "job", "model=rnn", "clip=norm"], cwd, **variables),
        run([*program, "--cfg", "job", "model=rnn", "clip=mine", "--config-dir", overlay], cwd, **variables),
    )


def home_of(python: str | Path, cwd: Path, **variables: str) -> Path:
    code = "from stabletrain.app.composition.paths import PACKAGE, find_config_dir as f; print(PACKAGE, f(), sep='\\n')"
    package, conf = run([python, "-c", code], cwd, **variables).splitlines()
    assert (Path(conf) / "config.yaml").is_file()
    return Path(package)


def test_checkout_composes(composed):
    usage, plain, mine = composed
    assert "python -m stabletrain [COMMAND]" in usage
    assert "_target_: stabletrain.network.RNN" in plain
    assert "max_norm: 1.0" in plain
    assert "max_norm: 0.125" in mine


def test_another_folder_composes_the_same(composed, overlay, tmp_path):
    assert home_of(sys.executable, tmp_path, PYTHONPATH=str(ROOT)) == ROOT / "stabletrain"
    assert ask([sys.executable, "-m", "stabletrain"], tmp_path, overlay, PYTHONPATH=str(ROOT)) == composed


def test_editable_install_composes_the_same(composed, overlay, source, tmp_path):
    python = make_environment(tmp_path / "venv")
    install(python, "--no-build-isolation", "--editable", source)
    assert home_of(python, tmp_path) == source / "stabletrain"
    assert ask([python, "-m", "stabletrain"], tmp_path, overlay) == composed


def test_installed_wheel_composes_the_same(composed, overlay, wheel, tmp_path):
    python = make_environment(tmp_path / "venv")
    install(python, wheel)
    assert home_of(python, tmp_path).is_relative_to(tmp_path / "venv")
    assert ask([python, "-m", "stabletrain"], tmp_path, overlay) == composed
    script = python.with_name("stabletrain" + python.suffix)
    assert ask([script], tmp_path, overlay) == composed
    assert run([script, "--version"], tmp_path) == f"stabletrain {st.__version__}\n"


# --- no more is imported than is needed ----------------------------------------------------------------------------


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the top-level names of the modules that it leaves loaded."""
    listing = "import json, sys; print('\\n' + json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    output = run([sys.executable, "-c", f"{code}\n{listing}"], ROOT)
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize(
    ("line", "needs_hydra"),
    [("--help", False), ("sync --help", False), ("--version", False), ("--cfg job model=rnn clip=norm", True)],
)
def test_answers_without_torch(line, needs_hydra):
    code = f"from stabletrain.app.cli import main\nassert main({line.split()!r}) == 0"
    loaded = loaded_by(code)
    assert loaded & (HEAVY | {"tensorboard", "sklearn", "matplotlib"}) == set()
    assert loaded & {"hydra", "omegaconf"} == ({"hydra", "omegaconf"} if needs_hydra else set())


def test_import_of_the_package_loads_nothing_else():
    loaded = loaded_by("import stabletrain")
    assert "stabletrain" in loaded
    assert loaded & (HEAVY | {"hydra", "omegaconf", "numpy"}) == set()


@pytest.mark.parametrize(
    ("room", "also"),
    [
        ("network", set()),
        ("gradient", set()),
        ("signal", set()),
        ("data", set()),
        ("diagnosis", {"torch"}),
        ("record", {"torch"}),
        ("report", {"torch"}),
    ],
)
def test_pure_room_leaves_frameworks_alone(room, also):
    modules = [m for m in module_names() if m.split(".")[1] == room]
    assert modules
    loaded = loaded_by("\n".join(f"import {m}" for m in modules))
    assert loaded & ({"pytorch_lightning", "lightning", "hydra", "omegaconf", "mlflow"} | also) == set()


def module_names() -> list[str]:
    paths = [p.relative_to(ROOT).with_suffix("") for p in ROOT.glob("stabletrain/*/**/*.py")]
    names = sorted(".".join(p.parts).removesuffix(".__init__") for p in paths)
    return [name for name in names if name != "stabletrain.signal.kernels.triton_kernel"]  # needs Triton


# --- the library's names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["Doctor", "Watch", "Snapshot", "Finding", "initialize_", "clip_gradients_", "callbacks.GradientWatch"],
)
def test_names_of_the_contract_are_reachable(name):
    found = st
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)
    assert found.__name__ == name.rpartition(".")[2]


def test_every_listed_name_resolves():
    for name in dir(st):
        assert getattr(st, name) is not None


def test_type_checkers_see_the_names_that_load_lazily():
    tree = ast.parse((ROOT / "stabletrain/__init__.py").read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {alias.asname or alias.name for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert seen == set(dir(st)) - {"__version__"}
