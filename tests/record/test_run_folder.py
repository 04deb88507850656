"""The small files of a run: whole at every moment, and read back as they were."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabletrain.record.run_folder import RunFolder, replace_file, write_json
from stabletrain.vocabulary.finding import SEVERITIES, Finding
from stabletrain.vocabulary.kinds import KINDS

FINDINGS = st.lists(
    st.builds(
        Finding,
        kind=st.sampled_from([*KINDS]),
        severity=st.sampled_from(SEVERITIES),
        layer=st.none() | st.text(),
        first_step=st.integers(0, 2**40),
        last_step=st.integers(0, 2**40),
        evidence=st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)),
        advice=st.text(),
        overrides=st.lists(st.text()),
    ),
    max_size=3,
)


@settings(max_examples=30)
@given(FINDINGS)
def test_findings_are_plain_json_and_come_back(findings):
    data = json.loads(json.dumps([f.to_dict() for f in findings]))
    assert [Finding(**fields) for fields in data] == findings
    fields = {"kind", "severity", "layer", "first_step", "last_step", "evidence", "advice", "overrides", "reasons"}
    assert all(set(d) == fields for d in data)


def test_findings_through_the_folder(tmp_path):
    folder = RunFolder(tmp_path / "new" / "run")
    findings = [
        Finding("exploding", "warning", None, 1, 2, {"z": 7.5}, "Ü–", ["clip=norm"]),
        Finding("nonfinite", "critical", "L00.w", 3, 3, {"layers": ["L00.w"]}, "x"),
    ]
    folder.write_findings(findings)
    assert folder.read_findings() == findings
    folder.write_findings([])
    assert folder.read_findings() == []
    assert json.loads(folder.findings.read_text()) == []


def test_paths_are_those_of_the_contract(tmp_path):
    folder = RunFolder(tmp_path)
    found = (folder.config, folder.events, folder.checkpoints, folder.findings, folder.summary, folder.report)
    names = ["config.yaml", "tensorboard", "checkpoints", "findings.json", "summary.json", "report.html"]
    assert [path.relative_to(tmp_path).as_posix() for path in found] == names


def test_a_relative_folder_stays_the_same_one_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder.update_summary(status="running")
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_is_no_json_leaves_the_old_file(tmp_path, bad):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"a": bad})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, done, seen = tmp_path / "a.bin", threading.Event(), set()
    replace_file(path, b"a" * 100_000)

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        replace_file(path, (b"b" if i % 2 else b"a") * 100_000)
    done.set()
    reader.join()
    assert seen <= {b"a" * 100_000, b"b" * 100_000}
