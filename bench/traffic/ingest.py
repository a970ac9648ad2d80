"""A shape into a server of its own: what that costs, and what is on the disk when all of it is sealed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from harness import Metrics
from servers import folder_bytes, server, stored_points, until_idle

from traffic.frames import Shape, flushes, task_id_of
from traffic.writers import post_all

__all__ = ["ingest"]


def ingest(shape: Shape, directory: Path, *, narrow: bool = False) -> Metrics:
    """Send the shape as fast as it is answered, a connection a run, and wait until the server has nothing to do.

    Returns:
        cpu_us: server CPU a point, sealing and merging included; acked_cpu_us: until the last answer.
        bytes_per_point, frame_bytes_per_point: of the server's folder after it has stopped, and of what was sent.
    """
    streams = [list(flushes(shape, run, narrow=narrow)) for run in range(shape.runs)]
    frames = sum(map(len, streams))
    frame_bytes = sum(len(flush.data) for stream in streams for flush in stream)
    with server(directory) as running:
        cpu_begin_s, begin_s = running.cpu_s(), time.perf_counter()
        sent = asyncio.run(post_all(running.url, streams))
        seconds = time.perf_counter() - begin_s
        acked_cpu_s = running.cpu_s() - cpu_begin_s
        idle_s = until_idle(running)
        cpu_s = running.cpu_s() - cpu_begin_s
        stored = stored_points(running.url, [task_id_of(run) for run in range(shape.runs)])
        peak_mb = running.peak_rss_mb()
        running.stop()
    return {
        "points": shape.points,
        "points_per_frame": shape.points / frames,
        "rate": shape.points / seconds,
        "cpu_us": cpu_s / shape.points * 1e6,
        "acked_cpu_us": acked_cpu_s / shape.points * 1e6,
        "idle_after_s": idle_s,
        "bytes_per_point": folder_bytes(directory) / shape.points,
        "frame_bytes_per_point": frame_bytes / shape.points,
        "peak_mb": peak_mb,
        "refused": sent.refused,
        "lost": shape.points - stored,
    }
