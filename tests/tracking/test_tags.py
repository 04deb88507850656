"""The tags of a run: those for people are listed, the shipper's are hidden, those of earlier versions are upgraded."""

from __future__ import annotations

import pytest
from mlflow_fakes import begin_run, end_run, finished_run, get_run, recorded, shipped, write_steps
from PIL import Image

from stabletrain.record.run_folder import RunFolder
from stabletrain.record.sweep_folder import SweepFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.tracking import tags
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import open_client, quiet
from stabletrain.tracking.sweep_parent import conclude_parent, parent_tag


@pytest.fixture(autouse=True)
def _drawn_quickly(monkeypatch: pytest.MonkeyPatch):
    from stabletrain.tracking.contents import picture_plan

    def draw() -> bytes:
        import io

        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        return buffer.getvalue()

    monkeypatch.setattr(picture_plan, "_ridges_drawing", lambda *_: draw)
    monkeypatch.setattr("stabletrain.report.pictures.draw_heatmap", lambda *_, **__: draw())


def give_former_names(uri: str, run_id: str) -> None:
    """Rename the tags of a run to the names that earlier versions wrote."""
    client = open_client(uri)
    for new, old in tags.FORMER.items():
        value = get_run(uri, run_id).data.tags.get(new)
        if value is not None:
            client.set_tag(run_id, old, value)
            client.delete_tag(run_id, new)


def log_model(calls: list[str]):
    return lambda run_id, tracking_uri: calls.append(run_id)


def with_checkpoint(folder: RunFolder) -> RunFolder:
    folder.checkpoints.mkdir()
    (folder.checkpoints / "best.ckpt").write_bytes(b"weights")
    return folder


def test_the_list_shows_only_what_a_person_reads(runs, uri):
    folder = with_checkpoint(finished_run(runs / "run", steps=range(3)))
    result = Shipper(folder, uri, log_model=log_model([])).ship()
    found = get_run(uri, result.run_id).data.tags
    assert {name: value for name, value in found.items() if not name.startswith("mlflow.")} == {
        "stabletrain.verdict": "vanishing",
        "stabletrain.command": "python -m stabletrain model=rnn",
        "stabletrain.git_dirty": "true",
        "stabletrain.versions": "torch 2.13.0",
    }
    assert set(tags.FORMER) <= set(found)


def test_a_run_shipped_by_the_version_before_is_not_shipped_again(runs, uri):
    calls: list[str] = []
    folder = with_checkpoint(finished_run(runs / "run", steps=range(30)))
    first = Shipper(folder, uri, log_model=log_model(calls)).ship()
    give_former_names(uri, first.run_id)
    assert {"stabletrain.uid", "stabletrain.shipped"} <= set(get_run(uri, first.run_id).data.tags)
    second = Shipper(folder, uri, log_model=log_model(calls)).ship()
    assert second.run_id == first.run_id
    assert (second.points, second.images, second.artifacts, calls) == (0, 0, 0, [first.run_id])
    found = set(get_run(uri, first.run_id).data.tags)
    assert set(tags.FORMER) <= found
    assert not set(tags.FORMER.values()) & found


def test_a_run_that_grows_goes_on_where_the_version_before_stopped(runs, uri):
    folder = begin_run(runs / "run", steps=range(20))
    first = Shipper(folder, uri).ship(ended=False)
    give_former_names(uri, first.run_id)
    writer = RecordWriter(folder.events)
    write_steps(writer, range(20, 40))
    writer.close()
    second = Shipper(end_run(folder), uri).ship()
    assert second.run_id == first.run_id
    assert (second.points_already, first.points + second.points) == (first.points, len(recorded(folder)))
    assert shipped(uri, first.run_id) == recorded(folder)


def test_without_its_position_everything_is_sent_again(runs, uri):
    """The negative control of the two tests above: it is this tag that keeps points from being sent twice."""
    folder = finished_run(runs / "run", steps=range(30))
    first = Shipper(folder, uri).ship()
    open_client(uri).delete_tag(first.run_id, tags.POSITION)
    assert Shipper(folder, uri).ship().points == first.points > 0


def test_an_interrupted_upgrade_is_completed_with_the_newer_state(runs, uri):
    folder = finished_run(runs / "run", steps=range(30))
    first = Shipper(folder, uri).ship()
    open_client(uri).set_tag(first.run_id, tags.FORMER[tags.POSITION], "{}")  # written, the former one not yet deleted
    assert Shipper(folder, uri).ship().points == 0
    assert tags.FORMER[tags.POSITION] not in get_run(uri, first.run_id).data.tags


def test_the_run_of_a_sweep_is_found_under_its_former_name(runs, uri):
    sweep = SweepFolder(runs / "sweep")
    sweep.path.mkdir()
    sweep.update(uid="uid-of-sweep", command="python -m stabletrain -m", experiment_name="demo", started_ms=1000)
    folder = sweep.child(0)
    folder.path.mkdir()
    client = open_client(uri)
    with quiet():
        experiment = client.create_experiment("demo")
        (first,) = parent_tag(client, experiment, folder).values()
        give_former_names(uri, first)
        assert parent_tag(client, experiment, folder) == {tags.PARENT: first}
        assert get_run(uri, first).data.tags[tags.UID] == "uid-of-sweep"
        give_former_names(uri, first)
        assert conclude_parent(sweep, uri, "| child |", is_done=True) == first
