"""Training hooks that Detectron2 does not have."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer, EvalHook, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from fvcore.common.checkpoint import Checkpointer

from ..files import read_json, write_whole
from ..signals import StopRequested, restore_handlers, set_handlers

logger = logging.getLogger(__name__)


class ResumableBestCheckpointer(BestCheckpointer):
    """Detectron2's ``BestCheckpointer`` that remembers the best metric on ``--resume``.

    The metric is saved in ``model_best.json``, not in the periodic checkpoint, which is written
    before the evaluation.
    """

    def __init__(self, eval_period: int, checkpointer: Checkpointer, val_metric: str) -> None:
        super().__init__(eval_period, checkpointer, val_metric, "max")
        self.record = Path(checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        weights = self.record.with_suffix(".pth")
        if self.trainer.start_iter == 0 or not (self.record.is_file() and weights.is_file()):
            return
        best, problem = read_json(self.record)
        try:
            metric, value, iteration = best["metric"], float(best["value"]), int(best["iteration"])
        except (KeyError, TypeError, ValueError):
            logger.warning(
                "%s is damaged%s; the next evaluation counts as the best one.",
                self.record,
                f" ({problem})" if problem else "",
            )
            return
        # The last evaluation of a finished run has the number of the next iteration.
        if metric == self._val_metric and iteration <= self.trainer.start_iter:
            self.best_metric, self.best_iter = value, iteration

    def _update_best(self, val: float, iteration: int) -> bool:
        updated = super()._update_best(val, iteration)
        if updated:
            record = {"metric": self._val_metric, "value": val, "iteration": iteration}
            write_whole(self.record, json.dumps(record) + "\n")
        return updated


class StopOnSignal(HookBase):
    """Finishes the step, saves a checkpoint and stops on a signal; stops at once on a second one.

    The signals are those of :data:`~facenet_d2.signals.STOP_SIGNALS`. All processes of a
    training stop after the same step, whichever of them receives the signal.

    Attributes:
        requested: number of the signal that was received, or 0.
        at_once: whether to stop at the first signal, as before the first and after the last step,
            when there is nothing to save.
    """

    # In seconds: a signal to all processes also arrives from the parent, which passes it on.
    REPETITION = 2.0

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer
        self.requested = 0
        self.at_once = True
        self._requested_at = 0.0
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        self._previous = set_handlers(self._request, always_ctrl_c=True)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.at_once or (self.requested and now - self._requested_at > self.REPETITION):
            raise StopRequested(signum)
        if self.requested:
            return
        self.requested, self._requested_at = signum, now
        # A handler must not print or log: it may have interrupted another print.
        notice = f"{signal.Signals(signum).name}: stopping after this step (again: stop at once)"
        os.write(2, f"\n{notice} ...\n".encode())

    def before_step(self) -> None:
        self.at_once = False

    def after_step(self) -> None:
        signum = max(comm.all_gather(self.requested))
        if signum:
            self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            # Only the main process saves; the others wait for it.
            comm.synchronize()
            logger.warning("Interrupted; continue with --resume.")
            raise StopRequested(signum)

    def after_train(self) -> None:
        restore_handlers(self._previous)


class EvaluateMissed(HookBase):
    """Makes up for the evaluation of a run that was killed before or during it.

    The checkpoint of an iteration is saved before its evaluation, and a resumed run starts after
    that iteration.
    """

    def __init__(
        self,
        period: int,
        folder: str | Path,
        evaluation: EvalHook,
        best: BestCheckpointer | None,
    ) -> None:
        """
        Args:
            period: number of iterations between evaluations, ``TEST.EVAL_PERIOD``.
            folder: output folder of the run.
            evaluation: hook that evaluates.
            best: hook that keeps the best checkpoint, on the main process.
        """
        self.period = period
        self.metrics = Path(folder) / "metrics.json"
        self.evaluation = evaluation
        self.best = best

    def before_train(self) -> None:
        start = self.trainer.start_iter
        due = self.period > 0 and start > 0 and start % self.period == 0
        # The last evaluation is made after the training anyway.
        if not due or start >= self.trainer.max_iter or self._is_evaluated(start):
            return
        logger.info("Evaluating iteration %d, which the earlier session did not.", start)
        storage = self.trainer.storage
        storage.iter = start - 1
        self.evaluation._do_eval()
        if self.best is not None:
            self.best._best_checking()
        storage.iter = start

    def _is_evaluated(self, start: int) -> bool:
        if not self.metrics.is_file():
            return False
        for line in self.metrics.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            # The evaluation at the end of a run is recorded with the number of the next iteration.
            if event.get("iteration") in (start - 1, start) and any("segm/AP" in k for k in event):
                return True
        return False


class WriteAfterEvaluation(PeriodicWriter):
    """Detectron2's ``PeriodicWriter`` that also writes after each evaluation.

    Otherwise, an evaluation would be lost if the run is killed after the next checkpoint, but
    before the next write.
    """

    def __init__(self, writers: list[EventWriter], eval_period: int) -> None:
        """
        Args:
            writers: Detectron2's writers.
            eval_period: number of iterations between evaluations, ``TEST.EVAL_PERIOD``.
        """
        super().__init__(writers)
        self._eval_period = eval_period

    def before_train(self) -> None:
        # The evaluation of EvaluateMissed. The printer cannot write twice in an iteration.
        for writer in self._writers:
            if self.trainer.storage.latest() and not isinstance(writer, CommonMetricPrinter):
                writer.write()

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        is_evaluated = self._eval_period > 0 and following % self._eval_period == 0
        if is_evaluated or following % self._period == 0 or following == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()


class WarnOfEmptyMasks(HookBase):
    """Warns if the Dice loss indicates that all predicted masks are empty.

    An empty mask has a Dice loss of 1 and little gradient, so a model that collapses in the first
    steps recovers slowly, if at all.
    """

    NEAR_ONE = 0.985
    WINDOW = 100

    def __init__(self, dice_weight: float, warmup: int) -> None:
        """
        Args:
            dice_weight: factor of the Dice loss, ``MODEL.SOLOV2.DICE_WEIGHT``.
            warmup: number of warm-up steps; the first warning is possible 300 steps later.
        """
        self.dice_weight = dice_weight
        self.first = warmup + 300

    def after_step(self) -> None:
        steps = self.trainer.iter + 1 - self.trainer.start_iter
        if self.trainer.iter + 1 < self.first or steps % self.WINDOW:
            return
        loss = self.trainer.storage.history("loss_mask").median(self.WINDOW)
        if loss < self.NEAR_ONE * self.dice_weight:
            return
        logger.warning(
            "The median of loss_mask over the last %d steps is %.2f, and %.2f means that all masks "
            "are empty. The model is not learning masks. Restart with a smaller SOLVER.BASE_LR or "
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE, or more SOLVER.WARMUP_ITERS.",
            self.WINDOW,
            loss,
            self.dice_weight,
        )
