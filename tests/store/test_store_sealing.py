"""What a store does with a long log: it is sealed piece by piece, in bounded memory, and all of it is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_support import LOSS, content_of, rows_of

from telemetry.server.store import PointsQuery, SealingLimits, Store
from telemetry.server.store import point_store as point_store_module
from telemetry.server.store.memtable import Memtable


def test_a_log_that_is_longer_than_memory_holds_is_sealed_piece_by_piece_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given 20 tasks with 1,000 points each, and no point of them sealed
    tasks = [f"{number:032x}" for number in range(20)]
    store = Store(tmp_path)
    for number, task_id in enumerate(tasks):
        for sequence in range(10):
            rows = rows_of([float(sequence)] * 100, first=100 * sequence)
            writer = number.to_bytes(16, "big")
            store.write([content_of({LOSS: rows}, task_id=task_id, writer=writer, sequence=sequence)])
    store.close()
    # when a store that is to hold 3,000 in memory, and reads 300 at once, begins to keep it small
    held: list[int] = []
    count = Memtable.count

    def counted(memtable: Memtable, points: int) -> None:
        count(memtable, points)
        held.append(memtable.points)

    monkeypatch.setattr(Memtable, "count", counted)
    monkeypatch.setattr(point_store_module, "_LOAD_POINTS", 300)
    store = Store(tmp_path, sealing=SealingLimits(max_points=3000))
    store.point_store.keep()
    # then it never held much more
    assert 3000 < max(held) <= 3600
    # and nothing is missing
    for task_id in tasks:
        ((_, answer),) = store.points(task_id, [1], PointsQuery(False, None, None, 2000))
        assert answer.x.tolist() == list(range(1000))
    store.close()
