"""telemetry export: every bit, in one order, however the frames came."""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from server_support import (
    LOSS,
    MS,
    OTHER_WRITER,
    START_NS,
    TASK,
    WRITER,
    Http,
    Row,
    batch_of,
    content_of,
    frame_of,
    rows_of,
    started,
)

from telemetry.cli import main
from telemetry.events import ConsoleLine, FrameEvent, Media, ModelSaved, Plot, RecordChange, SeriesKey, SingleValue
from telemetry.export import parquet as export_parquet
from telemetry.server.store import Store, export, reports
from telemetry.wire import Frame, encode

ODD_NAN = struct.unpack("<d", bytes.fromhex("010000000000f87f"))[0]
ODD_VALUES = [1.0, -0.0, float("nan"), ODD_NAN, float("inf"), float("-inf"), 5e-324, 0.1]
OTHER_TASK = "f" * 32
LOAD = SeriesKey("resource", "cpu", "load", "%")


def frames() -> list[Frame]:
    """Two writers of one task, whose frames overlap in time, and a task of another project."""
    found = []
    for number, writer in enumerate((WRITER, OTHER_WRITER)):
        for sequence in range(6):
            first = 100 * sequence
            loss = [(step, time, value + number) for step, time, value in rows_of([1.0] * 100, first=first)]
            lines = [ConsoleLine(START_NS, "stdout", f"writer {number} line {sequence}.{line}") for line in (2, 1, 3)]
            changes = [
                RecordChange(START_NS + sequence, "task", "project", "vision"),
                RecordChange(
                    START_NS + sequence, "parameters", f"p{sequence}", [1, float("nan"), b"bytes", {"a": None}]
                ),
            ]
            values = [SingleValue(START_NS + sequence, "best", float(sequence))]
            models = [ModelSaved(START_NS, f"m{sequence}", f"/m/{number}", "torch", None, 5)]
            # The same name from both writers: the later one counts.
            plots = [Plot(START_NS + number, "curves", "roc", sequence, json.dumps({"data": [number]}))]
            media = [
                Media(START_NS + sequence, "images", "a", number, f"http://h/{sequence}.png", "a.png", "image/png")
            ]
            events: list[FrameEvent] = [*lines, *changes, *values, *models, *plots, *media]
            points: dict[SeriesKey, Sequence[Row]] = {LOSS: loss, LOAD: rows_of([50.0], first=sequence)}
            found.append(frame_of(points, events, writer=writer, sequence=sequence))
    odd = {SeriesKey("scalar", "odd", "all"): rows_of(ODD_VALUES)}
    found.append(frame_of(odd, [RecordChange(START_NS, "task", "project", "speech")], task_id=OTHER_TASK, sequence=99))
    return found


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with started(tmp_path / "server") as server:
        Http(server.url).send(*frames())
        yield server.url


def exported(url: str, out: Path, *arguments: str) -> Path:
    assert main(["export", *(arguments or ["--all"]), "--out", str(out), "--url", url]) == 0
    return out


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_same_data_are_the_same_bytes_however_they_came(form: str, tmp_path: Path) -> None:
    found = []
    for seed in range(3):
        # given the same frames in another order, some of them twice
        shuffled = frames() + random.Random(seed).sample(frames(), 5)
        random.Random(seed).shuffle(shuffled)
        with started(tmp_path / f"server-{seed}") as server:
            for frame in shuffled:
                Http(server.url).post(frame)
            # when they are exported
            folder = tmp_path / f"out-{seed}"
            folder.mkdir()
            found.append(contents(exported(server.url, folder, "--all", "--format", form)))
    # then
    assert found[0] == found[1] == found[2]
    assert all(found[0].values())


def test_parquet_keeps_every_bit(url: str, tmp_path: Path) -> None:
    folder = exported(url, tmp_path / "out", OTHER_TASK, "--format", "parquet")

    table = pyarrow.parquet.read_table(folder / "points.parquet")
    assert table.column_names == [
        "task",
        "kind",
        "title",
        "series",
        "unit",
        "rank",
        "iteration",
        "time_unix_ns",
        "value",
    ]
    values = table["value"].to_numpy().tolist()
    assert struct.pack("<8d", *values) == struct.pack("<8d", *ODD_VALUES)
    assert table["iteration"].to_pylist() == list(range(8))
    assert table["time_unix_ns"].to_pylist() == [START_NS + step * MS for step in range(8)]
    assert set(table["task"].to_pylist()) == {OTHER_TASK}


def test_json_lines_name_what_json_cannot_hold(url: str, tmp_path: Path) -> None:
    path = exported(url, tmp_path / "out.jsonl", OTHER_TASK)

    points = [line for line in lines_of(path) if line["type"] == "point"]
    assert [point["value"] for point in points] == [1.0, 0.0, "NaN", "NaN", "Infinity", "-Infinity", 5e-324, 0.1]
    assert '"value":-0.0}' in path.read_text()
    assert [point.get("bits") for point in points] == [None] * 3 + ["7ff8000000000001"] + [None] * 4


def test_everything_of_a_task_is_there_in_order(url: str, tmp_path: Path) -> None:
    lines = lines_of(exported(url, tmp_path / "out.jsonl", "--project", "vision"))

    assert {line["task"] for line in lines} == {TASK}
    points = [line for line in lines if line["type"] == "point"]
    assert [point["iteration"] for point in points if point["kind"] == "scalar"] == sorted([*range(600), *range(600)])
    assert sum(point["kind"] == "resource" for point in points) == 12
    # lines of one instant: by writer, then as that writer wrote them
    console = [line["text"] for line in lines if line["type"] == "console"]
    assert console == [f"writer {number} line {n}.{line}" for number in (0, 1) for n in range(6) for line in (2, 1, 3)]
    assert sum(line["type"] == "model" for line in lines) == 12
    plots = [(line["iteration"], line["figure"], line["blob"]) for line in lines if line["type"] == "plot"]
    assert plots == [(n, '{"data": [1]}', "") for n in range(6)]
    media = [(line["iteration"], line["uri"]) for line in lines if line["type"] == "media"]
    assert media == [(0, "http://h/5.png"), (1, "http://h/5.png")]
    assert [line["value"] for line in lines if line["type"] == "value"] == [5.0]
    record = {(line["section"], line["key"]): line["value"] for line in lines if line["type"] == "record"}
    assert record["parameters", "p3"] == [1, "NaN", {"base64": "Ynl0ZXM="}, {"a": None}]
    assert record["task", "project"] == "vision"


def test_pages_are_put_together_again(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a long series with sealed chunks and a tail, and many short ones
    long = [
        frame_of({LOSS: rows_of([1.0] * 5000, first=5000 * n)}, sequence=10 + n, task_id="1" * 32) for n in range(5)
    ]
    short = {SeriesKey("scalar", "short", f"{n:03d}"): rows_of([float(n)]) for n in range(50)}
    text = [ConsoleLine(START_NS + n, "stdout", "x" * 50) for n in range(300)]
    Http(url).send(*long, frame_of(short, text, sequence=20, task_id="1" * 32))
    whole = exported(url, tmp_path / "whole.jsonl").read_bytes()
    # when the pages are small
    monkeypatch.setattr(export, "PAGE_POINTS", 6000)
    monkeypatch.setattr(export, "PAGE_SERIES", 7)
    monkeypatch.setattr(export, "PAGE_CHARS", 1000)
    monkeypatch.setattr(export, "_LINES_AT_ONCE", 15)
    monkeypatch.setattr(reports, "PAGE_BYTES", 20)
    monkeypatch.setattr(export_parquet, "PLOT_GROUP_CHARS", 30)
    # then
    assert exported(url, tmp_path / "pages.jsonl").read_bytes() == whole
    assert whole.count(b'"type":"point"') == 25_000 + 50 + 1200 + 12 + 8


def test_a_series_that_grows_meanwhile_has_no_point_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given pages of one chunk each
    monkeypatch.setattr(export, "PAGE_POINTS", 5000)
    store = Store(tmp_path)
    store.write([content_of({LOSS: rows_of([1.0] * 14_000)})])
    found: list[int] = []
    after: export.Cursor | None = None
    # when the tail of each page's time is sealed before the next page
    for sequence in range(1, 100):
        page = store.export_points(TASK, after)
        for run in page["runs"]:
            found += struct.unpack(f"<{len(run[5]) // 8}q", run[5])
        if page["next"] is None:
            break
        after = (page["next"][0], page["next"][1])
        if sequence < 6:
            store.write([content_of({LOSS: rows_of([1.0] * 3000, first=11_000 + 3000 * sequence)}, sequence=sequence)])
    store.close()
    # then
    assert found == list(range(len(found)))
    assert len(found) >= 14_000


def test_a_task_that_is_not_there_is_named_and_the_others_are_written(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "0" * 32
    out = tmp_path / "out.jsonl"

    assert main(["export", missing, OTHER_TASK, "--out", str(out), "--url", url]) == 1

    assert f"not exported: {missing}" in capsys.readouterr().err
    assert {line["task"] for line in lines_of(out)} == {OTHER_TASK}


@pytest.mark.parametrize("arguments", [[], ["--all", "--project", "a"], [TASK, "--all"]])
def test_which_tasks_must_be_said_once(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments, "--out", str(tmp_path / "out.jsonl")])
    assert ended.value.code == 2


def test_a_server_that_is_gone_leaves_no_half_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    (tmp_path / "out").mkdir()

    assert main(["export", TASK, "--out", str(tmp_path / "out"), "--url", nobody]) == 1
    assert main(["export", TASK, "--out", str(tmp_path / "out"), "--url", nobody, "--format", "parquet"]) == 1

    assert "no answer" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_project_is_said(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--project", "nothing", "--out", str(tmp_path / "out.jsonl"), "--url", url]) == 1
    assert "no task to export in project nothing" in capsys.readouterr().err


def test_without_pyarrow_the_command_that_installs_it_is_said(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None in sys.modules is a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert main(["export", "--all", "--format", "parquet", "--out", str(tmp_path / "out"), "--url", url]) == 78

    assert "pip install 'telemetry-tasks[export]'" in capsys.readouterr().err


def test_parquet_wants_a_folder(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "points.parquet")
    assert main(["export", "--all", "--format", "parquet", "--out", out, "--url", url]) == 78
    assert "give --out a folder" in capsys.readouterr().err


@pytest.mark.parametrize("after", ["1", "a,b", "1,2,3", "-1,2", "1," + "9" * 30])
def test_a_cursor_that_is_none_is_refused(url: str, after: str) -> None:
    assert Http(url).api(f"/tasks/{TASK}/export/points", after=after).status == 400


def test_a_cursor_of_another_task_is_not_found(url: str) -> None:
    assert Http(url).api(f"/tasks/{TASK}/export/points", after="12345,0").status == 404


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_series_of_each_rank_are_apart(form: str, tmp_path: Path) -> None:
    with started(tmp_path / "store") as server:
        for rank in (1, 0):
            batch = batch_of({LOSS: rows_of([float(rank)] * 2)})
            batch.rank = rank
            Http(server.url).send(encode(batch, writer_id=b"writer number %02d" % rank, sequence=0))
        out = exported(server.url, tmp_path / "out", "--all", "--format", form)
    if form == "parquet":
        table = pyarrow.parquet.read_table(out / "points.parquet").to_pydict()
        found = list(zip(table["rank"], table["value"], strict=True))
    else:
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        found = [(line["rank"], line["value"]) for line in lines if line["type"] == "point"]
    assert found == [(0, 0.0), (0, 0.0), (1, 1.0), (1, 1.0)]


def test_a_server_with_a_token_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(tmp_path / "server", token="a-good-token") as server:
        Http(server.url, {"Authorization": "Bearer a-good-token"}).send(*frames())
        out = tmp_path / "out.jsonl"

        assert main(["export", "--all", "--out", str(out), "--url", server.url]) == 1
        assert "401" in capsys.readouterr().err
        assert not out.exists()

        monkeypatch.setenv("TELEMETRY_TOKEN", "a-good-token")
        assert main(["export", "--all", "--out", str(out), "--url", server.url]) == 0
        assert len(lines_of(out)) > 1000
