"""The warning about empty masks."""

import logging
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from facenet_d2.engine.hooks import WarnOfEmptyMasks


def warnings(losses, caplog, start=0):
    hook = WarnOfEmptyMasks(3.0, warmup=0)
    with EventStorage(start) as storage, caplog.at_level(logging.WARNING):
        hook.trainer = SimpleNamespace(storage=storage, start_iter=start)
        for iteration, loss in enumerate(losses, start):
            hook.trainer.iter = iteration
            storage.put_scalar("loss_mask", loss)
            hook.after_step()
            storage.step()
    return [r.getMessage() for r in caplog.records]


def test_collapsed(caplog):
    found = warnings([2.6] * 50 + [2.999] * 400, caplog)
    assert len(found) == 2
    assert "loss_mask over the last 100 steps is 3.00" in found[0]
    assert "SOLVER.BASE_LR" in found[0]


@pytest.mark.parametrize(
    "losses",
    [[2.7] * 600, [2.99] * 250 + [2.5] * 300, [3 - i / 500 for i in range(600)], [3.0] * 250],
)
def test_learning(losses, caplog):
    assert warnings(losses, caplog) == []


def test_after_resuming_the_window_is_filled_first(caplog):
    assert len(warnings([3.0] * 150, caplog, start=1000)) == 1
