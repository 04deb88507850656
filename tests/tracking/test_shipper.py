import hashlib
import json
import os
import shutil

import pytest
from mlflow_fakes import (
    INFO,
    artifact_names,
    begin_run,
    end_run,
    finished_run,
    get_run,
    layer_name,
    recorded,
    shipped,
    snapshot,
    write_all_signals,
    write_steps,
)

from stabletrain.record.writer import RecordWriter
from stabletrain.tracking import shipper as shipper_module
from stabletrain.tracking import tags
from stabletrain.tracking.contents.images import pictures_there
from stabletrain.tracking.contents.picture_plan import AT_END
from stabletrain.tracking.mlflow_view import BY_LAYER, PICTURES, VIEW_ID, decode_view, encode_view, shown_keys
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import database_of, open_client, quiet
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.statuses import FAILED, FINISHED, RUNNING, STOPPED, TERMINATED


@pytest.fixture(autouse=True)
def _drawn_quickly(monkeypatch):
    """Replace the drawings, which tests/report tests, by small images."""
    import io

    from PIL import Image

    from stabletrain.report import pictures

    def draw(*_, **__):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64)).save(buffer, "PNG")
        return buffer.getvalue()

    for name in dir(pictures):
        if name.startswith("draw_"):
            monkeypatch.setattr(pictures, name, draw)


def test_every_point_arrives_once_however_often_it_is_shipped(runs, uri):
    folder = finished_run(runs / "run")
    first = Shipper(folder, uri).ship()
    second = Shipper(folder, uri).ship()
    assert shipped(uri, first.run_id) == recorded(folder)
    assert (first.points, first.points_already) == (len(recorded(folder)), 0)
    assert (second.points, second.points_already) == (0, first.points)
    assert (second.run_id, second.images, second.artifacts) == (first.run_id, 0, 0)
    assert (second.images_already, second.artifacts_already) == (first.images, 6)
    assert (
        str(second)
        == f"0 points, 0 images, 0 artifacts shipped; {first.points + first.images + 6} already on the server"
    )


def test_a_run_that_still_trains_is_shipped_as_it_grows(runs, uri):
    folder = begin_run(runs / "run", steps=range(20))
    one = Shipper(folder, uri)
    before = one.ship(ended=False)
    assert (before.status, one.ship(ended=False).points) == ("RUNNING", 0)
    writer = RecordWriter(folder.events)
    write_steps(writer, range(20, 40))
    between = one.ship(ended=False)
    write_steps(writer, range(40, 60))
    writer.close()
    after = one.ship(ended=False)
    assert before.points + between.points + after.points == len(recorded(folder))
    assert shipped(uri, before.run_id) == recorded(folder)
    assert artifact_names(uri, before.run_id) == ["images"]


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "lost"])
@pytest.mark.parametrize("num_batches", [0, 1, 3])
def test_a_crash_between_batches_costs_nothing_and_doubles_nothing(runs, uri, monkeypatch, num_batches, is_stored):
    from mlflow import MlflowClient

    monkeypatch.setattr(shipper_module, "MAX_POINTS", 25)
    folder = finished_run(runs / "run", steps=range(40))
    log_batch, sent = MlflowClient.log_batch, []

    def crash(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        if metrics and len(sent) == num_batches:
            if is_stored:  # the metrics, but not the position after them
                log_batch(self, run_id, metrics=metrics)
            raise KeyboardInterrupt
        sent.append(metrics)
        return log_batch(self, run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", crash)
    one = Shipper(folder, uri)
    with pytest.raises(KeyboardInterrupt):
        one.ship()
    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    result = one.ship()
    assert shipped(uri, result.run_id) == recorded(folder)
    assert shipped(uri, Shipper(folder, uri).ship().run_id) == recorded(folder)
    assert num_runs(uri) == 1


def test_an_event_with_more_points_than_a_batch_is_whole(runs, uri, monkeypatch):
    monkeypatch.setattr(shipper_module, "MAX_POINTS", 7)
    folder = begin_run(runs / "run", steps=range(0))
    writer = RecordWriter(folder.events)
    writer.write_snapshot(snapshot(0, 20))
    writer.close()
    result = Shipper(folder, uri).ship()
    assert shipped(uri, result.run_id) == recorded(folder)


def test_a_resumed_run_repeats_no_step_and_is_running_again(runs, uri):
    folder = end_run(begin_run(runs / "run", steps=range(30)), FAILED)
    first = Shipper(folder, uri).ship()
    assert first.status == "FAILED"
    writer = RecordWriter(folder.events)
    writer.write_info(INFO | {"parameters": {"model.depth": 30, "new": 1}})
    write_steps(writer, range(20, 60))
    writer.close()
    folder.update_summary(status=RUNNING)
    second = Shipper(folder, uri).ship(ended=False)
    assert (second.run_id, second.status) == (first.run_id, "RUNNING")
    assert shipped(uri, first.run_id) == recorded(folder)
    run = get_run(uri, first.run_id)
    assert (run.info.status, run.data.params["model.depth"], run.data.params["new"]) == ("RUNNING", "20", "1")
    end_run(folder)
    third = Shipper(folder, uri).ship()
    assert third.status == "FINISHED"
    assert third.artifacts == 3  # the summary, the table of layers and the event files changed
    assert third.images == 2  # of the new last state
    assert shipped(uri, first.run_id) == recorded(folder)


def test_pictures_arrive_once_with_their_steps(runs, uri):
    folder = finished_run(runs / "run", steps=range(400))
    result = Shipper(folder, uri).ship()
    client = open_client(uri)
    there = pictures_there(client, result.run_id)
    steps = steps_by_key(there)
    assert steps == {
        names.HEATMAP: [0, 50, 150, 390],
        names.RIDGES: [*range(0, 100, 10), 120, 150, 190, 240, 300, 380, 390],
        names.RIDGES + AT_END: [0],
        names.HEATMAP + AT_END: [0],
    }
    assert result.images == len(there)
    # The reduced version of one picture is missing (a crash between the two files): only that picture is drawn again.
    images = runs / "mlartifacts" / result.run_id / "artifacts" / "images"
    next(images.glob("gradient~ridges+step+20+*.webp")).unlink()
    again = Shipper(folder, uri).ship()
    assert (again.images, again.images_already) == (1, len(there) - 1)
    assert len(list(images.iterdir())) == 2 * len(there)
    assert get_run(uri, result.run_id).data.tags["mlflow.loggedImages"] == "True"


def test_every_signal_has_its_picture_and_the_view_its_card(runs, uri):
    folder = begin_run(runs / "run", steps=range(0))
    writer = RecordWriter(folder.events)
    write_all_signals(writer, range(101))
    writer.close()
    result = Shipper(end_run(folder), uri).ship()
    assert result.notes == []
    course = [0, 50, 100]
    steps = {
        names.RIDGES: list(range(0, 101, 10)),
        names.HEATMAP: course,
        names.UPDATE_RATIOS: course,
        names.TIME_SURFACE: course,
        names.CLIPPING: [20, 60, 100],  # from the first clipped step on
    }
    expected = steps | {key + AT_END: [0] for key in steps}
    assert steps_by_key(pictures_there(open_client(uri), result.run_id)) == expected
    assert shipped(uri, result.run_id) == recorded(folder)
    state = view_of(uri, result.experiment_id)
    cards = {tuple(c["imageKeys"]): c["step"] for c in state["compareRunCharts"] if c["type"] == "IMAGE"}
    assert cards == {tuple(key + AT_END for key in steps): 0, **{(key,): found[0] for key, found in steps.items()}}
    lines = [c["selectedMetricKeys"] for c in state["compareRunCharts"] if c["type"] == "LINE"]
    assert [f"update/ratio/{layer_name(i)}" for i in range(3)] in lines
    assert len({c["uuid"] for c in state["compareRunCharts"]}) == len(state["compareRunCharts"])
    # A run of the same experiment without these signals removes no card.
    second = finished_run(runs / "b", steps=range(20), info=INFO | {"run_uid": "uid-2"})
    Shipper(second, uri).ship()
    after = view_of(uri, result.experiment_id)
    assert {tuple(c["imageKeys"]): c["step"] for c in after["compareRunCharts"] if c["type"] == "IMAGE"} == cards


def test_the_view_of_a_thousand_layers_fits_a_tag():
    hard = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(1000)]  # does not compress
    keys = [f"{family}/L{i:04d}.{hard[i]}" for family in BY_LAYER for i in range(1000)]
    images = {key: 10**6 for kind in PICTURES for key in (kind, kind + AT_END)}
    text = encode_view([*keys, "train/loss", names.NORM_TOTAL], images, 10**12)
    assert 15_000 < len(text) < 20_000
    shown = shown_keys(decode_view(text)["state"])
    num_shown = [sum(key.startswith(f"{family}/") for key in shown) for family in BY_LAYER]
    assert num_shown[0] == num_shown[1] > 100
    assert {"train/loss", names.NORM_TOTAL, keys[0]} <= set(shown)


def test_the_table_of_layers_is_there_once(runs, uri):
    folder = begin_run(runs / "run", steps=range(0))
    writer = RecordWriter(folder.events)
    write_all_signals(writer, range(11), num_layers=4)
    writer.close()
    result = Shipper(end_run(folder), uri).ship()
    again = Shipper(folder, uri).ship()
    assert (result.artifacts, again.artifacts) == (6, 0)
    run = get_run(uri, result.run_id)
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "worst_layers.json", "type": "table"}]
    artifacts = runs / "mlartifacts" / result.run_id / "artifacts"
    table = json.loads((artifacts / "worst_layers.json").read_text())
    columns = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
    assert columns["layer"] == tuple(layer_name(i) for i in range(4))
    assert columns["update / weight"] == pytest.approx((0.001, 0.002, 0.003, 0.004))
    with quiet():  # the result of `log_table` for the same numbers
        open_client(uri).log_table(result.run_id, {k: list(v) for k, v in columns.items()}, "logged.json")
    logged = json.loads((artifacts / "logged.json").read_text())
    assert logged["columns"] == table["columns"]
    assert [row[:2] for row in logged["data"]] == [row[:2] for row in table["data"]]


def view_of(uri, experiment_id):
    return decode_view(open_client(uri).get_experiment(experiment_id).tags[f"mlflow.sharedViewState.{VIEW_ID}"])[
        "state"
    ]


def test_a_picture_that_cannot_be_drawn_is_told_and_costs_nothing_else(runs, uri, monkeypatch):
    from stabletrain.report import pictures

    monkeypatch.setattr(pictures, "draw_ridges", lambda *_, **__: 1 / 0)
    folder = finished_run(runs / "run")
    result = Shipper(folder, uri).ship()
    assert any("could not be drawn: division by zero" in note for note in result.notes)
    assert shipped(uri, result.run_id) == recorded(folder)
    keys = {key for key, *_ in pictures_there(open_client(uri), result.run_id)}
    assert keys == {names.HEATMAP, names.HEATMAP + AT_END}


def test_what_the_run_is(runs, uri):
    folder = finished_run(runs / "run")
    result = Shipper(folder, uri).ship()
    run = get_run(uri, result.run_id)
    assert run.info.run_name == "run"
    assert run.data.params == {
        "model": "rnn",
        "clip": "norm",
        "model.depth": "20",
        "optimizer.lr": "0.001",
        "model.act_0_": "null",
        "num_parameters": "1234",
    }
    assert run.data.tags["mlflow.source.git.commit"] == "1f" * 20
    assert run.data.tags["stabletrain.command"] == INFO["command"]
    assert run.data.tags[tags.UID] == "uid-1"
    inputs = {i.dataset.name: i for i in run.inputs.dataset_inputs}
    assert {name: i.tags[0].value for name, i in inputs.items()} == {
        "digits": "train",
        "digits-val": "val",
        "digits-test": "test",
    }
    assert {i.dataset.digest for i in inputs.values()} == {"abc"}
    assert json.loads(inputs["digits-val"].dataset.profile) == {"num_rows": 20}
    assert open_client(uri).get_experiment(result.experiment_id).name == "demo"


def test_a_record_that_does_not_say_what_it_is(runs, uri):
    folder = finished_run(runs / "run", info=None)
    result = Shipper(folder, uri, experiment_name="mine", run_name="first").ship()
    assert get_run(uri, result.run_id).info.run_name == "first"
    assert Shipper(folder, uri, experiment_name="mine").ship().run_id == result.run_id
    assert shipped(uri, result.run_id) == recorded(folder)


def test_the_end_of_a_run(runs, uri):
    folder = finished_run(runs / "run")
    result = Shipper(folder, uri).ship()
    expected = ["config.yaml", "findings.json", "images", "report.html", "summary.json", "tensorboard"]
    expected += ["worst_layers.json"]
    assert artifact_names(uri, result.run_id) == expected
    assert artifact_names(uri, result.run_id, "tensorboard") == [p.name for p in folder.events.iterdir()]
    found = get_run(uri, result.run_id).data.tags
    assert found["stabletrain.verdict"] == "vanishing"
    lines = found["mlflow.note.content"].splitlines()
    assert lines[0] == "### Verdict: ⚠️ vanishing"
    assert "| val/accuracy | 0.93125 |" in lines
    assert (
        "- **critical: vanishing** in `L00.rnn`, steps 10–20. It \\| fades. Try `init=orthogonal`, `norm=layer`."
        in lines
    )
    assert "    python -m stabletrain model=rnn" in lines
    uploaded = json.loads((runs / "mlartifacts" / result.run_id / "artifacts" / "summary.json").read_text())
    assert (uploaded["mlflow_run_id"], uploaded["mlflow_tracking_uri"]) == (result.run_id, uri)
    assert "mlflow_run_id" not in folder.read_summary()
    Shipper(folder, uri).write_links(result)
    assert folder.read_summary() == uploaded


@pytest.mark.parametrize(
    ("status", "expected"),
    [(FINISHED, "FINISHED"), (FAILED, "FAILED"), (STOPPED, "FAILED"), (TERMINATED, "KILLED")],
)
def test_the_status(runs, uri, status, expected):
    folder = end_run(begin_run(runs / "run", steps=range(2)), status)
    result = Shipper(folder, uri).ship()
    assert get_run(uri, result.run_id).info.status == result.status == expected


def test_a_run_whose_process_died_is_killed_and_says_so(runs, uri):
    folder = begin_run(runs / "run", steps=range(2))
    assert Shipper(folder, uri).ship().status == "RUNNING"  # this process wrote the record and is alive
    result = Shipper(folder, uri).ship(ended=True)
    run = get_run(uri, result.run_id)
    assert run.info.status == "KILLED"
    assert "was killed or ran out of memory" in run.data.tags["mlflow.note.content"]
    event_file = next(folder.events.iterdir())
    event_file.rename(event_file.with_name(event_file.name.removesuffix(str(os.getpid())) + "4194303"))
    assert Shipper(folder, uri).ship().status == "KILLED"  # inferred: there is no such process


def test_nothing_recorded_yet_makes_no_run(runs, uri):
    folder = begin_run(runs / "run", info=None, steps=range(0))
    assert Shipper(folder, uri).ship(ended=False).run_id is None
    assert num_runs(uri) == 0
    assert Shipper(end_run(folder, FAILED), uri).ship().status == "FAILED"


def test_the_run_is_found_again_without_the_summary_and_not_mistaken(runs, uri):
    folder = finished_run(runs / "run", steps=range(2))
    result = Shipper(folder, uri).ship()
    Shipper(folder, uri).write_links(result)
    other = finished_run(runs / "other", steps=range(3), info=INFO | {"run_uid": "uid'2"})
    other.update_summary(mlflow_run_id=result.run_id)  # copied from the first
    assert Shipper(other, uri).ship().run_id != result.run_id
    folder.update_summary(mlflow_run_id="0" * 32)  # of another server
    assert Shipper(folder, uri).ship().run_id == result.run_id
    assert num_runs(uri) == 2


def test_what_was_deleted_is_restored(runs, uri):
    folder = finished_run(runs / "run", steps=range(2))
    result = Shipper(folder, uri).ship()
    client = open_client(uri)
    client.delete_run(result.run_id)
    again = Shipper(folder, uri).ship()
    assert again.run_id == result.run_id
    assert any("had been deleted; it was restored" in note for note in again.notes)
    client.delete_experiment(result.experiment_id)
    notes = Shipper(folder, uri).ship().notes
    assert any("experiment 'demo' had been deleted; it was restored" in note for note in notes)
    assert get_run(uri, result.run_id).info.lifecycle_stage == "active"


def test_another_server_starts_from_nothing(runs, uri, template):
    folder = finished_run(runs / "run", steps=range(5))
    Shipper(folder, uri).write_links(Shipper(folder, uri).ship())
    (runs / "elsewhere").mkdir()
    second = f"sqlite:///{runs / 'elsewhere' / 'mlflow.db'}"
    shutil.copy(template, database_of(second))
    result = Shipper(folder, second).ship()
    assert shipped(second, result.run_id) == recorded(folder)


def test_the_saved_view_shows_the_layers_of_all_runs(runs, uri):
    result = Shipper(finished_run(runs / "a", steps=range(20), num_layers=3), uri).ship()
    tag = f"mlflow.sharedViewState.{VIEW_ID}"
    created = decode_view(open_client(uri).get_experiment(result.experiment_id).tags[tag])["createdAt"]
    second = finished_run(runs / "b", steps=range(20), num_layers=5, info=INFO | {"run_uid": "uid-2"})
    Shipper(second, uri).ship()
    tags = open_client(uri).get_experiment(result.experiment_id).tags
    assert [name for name in tags if "sharedViewState" in name] == [tag]
    view = decode_view(tags[tag])
    assert (view["name"], view["createdAt"]) == ("Gradient health", created)
    lines = [c for c in view["state"]["compareRunCharts"] if c["type"] == "LINE"]
    assert lines[0]["selectedMetricKeys"] == [f"gradient/rms/{layer_name(i)}" for i in range(5)]
    assert lines[0]["scaleType"] == "log"
    assert {"train/loss", names.NORM_TOTAL} <= set(shown_keys(view["state"]))
    pictures = {c["imageKeys"][0]: c["step"] for c in view["state"]["compareRunCharts"] if c["type"] == "IMAGE"}
    assert pictures == {names.RIDGES + AT_END: 0, names.RIDGES: 0, names.HEATMAP: 0}


def test_the_model_is_logged_once_and_its_failure_is_told(runs, uri):
    folder = finished_run(runs / "run", steps=range(2))
    calls = []

    def fail(run_id, tracking_uri):
        raise OSError("disk full")

    def log(run_id, tracking_uri):
        calls.append((run_id, tracking_uri))

    Shipper(folder, uri, log_model=log).ship()
    assert calls == []  # no checkpoint yet
    folder.checkpoints.mkdir()
    (folder.checkpoints / "best.ckpt").write_bytes(b"weights")
    result = Shipper(folder, uri, log_model=fail).ship()
    assert any("disk full" in note for note in result.notes)
    for _ in range(2):
        Shipper(folder, uri, log_model=log).ship()
    assert calls == [(result.run_id, uri)]


def test_hostile_names_arrive(runs, uri):
    folder = begin_run(
        runs / "a b%20'ü#",
        info={
            "run_uid": "it's `odd`; --",
            "experiment_name": "größe / 'x'",
            "choices": {"": "x", "a//b": "y" * 9000},
            "parameters": {"../up": {"deep": [1]}, "k[0]": "v"},
            "dataset": {"name": "d" * 900, "digest": "e" * 90},
            "command": ["python", "a b", "`|<script>"],
        },
        steps=range(0),
    )
    writer = RecordWriter(folder.events)
    hostile = ["a[0]", "a(0)", "x//y", "../up", "@" * 300, "/", "gradient/rms/L00.öl"]
    for step in range(3):
        writer.write_scalars(step, dict.fromkeys(hostile, float(step)))
    writer.close()
    result = Shipper(end_run(folder), uri).ship()
    found = shipped(uri, result.run_id)
    assert len(found) == 3 * len(hostile)
    assert len({key for key, _, _ in found}) == len(hostile)
    assert Shipper(folder, uri).ship().points == 0
    assert get_run(uri, result.run_id).info.run_name == "a b%20'ü#"


def test_the_screen_stays_clean(runs, uri, capfd):
    Shipper(finished_run(runs / "run", steps=range(2)), uri).ship()
    assert capfd.readouterr() == ("", "")


def steps_by_key(pictures):
    found = {}
    for key, step, _ in sorted(pictures):
        found.setdefault(key, []).append(step)
    return found


def num_runs(uri):
    client = open_client(uri)
    with quiet():
        return len(client.search_runs([e.experiment_id for e in client.search_experiments()], run_view_type=3))


def test_the_last_picture_of_a_kind_is_drawn_once(runs, uri, monkeypatch):
    from stabletrain.report import pictures

    draw, drawn = pictures.draw_heatmap, []
    monkeypatch.setattr(pictures, "draw_heatmap", lambda *a, **k: drawn.append(k["findings"]) or draw(*a, **k))
    result = Shipper(finished_run(runs / "run", steps=range(61)), uri).ship()
    assert steps_by_key(pictures_there(open_client(uri), result.run_id))[names.HEATMAP] == [0, 50, 60]
    assert [len(findings) for findings in drawn] == [0, 0, 1]  # the last one is there under two keys
    images = runs / "mlartifacts" / result.run_id / "artifacts/images"
    (last,), (at_end,) = images.glob("gradient~heatmap+step+60+*.png"), images.glob("gradient~heatmap_at_end+*.png")
    assert last.read_bytes() == at_end.read_bytes()
