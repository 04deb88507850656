"""TensorBoard's runs bear the runs' names, whatever happens to the folders in the meantime."""

import shutil

import pytest
import yaml

from stabletrain.tracking.run_links import clean_name, link_runs, names_of_runs

FIRST, SECOND, THIRD = "2026-11-21_06-24-22-e85a4c", "2026-11-21_07-00-00-000001", "2026-11-21_08-00-00-000002"


@pytest.fixture
def shown(tmp_path):
    (tmp_path / "shown").mkdir()
    return tmp_path / "shown"


@pytest.fixture
def logdir(tmp_path):
    return tmp_path / "runs"


def add(logdir, folder, run_name=None):
    (logdir / folder / "tensorboard").mkdir(parents=True)
    (logdir / folder / "config.yaml").write_text(yaml.safe_dump({"run_name": run_name}))


def links(shown):
    return {str(p.relative_to(shown)): str(p.readlink()) for p in shown.rglob("*") if p.is_symlink()}


def test_a_name_that_is_unique_stands_alone_and_a_shared_one_with_its_folder(logdir):
    add(logdir, FIRST, "my-run")
    add(logdir, SECOND)
    assert list(names_of_runs(logdir)) == ["my-run", SECOND]
    add(logdir, THIRD, "my-run")
    assert list(names_of_runs(logdir)) == [f"my-run ({FIRST})", SECOND, f"my-run ({THIRD})"]
    assert list(names_of_runs(logdir, only=THIRD)) == ["my-run"]


def test_a_name_that_is_another_run_s_folder(logdir):
    add(logdir, FIRST, SECOND)
    add(logdir, SECOND)
    assert list(names_of_runs(logdir)) == [f"{SECOND} ({FIRST})", SECOND]


def test_the_children_of_a_sweep_are_below_it(logdir, shown):
    add(logdir, f"{FIRST}/0")
    add(logdir, f"{FIRST}/10", "a/b")
    (logdir / FIRST / "sweep.json").write_text("{}")
    add(logdir, f"mlartifacts/{SECOND}")  # no sweep: copies in the embedded store
    link_runs(logdir, shown)
    assert links(shown) == {
        f"{FIRST}/0": str(logdir / FIRST / "0/tensorboard"),
        f"{FIRST}/10 a_b": str(logdir / FIRST / "10/tensorboard"),
    }
    shutil.rmtree(logdir / FIRST)
    link_runs(logdir, shown)
    assert list(shown.iterdir()) == []


def test_links_follow_runs_that_are_renamed_or_deleted(logdir, shown):
    add(logdir, FIRST, "one")
    add(logdir, SECOND, "two")
    for _ in range(2):
        link_runs(logdir, shown)
    assert links(shown) == {"one": str(logdir / FIRST / "tensorboard"), "two": str(logdir / SECOND / "tensorboard")}
    (logdir / FIRST).rename(logdir / THIRD)
    shutil.rmtree(logdir / SECOND)
    link_runs(logdir, shown)
    assert links(shown) == {"one": str(logdir / THIRD / "tensorboard")}
    add(logdir, FIRST, "one")
    link_runs(logdir, shown)
    assert links(shown) == {
        f"one ({FIRST})": str(logdir / FIRST / "tensorboard"),
        f"one ({THIRD})": str(logdir / THIRD / "tensorboard"),
    }


@pytest.mark.parametrize("text", ["", "- a list", "run_name: [", "run_name: ..", "run_name: 3", b"\xff"])
def test_a_configuration_without_a_usable_name(logdir, text):
    add(logdir, FIRST)
    (logdir / FIRST / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert list(names_of_runs(logdir)) == (["3"] if "3" in str(text) else [FIRST])


def test_a_folder_that_does_not_exist_yet(logdir, shown):
    link_runs(logdir, shown)
    assert links(shown) == {}


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("my run", "my run"),
        ("a/b\\c", "a_b_c"),
        ("../up", "_up"),
        ("..", None),
        (" \n", None),
        ("größe" * 100, ("größe" * 100).encode()[:200].decode(errors="ignore")),
    ],
)
def test_a_name_as_that_of_a_file(name, cleaned):
    assert clean_name(name) == cleaned
