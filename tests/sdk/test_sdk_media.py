"""The Logger's images and media: what becomes of pixels, files and streams, and what is refused."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports_support import Kept, pixels_of

from telemetry.events import Media
from telemetry.sdk.reports.images import png_of
from telemetry.sdk.reports.logger import Logger
from telemetry.sdk.task.task import Task

RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


class Tensor:
    """As much of a torch tensor as the encoder asks for."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = "torch.uint8"

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> Any:
        return self.array


@pytest.mark.parametrize(
    ("image", "size", "pixels"),
    [
        (RGB, (4, 2, 3), RGB.tobytes()),
        (RGB[:, :, 0], (4, 2, 1), RGB[:, :, 0].tobytes()),
        (RGB[:, :, :1], (4, 2, 1), RGB[:, :, 0].tobytes()),
        (RGB[:, :, :2], (4, 2, 2), RGB[:, :, :2].tobytes()),
        (RGB.reshape(2, 3, 4), (3, 2, 4), RGB.tobytes()),
        (RGB[np.newaxis], (4, 2, 3), RGB.tobytes()),
        (RGB[:, ::-1], (4, 2, 3), RGB[:, ::-1].tobytes()),
        (RGB.astype(np.int64) * 100 - 50, (4, 2, 3), bytes(max(0, min(255, v * 100 - 50)) for v in range(24))),
        (RGB / 255.0, (4, 2, 3), RGB.tobytes()),
        (RGB.astype(np.float32), (4, 2, 3), RGB.tobytes()),
        (np.array([[0.0, math.nan], [1.0, -5.0]]), (2, 2, 1), bytes([0, 0, 255, 0])),
        (np.array([[True, False]]), (2, 1, 1), bytes([255, 0])),
        # channels first: of a tensor always, of an array where nothing else fits
        (Tensor(RGB.transpose(2, 0, 1)), (4, 2, 3), RGB.tobytes()),
        (Tensor(np.zeros((3, 5, 4), np.uint8)), (4, 5, 3), bytes(60)),
        (np.zeros((3, 5, 7), np.uint8), (7, 5, 3), bytes(105)),
        (RGB.tolist(), (4, 2, 3), RGB.tobytes()),
        ([[0.0, 1.0], [0.5, 2**-10]], (2, 2, 1), bytes([0, 255, 128, 0])),
        ([[300, -1]], (2, 1, 1), bytes([255, 0])),
    ],
)
def test_pixels_become_a_png(image: Any, size: tuple[int, int, int], pixels: bytes) -> None:
    *found, data = pixels_of(png_of(image))
    assert tuple(found) == size
    assert data == pixels


def test_pil_images_are_taken_and_read_what_we_write() -> None:
    image_module = pytest.importorskip("PIL.Image")
    for mode in ("RGB", "RGBA", "L", "P", "CMYK", "1"):
        image = image_module.new(mode, (4, 2))
        assert image_module.open(io.BytesIO(png_of(image))).size == (4, 2)
    ours = image_module.open(io.BytesIO(png_of(RGB)))
    assert ours.mode == "RGB"
    assert np.array_equal(np.asarray(ours), RGB)


@pytest.fixture
def kept() -> Kept:
    return Kept()


REFUSED: dict[str, Callable[[Logger, Path], None]] = {
    "nothing": lambda logger, folder: logger.report_image("t", "s", 1),
    "two": lambda logger, folder: logger.report_image("t", "s", 1, image=RGB, url="http://h/a.png"),
    "no such file": lambda logger, folder: logger.report_image("t", "s", 1, local_path=folder / "a.png"),
    "a folder": lambda logger, folder: logger.report_image("t", "s", 1, local_path=folder),
    "one dimension": lambda logger, folder: logger.report_image("t", "s", 1, image=np.zeros(3)),
    "five channels": lambda logger, folder: logger.report_image("t", "s", 1, image=np.zeros((5, 5, 5))),
    "empty": lambda logger, folder: logger.report_image("t", "s", 1, image=np.zeros((0, 5))),
    "texts": lambda logger, folder: logger.report_image("t", "s", 1, image=np.array([["a"]])),
    "words": lambda logger, folder: logger.report_image("t", "s", 1, image=[["a"]]),
    "ragged": lambda logger, folder: logger.report_image("t", "s", 1, image=[[1, 2], [3]]),
    "an object": lambda logger, folder: logger.report_image("t", "s", 1, image=object()),
    "iteration": lambda logger, folder: logger.report_image("t", "s", "one", url="http://h/a"),  # type: ignore[arg-type]
    "closed": lambda logger, folder: logger.report_media("t", "s", 1, stream=closed()),
    "number stream": lambda logger, folder: logger.report_media("t", "s", 1, stream=5),
    "no media": lambda logger, folder: logger.report_media("t", "s", 1),
    # a task that another program runs
    "no uploads": lambda logger, folder: logger.report_image("t", "s", 1, image=RGB),
}


def closed() -> io.BytesIO:
    stream = io.BytesIO(b"x")
    stream.close()
    return stream


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_counted_with_its_reason_and_never_raises(name: str, kept: Kept, tmp_path: Path) -> None:
    REFUSED[name](Logger(kept), tmp_path)
    assert kept.events == []
    (reason,) = kept.refused
    assert reason.startswith("report_")


def test_an_address_is_kept_as_it_is(kept: Kept) -> None:
    logger = Logger(kept)
    logger.report_image("t", "s", 3, url="s3://bucket/a%20b.png?x=1")
    logger.report_image("t", "s", 4, image="https://host/c.jpg")
    logger.report_media("t", "s", 5, url="https://host/film.mp4")
    assert [(event.iteration, event.uri, event.filename, event.content_type) for event in media_of(kept)] == [
        (3, "s3://bucket/a%20b.png?x=1", "a b.png", "image/png"),
        (4, "https://host/c.jpg", "c.jpg", "image/jpeg"),
        (5, "https://host/film.mp4", "film.mp4", "video/mp4"),
    ]


def media_of(kept: Kept) -> list[Media]:
    assert kept.refused == []
    return [event for event in kept.events if isinstance(event, Media)]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    begun = Task.init("examples", "media", auto_connect_streams=False, auto_resource_monitoring=False)
    yield begun
    begun.close()


def test_bytes_of_media_lie_beside_the_events(task: Task, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text of a file")
    logger = task.get_logger()
    # when images, a file and streams are reported
    logger.report_image("images", "rgb", 1, image=RGB)
    logger.report_media("files", "a", 2, local_path=tmp_path / "a.txt", delete_after_upload=True)
    logger.report_media("streams", "text", 3, stream=io.StringIO("text of a stream"))
    logger.report_media("streams", "sound", 3, stream=io.BytesIO(b"RIFF"), file_extension="wav")
    # then each has its name, its type, and its bytes under their sha256
    task.close()
    found = [*task.get_debug_samples("images", "rgb"), *task.get_debug_samples("files", "a")]
    found += [*task.get_debug_samples("streams", "text"), *task.get_debug_samples("streams", "sound")]
    assert [(item["iter"], item["filename"], item["content_type"], item["state"]) for item in found] == [
        (1, "1.png", "image/png", "stored"),
        (2, "a.txt", "text/plain", "stored"),
        (3, "3.txt", "text/plain", "stored"),
        (3, "3.wav", found[3]["content_type"], "stored"),
    ]
    expected = [png_of(RGB), b"text of a file", b"text of a stream", b"RIFF"]
    assert [item["url"] for item in found] == [f"blob:{hashlib.sha256(data).hexdigest()}" for data in expected]
    assert [item["size_bytes"] for item in found] == list(map(len, expected))
    assert not (tmp_path / "a.txt").exists()


def test_the_same_place_again_replaces_the_image(task: Task) -> None:
    for value in (1, 2):
        task.get_logger().report_image("images", "a", 5, image=np.full((2, 2), value, np.uint8))
    task.close()
    (sample,) = task.get_debug_samples("images", "a")
    expected = png_of(np.full((2, 2), 2, np.uint8))
    assert sample["url"] == f"blob:{hashlib.sha256(expected).hexdigest()}"


def test_flush_waits_for_the_bytes_and_the_rest_is_accepted(task: Task) -> None:
    logger = task.get_logger()
    logger.report_scalar("a", "b", 1.0, 1)
    assert logger.flush()
    assert logger.flush(wait=True)
    assert task.ledger().in_memory == 0
    logger.set_flush_period(10.0)
    logger.set_default_upload_destination("s3://bucket/folder")
    assert logger.get_default_upload_destination() == "s3://bucket/folder"
