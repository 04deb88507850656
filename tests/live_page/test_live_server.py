"""The server without a browser: nothing outside of the folder, damaged files, answers that have not changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from live_fakes import WrittenRun
from live_server import Live

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.reader import load_record
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.statuses import FINISHED


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:6007", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_other_hosts_are_refused(live: Live, host: str):
    assert live.ask("/runs.json", Host=host)[0] == 400
    assert live.ask("/runs.json", Host=f"localhost:{live.port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_only_get(live: Live, method: str):
    for path in ("/", "/runs.json", "/run/one", "/data/one", "/assets/page.css"):
        assert live.ask(path, method)[0] == 405
        assert live.ask(path, "HEAD")[0] in (200, 404)


def test_every_answer_forbids_the_network_and_scripts_in_the_page(live: Live):
    WrittenRun(live.root / "one").steps(range(11))
    for path in ("/", "/run/one", "/data/one", "/runs.json", "/run/none"):
        headers = live.ask(path)[1]
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} <= {*policy}
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "one/../../secret",
        "{root}/secret",
        "/{root}/secret",
        "secret%00",
    ],
)
def test_nothing_outside_of_the_folder(live: Live, name: str):
    WrittenRun(live.root / "one").steps(range(11)).end()
    WrittenRun(live.root.parent / "secret", run_name="secret").steps(range(11)).end()
    name = name.format(root=live.root.parent)
    for page in ("/data/", "/run/", "/assets/"):
        status, _, body = live.ask(page + name)
        assert status == 404
        assert "activation=sigmoid" not in body
    assert live.ask("/data/one")[0] == 200


def test_links_lead_nowhere_outside_of_the_folder(live: Live):
    outside = live.root.parent / "outside"
    WrittenRun(outside, run_name="secret").steps(range(11)).end(verdict="secret")
    WrittenRun(live.root / "inside").steps(range(11)).end()
    (live.root / "link").symlink_to(outside)
    (live.root / "group").mkdir()
    (live.root / "group/link").symlink_to(outside)
    (live.root / "events").mkdir()
    (live.root / "events/tensorboard").symlink_to(outside / "tensorboard")
    (live.root / "summary").mkdir()
    (live.root / "summary/summary.json").symlink_to(outside / "summary.json")
    (live.root / "again").symlink_to(live.root / "inside")  # the control: a link within the folder
    rows = live.rows()
    assert set(rows) == {"inside", "again", "summary"}
    assert "secret" not in json.dumps(rows)
    assert live.run("again")["step"] == 11


def test_one_run_is_shown_alone(tmp_path: Path, serve: Callable[..., Live]):
    for name in ("one", "two"):
        WrittenRun(tmp_path / name).steps(range(11))
    live = serve(tmp_path, "one")
    assert set(live.rows()) == {"one"}
    assert live.ask("/data/two")[0] == 404


def test_the_children_of_a_sweep_are_runs_and_artifacts_are_not(live: Live):
    for name in ("one", "sweep/0", "sweep/1", "mlartifacts/1/2/artifacts", ".hidden"):
        WrittenRun(live.root / name).steps(range(2)).end()
    (live.root / "empty").mkdir()
    (live.root / "mlflow.db").touch()
    assert set(live.rows()) == {"one", "sweep/0", "sweep/1"}


@pytest.mark.parametrize(
    "summary", ["", '{"status": "finis', "[]", "null", '{"status": 3}', '{"metrics": 5}', "[" * 100_000]
)
def test_a_damaged_summary_and_findings(live: Live, summary: str):
    run = WrittenRun(live.root / "one").steps(range(21))
    run.folder.summary.write_text(summary)
    for findings in ("", '[{"kind": "vanish', "{}", '[{"kind": "unknown"}]', "[3]"):
        run.folder.findings.write_text(findings)
        assert live.rows()["one"]["step"] == 21
        assert live.run("one")["step"] == 21


def test_a_torn_and_a_damaged_record(live: Live):
    run = WrittenRun(live.root / "one").steps(range(51))
    whole = run.writer.path.read_bytes()
    for kept, damage in ((len(whole) - 3, b""), (len(whole) * 2 // 3, b"\xff" * 40), (13, b""), (0, b"")):
        run.writer.path.write_bytes(whole[:kept] + damage)
        found, row = live.run("one"), live.rows()["one"]
        assert found["step"] <= 51
        assert abs(row["step"] - found["step"]) <= 10
        assert (found["data"] is None) == (kept < 20)
    run.writer.path.write_bytes(whole)
    assert live.run("one")["step"] == 51
    assert live.rows()["one"]["step"] == 51


def test_a_torn_event_is_read_once_it_is_whole(live: Live):
    run = WrittenRun(live.root / "one").steps(range(51))
    whole = run.writer.path.read_bytes()
    run.writer.path.write_bytes(whole[:-3])
    assert [c["lines"][0]["steps"][-1] for c in live.run("one")["data"]["charts"]] == [50, 50]
    assert live.run("one")["data"]["signals"][0]["edges"][-2] == 40  # the last event is the snapshot of step 50
    with run.writer.path.open("ab") as file:
        file.write(whole[-3:])
    assert live.run("one")["data"]["signals"][0]["edges"][-2] == 50


def test_what_has_not_changed_is_not_sent_again(live: Live):
    run = WrittenRun(live.root / "one").steps(range(21))
    live.run("one")
    version = live.ask("/data/one")[1]["etag"]
    assert live.ask("/data/one", If_None_Match=version)[::2] == (304, "")
    run.steps(range(21, 31))
    status, headers, body = live.ask("/data/one", If_None_Match=version)
    assert (status, json.loads(body)["step"]) == (200, 31)
    assert headers["etag"] != version
    since = json.loads(live.ask("/runs.json")[2])["since"]
    answer = json.loads(live.ask(f"/runs.json?since={since}")[2])
    assert (answer["rows"], answer["names"]) == ([], ["one"])
    assert len(json.loads(live.ask("/runs.json?since=another.9")[2])["rows"]) == 1  # of a server before this one


def test_a_run_deleted_in_between_is_unknown(live: Live):
    WrittenRun(live.root / "one").steps(range(21)).end()
    assert live.ask("/data/one")[0] == live.ask("/run/one")[0] == 200
    shutil.rmtree(live.root / "one")
    assert live.ask("/data/one")[0] == live.ask("/run/one")[0] == 404
    assert live.rows() == {}
    shutil.rmtree(live.root)
    assert live.rows() == {}


def test_a_record_deleted_while_it_is_read_is_no_error(live: Live, monkeypatch: pytest.MonkeyPatch):
    def vanish(*_: object) -> None:
        raise FileNotFoundError

    run = WrittenRun(live.root / "one").steps(range(21))
    assert live.run("one")["step"] == 21
    for reads in ("collected_run.CollectedRun.advance", "run_list.Glance.advance"):
        monkeypatch.setattr(f"stabletrain.live_page.{reads}", vanish)
    run.steps(range(21, 31))
    status, _, body = live.ask("/data/one")
    assert (status, json.loads(body)["step"]) == (200, 21)  # what was read before
    assert live.ask("/runs.json")[0] == 200


def test_findings_so_far_are_those_of_the_doctor_and_final_ones_those_of_the_run(live: Live):
    run = WrittenRun(live.root / "one")
    for first in range(0, 121, 30):
        run.steps(range(first, first + 30), slope=1.2, loss=2.3)
        live.run("one")  # read in five parts
    expected = diagnose(observe(load_record(run.folder.path)))
    assert [f.kind for f in expected if f.alarms] == ["vanishing"]
    found = live.run("one")
    assert found["data"]["findings"][0]["first"] == expected[0].first_step
    assert all(override in found["parts"]["findings"] for override in expected[0].overrides)
    run.folder.write_findings([])
    assert "Vanishing" in live.run("one")["parts"]["findings"]  # of an earlier part of the run, as long as it trains
    run.end(status=FINISHED, verdict="healthy")
    assert "Vanishing" not in live.run("one")["parts"]["findings"]
    assert live.run("one")["parts"]["verdict"].count("Healthy") == 1


def test_a_validation_after_the_last_step_is_no_further_step(live: Live):
    run = WrittenRun(live.root / "one", num_steps=21).steps(range(21))
    run.writer.write_scalars(21, {names.VAL_LOSS: 0.1})
    assert live.rows()["one"]["step"] == live.run("one")["step"] == 21
    run.end(status=FINISHED, steps=20)  # the summary knows it best
    assert live.rows()["one"]["step"] == live.run("one")["step"] == 20


def test_text_is_escaped(live: Live):
    hostile = "<script>document.title=1</script>"
    WrittenRun(live.root / quote(hostile, safe="<>"), run_name=hostile, choices={"model": hostile}).steps(range(21))
    name = next(iter(live.rows()))
    assert "<script>d" not in live.ask("/run/" + quote(name))[2]
    found = live.run(name)
    assert all("<script" not in part for part in found["parts"].values())
    assert "&lt;script&gt;" in found["parts"]["verdict"]


HEAVY = ("torch", "pytorch_lightning", "mlflow", "hydra", "matplotlib", "pandas", "sklearn")


def test_the_server_imports_nothing_heavy(live: Live):
    WrittenRun(live.root / "one").steps(range(31), slope=1.2).end()
    script = """
import sys
from pathlib import Path
from stabletrain.live_page.__main__ import main
from stabletrain.live_page.run_list import RunList
runs = RunList(Path(sys.argv[1]))
assert runs.changes(0)["rows"] and runs.view("one").json
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""
    command = [sys.executable, "-c", script, str(live.root), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
