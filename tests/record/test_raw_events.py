"""Splitting events by hand against protobuf's own parser."""

from __future__ import annotations

import copy
import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.record.encoding import Histograms
from stabletrain.record.protos import Event, HistogramProto, Summary, TensorProto
from stabletrain.record.raw_events import EventSplitter, HistogramRun, Numbers, Other, head_of
from stabletrain.record.recorded_histogram import RecordedHistogram
from stabletrain.signal.histogram import NUM_BINS, Histogram

HISTOGRAM = HistogramProto(min=-1, max=1, num=3, bucket_limit=[-38.0, -37.0, 38.0], bucket=[1.0, 2.0, 0.0])
VALUES = st.one_of(
    st.tuples(
        st.sampled_from(["train/loss", "gradient/rms/L0.w", "x" * 200]), st.floats(width=32, allow_nan=False)
    ).map(lambda pair: Summary.Value(tag=pair[0], simple_value=pair[1])),
    st.sampled_from(["gradient/histogram/L0.w", "gradient/histogram/L1.w", "histogram/delta/L0.w", "h"]).map(
        lambda tag: Summary.Value(tag=tag, histo=HISTOGRAM)
    ),
    st.just(Summary.Value(tag="run/info", tensor=TensorProto(string_val=[b"{}"]))),
    st.just(Summary.Value(node_name="y", tag="with/node", simple_value=1.0)),
    st.just(Summary.Value()),
)


def values_of(parts) -> list:
    """Return what the parts contain, as protobuf gives it."""
    found = []
    for part in parts:
        if isinstance(part, Numbers):
            pairs = zip(part.layout.names, part.values.tolist(), strict=True)
            found += [Summary.Value(tag=name, simple_value=value) for name, value in pairs]
        elif isinstance(part, HistogramRun):
            for layer, message in part.messages():
                tag = part.prefix.decode() + layer
                found.append(Summary.Value(tag=tag, histo=HistogramProto.FromString(message)))
        else:
            assert isinstance(part, Other)
            found.append(Summary.Value.FromString(part.message))
    return found


@given(st.lists(st.lists(VALUES, max_size=12), min_size=1, max_size=5), st.integers(-(2**40), 2**40))
def test_the_parts_of_an_event_are_what_protobuf_reads(events, step):
    splitter = EventSplitter()
    for values in [*events, *events]:
        body = Event(wall_time=3.5, step=step, summary=Summary(value=values)).SerializeToString()
        head = head_of(body)
        assert (head.step, head.time_s) == (step, 3.5)
        expected = [v for v in values if v.tag != "h"]  # a histogram of others has no layer
        found = [v for v in values_of(splitter.split(body, head)) if not v.tag.startswith("h/")]
        assert found == expected


def test_an_event_without_a_summary_has_no_parts():
    body = Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString()
    head = head_of(body)
    assert (head.step, head.time_s, head.begin, head.end) == (0, 1.0, 0, 0)
    assert list(EventSplitter().split(body, head)) == []


def test_a_row_seen_before_is_read_as_a_whole_and_a_changed_name_is_noticed():
    def numbers(name: str, scale: float) -> Numbers:
        values = [Summary.Value(tag=f"{name}{k}", simple_value=scale * k) for k in range(20)]
        body = Event(step=1, summary=Summary(value=values)).SerializeToString()
        (part,) = splitter.split(body, head_of(body))
        assert isinstance(part, Numbers)
        return part

    splitter = EventSplitter()
    first, second, other = numbers("a/", 1.0), numbers("a/", 2.0), numbers("b/", 2.0)
    assert second.layout is first.layout
    assert other.layout is not first.layout
    assert second.values.tolist() == [2.0 * k for k in range(20)]
    assert other.layout.names == [f"b/{k}" for k in range(20)]


@given(st.lists(st.integers(0, 2**40), min_size=NUM_BINS, max_size=NUM_BINS), st.integers(0, 200), st.integers(0, 256))
def test_a_recorded_histogram_equals_the_one_that_was_written(numbers, first, last):
    counts = np.array(numbers, np.int64)
    counts[first:last] = 0
    written = Histogram(counts)
    encoded = Histograms(["x"]).encode(np.concatenate([counts, 0 * counts])[None]).tobytes()
    body = Event(summary=Summary.FromString(encoded)).SerializeToString()
    (run,) = EventSplitter().split(body, head_of(body))
    assert isinstance(run, HistogramRun)
    ((_, message),) = run.messages()
    for found in (
        RecordedHistogram(message),
        RecordedHistogram(HistogramProto.FromString(message).SerializeToString()),
    ):
        assert found == written
        assert (found.size, found.num_zero, found.num_nonfinite) == (
            written.size,
            written.num_zero,
            written.num_nonfinite,
        )
        assert found.quantile(0.5) == written.quantile(0.5)
        assert found + written == written + written
        assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == written
        assert found != Histogram(counts + 1)
