"""ScalarReports: whatever is reported is kept exactly or refused with a reason, and no report call raises."""

from __future__ import annotations

import math
import weakref
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from telemetry.collectors.scalars import ScalarReports

from telemetry.errors import EventsDropped
from telemetry.testing import ListEmit, MemorySink, run_pipeline


def test_reported_points_arrive_in_order_and_exactly() -> None:
    sink = MemorySink()
    with run_pipeline([sink]) as pipeline:
        scalars = ScalarReports(pipeline.emit)
        for step in range(5):
            scalars.report_scalar("loss", "train", 1 / (step + 1), step)
            scalars.report_scalar("loss", "test", np.float32(0.1), np.int64(step))  # type: ignore[arg-type]
        scalars.report_scalar("loss", "train", math.inf, -(2**63))
        scalars.report_scalar("loss", "train", Decimal("0.5"), 3.0)  # type: ignore[arg-type]
    found = sink.scalars()
    expected = [(step, 1 / (step + 1)) for step in range(5)] + [(-(2**63), math.inf), (3, 0.5)]
    assert found["loss", "train"] == expected
    assert found["loss", "test"] == [(step, float(np.float32(0.1))) for step in range(5)]


@pytest.mark.parametrize("bad", [None, "high", 1 + 2j, [1.0], np.ones(3), object(), 2**2000])
def test_a_bad_value_is_counted_with_its_series_named(bad: Any) -> None:
    emit = ListEmit()
    ScalarReports(emit).report_scalar("loss", "train", bad, 1)
    assert emit.rows == []
    [(reason, message)] = emit.refused
    assert reason == "invalid"
    assert message.startswith("loss/train: ")


@pytest.mark.parametrize("bad", [None, "3", 2.5, math.nan])
def test_a_bad_iteration_is_counted_at_once(bad: Any) -> None:
    emit = ListEmit()
    ScalarReports(emit).report_scalar("loss", "train", 1.0, bad)
    assert (emit.rows, [reason for reason, _ in emit.refused]) == ([], ["invalid"])


def test_what_changes_after_the_call_is_not_seen() -> None:
    # Given a value and a step counter that live on and change in place
    value, step = np.array(1.0), np.array(1)
    emit = ListEmit()
    # When they are reported, and then move on
    ScalarReports(emit).report_scalar("loss", "train", value, step)  # type: ignore[arg-type]
    value += 1
    step += 1
    # Then the row has what they were
    assert emit.rows[:4] == ["loss", "train", 1.0, 1]


def test_what_was_reported_is_not_kept_alive() -> None:
    class Loss:
        def __float__(self) -> float:
            return 1.5

    loss = Loss()
    gone = weakref.ref(loss)
    emit = ListEmit()
    ScalarReports(emit).report_scalar("loss", "train", loss, 1)  # type: ignore[arg-type]
    del loss
    assert gone() is None
    assert emit.rows[2] == 1.5


def test_strict_mode_raises_at_the_first_bad_value() -> None:
    with run_pipeline([MemorySink()], strict=True) as pipeline:
        with pytest.raises(EventsDropped, match="loss/train"):
            ScalarReports(pipeline.emit).report_scalar("loss", "train", "x", 1)  # type: ignore[arg-type]
        assert pipeline.ledger().dropped == {"invalid": 1}
