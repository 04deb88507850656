"""What was seen during training is in the record, also after the run was resumed in a new file."""

from __future__ import annotations

from stabletrain.diagnosis.recorded_run import replay
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.reader import load_record
from stabletrain.record.writer import RecordWriter
from stabletrain.vocabulary.notice import Notice, keep_notices

FIRST = Notice("gradients_accumulate", 1, 3, evidence={"num_steps": 2})
SECOND = Notice("wrong_mode", 7, 9, evidence={"certainty": "certain"})


def test_a_resumed_run_keeps_its_notices(tmp_path):
    for notice in (FIRST, SECOND):
        writer = RecordWriter(tmp_path / "tensorboard")
        writer.write_info({"run_uid": "x"})
        writer.write_notice(notice)
        writer.write_notice(notice)
        writer.close()
    RecordWriter(tmp_path / "tensorboard").write_info({"run_uid": "y"})
    for record in (load_record(tmp_path), load_bounded(tmp_path)):
        assert record.info["run_uid"] == "y"
        assert record.info["notices"] == [FIRST.to_dict(), SECOND.to_dict()]
        assert replay(record).observations().notices == (FIRST, SECOND)


def test_metadata_without_notices_stays_as_it_is():
    assert keep_notices({}, {"a": 1}) == {"a": 1}
    assert keep_notices({"b": 2}, {"a": 1}) == {"a": 1}
    longer = Notice("wrong_mode", 7, 20)
    kept = keep_notices({"notices": [SECOND.to_dict()]}, {"notices": [longer.to_dict()]})
    assert kept["notices"] == [SECOND.to_dict() | {"last_step": 20}]
