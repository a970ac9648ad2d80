"""The frame: golden files hold it still; any batch survives it; no damage passes, and none spreads."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from array import array
from typing import Any

import golden_frames
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.errors import FrameError, FrameTruncated, InvalidEvent
from telemetry.events import (
    INT64_MAX,
    INT64_MIN,
    MAX_FIGURE_BYTES,
    MAX_URI_CHARS,
    MAX_VALUE_DEPTH,
    Batch,
    ConsoleLine,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ScalarColumns,
    SeriesKey,
    SingleValue,
    clean_text,
)
from telemetry.payload import SeriesTables
from telemetry.wire import HEADER_BYTES, MAGIC, MAX_PAYLOAD_BYTES, Damage, Frame, decode, encode, parse_frame, scan

TASK = "a" * 32
WRITER = bytes(range(16))


def frame_of(*events: Any, sequence: int = 0, level: int = 1) -> Frame:
    return encode(Batch(TASK, ScalarColumns(), events, len(events)), writer_id=WRITER, sequence=sequence, level=level)


def raw_frame(payload: bytes, *, flags: int = 0, unpacked: int | None = None, version: int = 1) -> bytes:
    """Return a frame with a true checksum around any payload: what an attacker or a foreign writer may send."""
    size = len(payload) if unpacked is None else unpacked
    head = struct.pack("<8sBBHIIIQ16s", MAGIC, version, flags, 0, len(payload), size, 1, 0, WRITER)
    return head + zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "little") + payload


def document(**changes: Any) -> dict[str, Any]:
    return {"task": TASK, "series": [], "columns": [b"", b"", b"", b""], "events": [], **changes}


def decode_document(value: Any) -> Batch:
    return decode(parse_frame(raw_frame(msgpack.packb(value))))


# ---- golden files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_frames.BATCHES)
def test_golden_frame_is_still_what_the_encoder_writes(name: str) -> None:
    # Given a frame that was written when the version was made
    stored = (golden_frames.GOLDEN / f"{name}.frame").read_bytes()
    # When the same batch is encoded today
    made = golden_frames.make(name).data
    # Then the bytes are the same; deflated ones may differ between zlib's versions, what they inflate to may not
    if golden_frames.BATCHES[name][2]:
        assert made[:12] == stored[:12]
        stored, made = (zlib.decompress(data[HEADER_BYTES:]) for data in (stored, made))
    assert made == stored


@pytest.mark.parametrize("name", golden_frames.BATCHES)
def test_golden_frame_decodes_to_the_batch_behind_it(name: str) -> None:
    batch, sequence, _ = golden_frames.BATCHES[name]
    frame = parse_frame((golden_frames.GOLDEN / f"{name}.frame").read_bytes())
    assert (frame.writer_id, frame.sequence, frame.events) == (golden_frames.WRITER, sequence, batch.events_logged)
    assert same(decode(frame), batch)


def test_every_frame_in_the_golden_folder_is_checked() -> None:
    names = {path.stem for path in golden_frames.GOLDEN.iterdir() if path.is_file()}
    assert names == set(golden_frames.BATCHES)
    assert all(json.loads((golden_frames.GOLDEN / f"{name}.json").read_text("utf-8")) is not None for name in names)


# ---- round trip ----------------------------------------------------------------------------------------


def same(left: Batch, right: Batch) -> bool:
    """Equal to the bit: NaN equals NaN only with the same payload."""
    ours, theirs = left.columns, right.columns
    return (
        (left.task_id, left.events_logged, list(left.events))
        == (right.task_id, right.events_logged, list(right.events))
        and (ours.series, ours.series_index) == (theirs.series, theirs.series_index)
        and (ours.iterations, ours.times_unix_ns) == (theirs.iterations, theirs.times_unix_ns)
        and ours.values.tobytes() == theirs.values.tobytes()
    )


int64 = st.integers(INT64_MIN, INT64_MAX)
texts = st.text(max_size=20)
float_bits = st.binary(min_size=8, max_size=8)  # every float64, each NaN included
leaves = st.none() | st.booleans() | int64 | st.floats(allow_nan=False) | texts | st.binary(max_size=20)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
frame_events = st.one_of(
    st.builds(ConsoleLine, int64, texts, st.text(max_size=200), st.none() | st.integers(0, 50)),
    st.builds(ModelSaved, int64, texts, texts, texts, st.none() | int64, st.none() | st.integers(0, INT64_MAX)),
    st.builds(SingleValue, int64, texts, st.floats(allow_nan=False)),
    st.builds(RecordChange, int64, texts, texts, values),
    st.builds(Plot, int64, texts, texts, int64, st.text(min_size=1, max_size=200)),
    st.builds(Plot, int64, texts, texts, int64, st.just(""), st.text("0123456789abcdef", min_size=64, max_size=64)),
    st.builds(Media, int64, texts, texts, int64, texts, texts, texts, st.none() | st.integers(0, INT64_MAX)),
)
series_keys = st.builds(SeriesKey, st.sampled_from(["scalar", "resource"]), texts, st.text(max_size=1000), texts)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    series = draw(st.lists(series_keys, max_size=4))
    count = draw(st.integers(0, 20)) if series else 0
    columns = ScalarColumns(series)
    for _ in range(count):
        columns.series_index.append(draw(st.integers(0, len(series) - 1)))
        columns.iterations.append(draw(int64))
        columns.times_unix_ns.append(draw(int64))
        columns.values.frombytes(draw(float_bits))
    events = draw(st.lists(frame_events, max_size=4))
    return Batch(draw(st.text("0123456789abcdef", min_size=32, max_size=32)), columns, events, count + len(events))


def cleaned(value: Any) -> Any:
    """The one change that a batch may meet on its way: lone surrogates are escaped."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    return value


@given(batches(), st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16), st.sampled_from([0, 1, 9]))
def test_any_batch_comes_back_to_the_bit(batch: Batch, sequence: int, writer: bytes, level: int) -> None:
    frame = encode(batch, writer_id=writer, sequence=sequence, level=level)
    parsed = parse_frame(frame.data)
    assert parsed == frame
    back = decode(parsed)
    for event in batch.events:
        for name in event.__slots__:
            object.__setattr__(event, name, cleaned(getattr(event, name)))
    batch.columns.series[:] = [
        SeriesKey(*map(cleaned, (k.kind, k.title, k.series, k.unit))) for k in batch.columns.series
    ]
    assert same(back, batch)


@pytest.mark.parametrize("text", ["a\ud800b", "\udcff/path", "\ud83d\ude00 as two surrogates"])
def test_lone_surrogates_are_escaped_wherever_they_stand(text: str) -> None:
    # Given text that UTF-8 cannot carry, as file names from an old disk are
    events = (
        ConsoleLine(1, "stdout", text),
        ModelSaved(1, text, text, "x"),
        RecordChange(1, "parameters", text, {text: [text]}),
    )
    columns = ScalarColumns([SeriesKey("scalar", text, text)], array("I", [0]), array("q", [1]), array("q", [1]))
    columns.values.append(1.0)
    # When it travels
    back = decode(encode(Batch(TASK, columns, events, 4), writer_id=WRITER, sequence=0))
    # Then nothing was dropped, and the escapes say what was there
    line, model, change = back.events
    escaped = clean_text(text)
    assert line == ConsoleLine(1, "stdout", escaped)
    assert model == ModelSaved(1, escaped, escaped, "x")
    assert change == RecordChange(1, "parameters", escaped, {escaped: [escaped]})
    assert back.columns.series == [SeriesKey("scalar", escaped, escaped)]


@pytest.mark.parametrize(
    "event",
    [
        ConsoleLine("noon", "stdout", "text"),  # type: ignore[arg-type]
        ConsoleLine(1, "stdout", None),  # type: ignore[arg-type]
        ConsoleLine(2**63, "stdout", "text"),
        ConsoleLine(True, "stdout", "text"),
        SingleValue(1, "accuracy", "high"),  # type: ignore[arg-type]
        RecordChange(1, "parameters", "key", {1: "number as key"}),
        RecordChange(1, "parameters", "key", [{"a": {1, 2}}]),
        RecordChange(1, "parameters", "key", object()),
        Plot(1, "t", "s", 0, ""),
        Plot(1, "t", "s", 0, "{}", "a" * 64),
        Plot(1, "t", "s", 0, "", "A" * 64),
        Plot(1, "t", "s", True, "{}"),
        Plot(1, "t", "s", 0, "x" * (MAX_FIGURE_BYTES + 1)),
        Plot(1, "t", "s", 0, "é" * (MAX_FIGURE_BYTES // 2 + 1)),
        Media(1, "t", "s", 0, "u" * (MAX_URI_CHARS + 1), "", ""),
        Media(1, "t", "s", 0, "u", "", "", 1.5),  # type: ignore[arg-type]
        "no event at all",
    ],
)
def test_what_a_reader_would_refuse_is_not_written(event: Any) -> None:
    with pytest.raises(InvalidEvent):
        frame_of(event)


def test_a_record_value_may_be_nested_as_deep_as_the_limit_and_no_deeper() -> None:
    deep: Any = 1
    for _ in range(MAX_VALUE_DEPTH):
        deep = [deep]
    assert decode(frame_of(RecordChange(1, "s", "k", deep))).events[0] == RecordChange(1, "s", "k", deep)
    endless: list[Any] = []
    endless.append(endless)
    for value in ([deep], endless):
        with pytest.raises(InvalidEvent, match="nested"):
            frame_of(RecordChange(1, "s", "k", value))


def test_a_payload_over_the_limit_is_refused_at_the_source() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        frame_of(ConsoleLine(1, "stdout", "x" * (MAX_PAYLOAD_BYTES + 1)))


# ---- damage --------------------------------------------------------------------------------------------


def stream() -> tuple[bytes, list[Frame]]:
    frames = [frame_of(ConsoleLine(1, "stdout", text), sequence=index) for index, text in enumerate("abc")]
    return b"".join(frame.data for frame in frames), frames


def test_every_flipped_byte_costs_at_most_its_own_frame() -> None:
    # Given three frames one after another
    data, frames = stream()
    ends = [sum(len(frame) for frame in frames[: count + 1]) for count in range(3)]
    for position in range(len(data)):
        # When any byte of them is any other (three ways, so that each field is hit)
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[position] ^= flip
            hit = next(index for index, end in enumerate(ends) if position < end)
            # Then the other two are found, and the reader says where it skipped
            found = [item for _, item in scan(bytes(broken))]
            assert [item for item in found if isinstance(item, Frame)] == frames[:hit] + frames[hit + 1 :]
            damage = [item for item in found if isinstance(item, Damage)]
            start = ends[hit] - len(frames[hit])
            assert damage and damage[0].offset == start
            assert damage[-1].offset + damage[-1].length == ends[hit]


def test_every_truncation_keeps_the_frames_before_it() -> None:
    data, frames = stream()
    ends = [sum(len(frame) for frame in frames[: count + 1]) for count in range(3)]
    for length in range(len(data)):
        found = [item for _, item in scan(data[:length])]
        whole = [frame for frame, end in zip(frames, ends, strict=True) if end <= length]
        assert found[: len(whole)] == whole
        cut = length - (ends[len(whole) - 1] if whole else 0)
        damage = found[len(whole) :]
        assert len(damage) == (1 if cut else 0)
        if cut:
            assert isinstance(damage[0], Damage)
            assert damage[0].length == cut


def test_a_cut_frame_says_how_much_is_missing() -> None:
    data = frame_of(ConsoleLine(1, "stdout", "text")).data
    for length in range(len(data)):
        with pytest.raises(FrameTruncated) as caught:
            parse_frame(data[:length])
        wanted = HEADER_BYTES if length < HEADER_BYTES else len(data)
        assert caught.value.missing_bytes == wanted - length


def test_frames_lying_in_foreign_bytes_are_found() -> None:
    data, frames = stream()
    noise = bytes(range(256)) + MAGIC + b"no frame behind this magic"
    found = [item for _, item in scan(memoryview(noise + data[: len(frames[0])] + noise + frames[1].data))]
    assert [item for item in found if isinstance(item, Frame)] == frames[:2]


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: MAGIC + b"\x01\x00\x00\x00" + tail))
def test_random_bytes_raise_nothing_but_frame_error(data: bytes) -> None:
    assert sum(item.length if isinstance(item, Damage) else len(item) for _, item in scan(data)) == len(data)
    try:
        decode(parse_frame(data))
    except FrameError:
        pass  # the one error that is allowed


@settings(max_examples=300)
@given(st.data())
def test_mutated_payloads_with_true_checksums_raise_nothing_but_frame_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["scalars", "events", "nan"]))
    payload = bytearray(golden_frames.make(name).data[HEADER_BYTES:])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(payload) - 1))
        payload[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    frame = parse_frame(raw_frame(bytes(payload)))
    try:
        batch = decode(frame)
    except FrameError:
        return
    # What is accepted after all keeps to the specification, so it can be encoded again.
    assert same(decode(encode(batch, writer_id=WRITER, sequence=0)), batch)


# ---- payloads that lie ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "text",
        {},
        document(task=b"a" * 32),
        document(task="A" * 32),
        document(task="a" * 31),
        document(series=None),
        document(series={"abcd": 1}),
        document(series=["abcd"]),
        document(series=[["scalar", "a", "b"]]),
        document(series=[["scalar", "a", "b", None]]),
        document(series=[["histogram", "a", "b", ""]]),
        document(columns=[b"", b"", b""]),
        document(columns=["", "", "", ""]),
        document(columns=[b"\0" * 4, b"\0" * 8, b"\0" * 8, b"\0" * 8]),  # names series 0 of none
        document(columns=[b"", b"\0" * 8, b"", b""]),
        document(columns=[b"\0" * 3, b"", b"", b""]),
        document(events={}),
        document(events=["console"]),
        document(events=[{"console": 1}]),
        document(events=[[]]),
        document(events=[["unheard of", 1]]),
        document(events=[["console", 1, "stdout"]]),
        document(events=[["console", 1, "stdout", "text", None, "one more"]]),
        document(events=[["console", 1.5, "stdout", "text", None]]),
        document(events=[["console", True, "stdout", "text", None]]),
        document(events=[["console", 2**64 - 1, "stdout", "text", None]]),
        document(events=[["value", 1, "name", 1]]),
        document(events=[["model", 1, "a", "b", "c", 2**63, None]]),
        document(events=[["record", 1, "s", "k", msgpack.ExtType(5, b"x")]]),
        document(events=[["plot", 1, "t", "s", 0, "", ""]]),
        document(events=[["plot", 1, "t", "s", 0, "{}", "", 1]]),
        document(events=[["plot", 1, "t", "s", None, "{}", ""]]),
        document(events=[["media", 1, "t", "s", 0, "u", None, "", 1]]),
        document(events=[["record", 1, "s", "k", msgpack.Timestamp(1)]]),
        document(events=[["record", 1, "s", "k", {b"bytes": 1}]]),
    ],
)
def test_a_payload_of_another_shape_is_refused(broken: Any) -> None:
    with pytest.raises(FrameError):
        decode_document(broken)


def test_deep_nesting_is_refused_without_harm() -> None:
    prefix = msgpack.packb(document())[: -len(msgpack.packb("events")) - 1]
    for depth in (MAX_VALUE_DEPTH + 1, 600, 100_000):
        nested = b"\x91" * depth + b"\xc0"
        event = b"\x91\x95" + b"".join(map(msgpack.packb, ("record", 1, "s", "k"))) + nested
        with pytest.raises(FrameError):
            decode(parse_frame(raw_frame(prefix + msgpack.packb("events") + event)))


@pytest.mark.parametrize("claimed", [0, 1, 1000, 1_000_000])
def test_a_bomb_is_not_unpacked_beyond_what_it_claims(claimed: int) -> None:
    # Given 32 MiB of zeros behind a header that claims less
    bomb = parse_frame(raw_frame(zlib.compress(bytes(32 * 1024 * 1024)), flags=1, unpacked=claimed))
    # When it is decoded
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            decode(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Then no more was unpacked than it promised
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize(
    "payload", [b"", b"no zlib at all", zlib.compress(b"\xc0") + b"more", zlib.compress(bytes(1000))[:-5]]
)
def test_a_payload_that_does_not_inflate_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decode(parse_frame(raw_frame(payload, flags=1, unpacked=1000)))


def test_headers_of_another_version_or_size_are_refused() -> None:
    good = msgpack.packb(document())
    for data in (
        raw_frame(good, version=2),
        raw_frame(good, flags=2),
        raw_frame(good, unpacked=MAX_PAYLOAD_BYTES + 1),
        b"\0" * 100,
        b"not a frame",
    ):
        with pytest.raises(FrameError):
            parse_frame(data)
    with pytest.raises(FrameError, match="its header says"):
        decode(parse_frame(raw_frame(good, unpacked=len(good) + 1)))


def points_of(*keys: SeriesKey) -> Frame:
    """Return a frame with one point in each of these series."""
    count = len(keys)
    columns = ScalarColumns(
        list(keys),
        array("I", range(count)),
        array("q", range(count)),
        array("q", [1] * count),
        array("d", [0.5] * count),
    )
    return encode(Batch(TASK, columns, [], count), writer_id=WRITER, sequence=0)


def test_a_series_table_that_was_seen_is_decoded_once_and_shared() -> None:
    tables = SeriesTables(1_000_000)
    key, other = SeriesKey("scalar", "train", "loss"), SeriesKey("scalar", "train", "accuracy", "%")
    # when two frames name the same series, and one others
    first, again = (decode(points_of(key, other), tables) for _ in range(2))
    turned = decode(points_of(other, key), tables)
    # then the same are one list, and all is as without it
    assert first.columns.series is again.columns.series
    assert turned.columns.series == [other, key]
    assert again == decode(points_of(key, other))


def test_series_tables_are_kept_within_their_bound_those_used_last_the_longest() -> None:
    frames = [points_of(*(SeriesKey("scalar", f"title {k}", str(n)) for n in range(20))) for k in range(20)]
    tables = SeriesTables(100_000)
    kept = decode(frames[0], tables).columns.series
    # when one is used again and again between more than there is room for
    for frame in frames[1:]:
        decode(frame, tables)
        assert decode(frames[0], tables).columns.series is kept
    # then it has stayed, and the latest of the others, but not the earliest
    latest, earliest = (decode(frames[k], tables).columns.series for k in (-1, 1))
    assert decode(frames[-1], tables).columns.series is latest
    assert decode(frames[1]).columns.series == earliest
    # and one that would drive out all others is not kept: a name may be as long as a payload
    long = points_of(SeriesKey("scalar", "t" * 50_000, "s"))
    assert decode(long, tables).columns.series is not decode(long, tables).columns.series
    assert decode(frames[0], tables).columns.series is kept


def test_a_series_table_that_is_refused_is_refused_again() -> None:
    tables = SeriesTables(1_000_000)
    frame = parse_frame(raw_frame(msgpack.packb(document(series=[["plot", "a", "b", ""]]))))
    for _ in range(2):
        with pytest.raises(FrameError, match="unknown series kind 'plot'"):
            decode(frame, tables)


@pytest.mark.parametrize("series", [0, 1, 20, 256, 257, 1000])
@pytest.mark.parametrize("above", [0, 1, 255, 256, 65_536, 2**24])
def test_a_scalar_names_a_series_that_there_is(series: int, above: int) -> None:
    keys = [["scalar", "t", str(n), ""] for n in range(series)]

    def planes(*index: int) -> list[bytes]:
        packed = b"".join(number.to_bytes(4, "little") for number in index)
        return [b"".join(packed[byte::4] for byte in range(4)), *[bytes(8 * len(index))] * 3]

    # given the last series that there is, when one is named beyond it
    assert len(decode_document(document(series=keys, columns=planes(*range(series)))).columns) == series
    with pytest.raises(FrameError, match=f"a scalar names series {series + above} of {series}"):
        decode_document(document(series=keys, columns=planes(*range(series), series + above)))
