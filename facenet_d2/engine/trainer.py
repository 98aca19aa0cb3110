"""Detectron2's ``DefaultTrainer`` with this project's data, evaluation and checkpoints."""

from __future__ import annotations

import logging
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, defaults
from detectron2.engine.hooks import BestCheckpointer, EvalHook, LRScheduler, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data import SceneMapper, TrainLoader, build_train_loader
from ..errors import UserError
from ..evaluation import InstanceEvaluator
from ..modeling import set_tf32
from ..modeling.grids import GridModel
from ..modeling.layers.cpu_training import use_fast_backward
from ..signals import StopRequested
from .amp import BFloat16Trainer, training_dtype
from .checkpointer import ModelCheckpointer, load_checkpoint
from .cli import user_errors
from .divergence import divergence_advice, largest_parameter, last_healthy_checkpoint
from .hooks import (
    EvaluateMissed,
    ResumableBestCheckpointer,
    StopOnSignal,
    WarnOfEmptyMasks,
    WriteAfterEvaluation,
)
from .optimizer import build_optimizer
from .run_record import RecordRun


class _OneSentenceForUserErrors(logging.Filter):
    """Drops the tracebacks in Detectron2's log of errors that commands report in one sentence."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (
            record.exc_info
            and isinstance(record.exc_info[1], (UserError, FloatingPointError, OSError))
        )


logging.getLogger("detectron2.engine.train_loop").addFilter(_OneSentenceForUserErrors())

_create_ddp_model = defaults.create_ddp_model


def _create_ddp_model_on_any_device(model: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """Wrap a model in DistributedDataParallel if there are several processes.

    Detectron2's function assumes that each process has a GPU.
    """
    if all(parameter.device.type == "cpu" for parameter in model.parameters()):
        options["device_ids"] = None
    return _create_ddp_model(model, **options)


defaults.create_ddp_model = _create_ddp_model_on_any_device


class Trainer(DefaultTrainer):
    """Trains the model of a config, evaluates COCO metrics, and keeps the best checkpoint."""

    _trainer: SimpleTrainer
    _hooks: list[HookBase]
    iter: int

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: config from :func:`load_config`.

        Raises:
            UserError: If model, optimizer, schedule, data or hooks cannot be built.
        """
        with user_errors("training cannot be set up from this config"):
            self.dtype = dtype = training_dtype(cfg)
            stock = cfg.clone()
            stock.defrost()
            # Detectron2's AMPTrainer supports float16 on GPUs only.
            stock.SOLVER.AMP.ENABLED = dtype == torch.float16
            super().__init__(stock)
            self.cfg = cfg
            if dtype == torch.bfloat16:
                self._trainer = BFloat16Trainer(
                    self._trainer.model, self._trainer.data_loader, self._trainer.optimizer
                )
        self.train_loader: TrainLoader = self._trainer.data_loader

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Build the model; raise a :class:`UserError` if the config has an invalid value."""
        set_tf32(cfg.MODEL.TF32)
        with user_errors("the model of this config cannot be built"):
            model = super().build_model(cfg)
        if cfg.SOLVER.CHANNELS_LAST:
            model.to(memory_format=torch.channels_last)
            use_fast_backward(model)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader[Any]:
        return build_detection_test_loader(
            cfg, dataset_name, mapper=SceneMapper(cfg, is_train=False)
        )

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return InstanceEvaluator(
            dataset_name,
            output_dir=str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name),
            max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            area_ranges=cfg.TEST.AREA_RANGES,
        )

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    def build_hooks(self) -> list[HookBase | None]:
        # Detectron2's hooks take the checkpointer from here.
        self.checkpointer = ModelCheckpointer(
            self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        hooks = super().build_hooks()
        own: list[HookBase] = []
        best = None
        if comm.is_main_process():
            if self.cfg.DATASETS.TEST:
                metric = (
                    "segm/AP"
                    if len(self.cfg.DATASETS.TEST) == 1
                    else f"{self.cfg.DATASETS.TEST[0]}/segm/AP"
                )
                best = ResumableBestCheckpointer(
                    self.cfg.TEST.EVAL_PERIOD, self.checkpointer, metric
                )
                own.append(best)
            if isinstance(_unwrapped(self._trainer.model), GridModel):
                solver = self.cfg.SOLVER
                own.append(WarnOfEmptyMasks(self.cfg.MODEL.SOLOV2.DICE_WEIGHT, solver.WARMUP_ITERS))
            period = self.cfg.SOLVER.CHECKPOINT_PERIOD
            own.append(
                RecordRun(self.cfg.OUTPUT_DIR, self.cfg.MODEL.DEVICE, checkpoint_period=period)
            )
        evaluation = next(h for h in hooks if isinstance(h, EvalHook))
        period, folder = self.cfg.TEST.EVAL_PERIOD, self.cfg.OUTPUT_DIR
        own.append(EvaluateMissed(period, folder, evaluation, best))
        self.stop_on_signal = StopOnSignal(self.checkpointer)
        own.append(self.stop_on_signal)
        # The writers come last, since they write the metrics of all other hooks.
        writers = [h for h in hooks if isinstance(h, PeriodicWriter)]
        own += [WriteAfterEvaluation(h._writers, self.cfg.TEST.EVAL_PERIOD) for h in writers]
        return [h for h in hooks if h not in writers] + own

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or ``MODEL.WEIGHTS``.

        A resumed run has the learning rate, weight decay and schedule of its config, which may
        differ from those of the checkpoint.
        """
        optimizer = self._trainer.optimizer
        settings = [
            {k: v for k, v in group.items() if k not in ("params", "lr")}
            for group in optimizer.param_groups
        ]
        load_checkpoint(self.checkpointer, self.cfg, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1
            for group, own in zip(optimizer.param_groups, settings, strict=True):
                group.update(own)
            (scheduler,) = (h.scheduler for h in self._hooks if isinstance(h, LRScheduler))
            scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
            for group, rate in zip(optimizer.param_groups, scheduler.get_lr()):
                group["lr"] = rate
        self.train_loader.start_iter = self.start_iter

    def run_step(self) -> None:
        # Seeding per iteration and process makes random sampling, as in R-CNNs, the same in a
        # resumed run.
        seeds = (self.train_loader.seed, self.iter, comm.get_rank())
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]))
        super().run_step()

    def train(self) -> Any:
        """Train the model; raise a :class:`UserError` if the loss becomes infinite or NaN."""
        try:
            result = super().train()
        except FloatingPointError as error:
            names = [name for name, _ in _unwrapped(self._trainer.model).named_parameters()]
            healthy = last_healthy_checkpoint(self.cfg.OUTPUT_DIR, names, self.largest_at_start)
            advice = divergence_advice(self.cfg, self.dtype, healthy)
            raise UserError(f"{' '.join(str(error).split())} {advice}") from error
        finally:
            # Stop the data loader workers, which ignore signals: Python waits for them at exit,
            # before the trainer is deleted.
            self._trainer._data_loader_iter.close()
        # Missing if an earlier session was killed while it saved the last checkpoint.
        if Path(self.checkpointer.get_checkpoint_file()).name != "model_final.pth":
            iteration = max(self.start_iter, self.max_iter) - 1
            self.checkpointer.save("model_final", iteration=iteration)
        return result

    def before_train(self) -> None:
        self.largest_at_start = largest_parameter(self._trainer.model.parameters())
        if self.start_iter >= self.max_iter:
            # There is no step to make. Detectron2 would count one.
            self.iter = self.start_iter - 1
        super().before_train()

    def after_train(self) -> None:
        is_finished = self.iter >= self.max_iter
        self.stop_on_signal.at_once = True
        requested = self.stop_on_signal.requested
        if is_finished and not requested:
            super().after_train()
            return
        self.storage.iter = self.iter
        for hook in self._hooks:
            # Detectron2 would evaluate a model whose last step has failed.
            if not isinstance(hook, (EvalHook, BestCheckpointer)):
                # Another error, for example of a second write to a full disk, must not hide the
                # first one.
                with suppress(Exception):
                    hook.after_train()
        if is_finished:
            raise StopRequested(requested)

    def state_dict(self) -> dict[str, Any]:
        # Detectron2 0.6 does not save the state of optimizer (momentum) and gradient scaler; newer
        # versions save it under this key.
        return {
            **super().state_dict(),
            "_trainer": self._trainer.state_dict(),
            "data_seed": self.train_loader.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        self.train_loader.seed = state_dict["data_seed"]


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model inside DistributedDataParallel."""
    return getattr(model, "module", model)
