"""The training data loader: Detectron2's, made exactly repeatable and resumable."""

from __future__ import annotations

import itertools
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.data as torchdata
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from ..errors import UserError
from .mapper import SceneMapper


@contextmanager
def augmentation_seed(*key: int) -> Iterator[None]:
    """Seed the generators that augmentations draw from, and put them back afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


class _MappedSamples(torchdata.Dataset):
    """Maps (position in the stream, index of the image, whether it is to lie on its side).

    The position seeds the augmentation.
    """

    def __init__(
        self, dataset: torchdata.Dataset, mapper: Callable[[dict], dict], seed: int
    ) -> None:
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed
        # Asked for here: a worker process that is spawned does not know it.
        self.rank = comm.get_rank()

    def __getitem__(self, key: tuple[int, int, bool | None]) -> dict[str, Any]:
        position, index, sideways = key
        record = self.dataset[index]
        if sideways is not None:
            record = {**record, "sideways": sideways}
        with augmentation_seed(self.seed, self.rank, position):
            return self.mapper(record)


class TrainLoader:
    """Endless batches, each a function of the seed and its number alone.

    Neither the number of worker processes nor an interruption changes them: with ``start_iter`` set
    to the next iteration before the first batch is taken, a resumed run sees what the uninterrupted
    one would have seen.
    """

    def __init__(
        self,
        dataset: list[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        build_sampler: Callable[[int], Iterable[int]],
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        aspect_ratio_grouping: bool = True,
        quarter_turns: bool = False,
    ) -> None:
        """
        Args:
            dataset: dataset dicts.
            mapper: applied to each when it is needed.
            build_sampler: gives the endless stream of indices for a seed.
            batch_size: images a batch of this process.
            seed: of the order and the augmentations.
            num_workers: worker processes; 0 maps in this one.
            aspect_ratio_grouping: batch wide images with wide ones, tall with tall, which saves
                padding.
            quarter_turns: the mapper turns images by quarters. Whether one comes to lie on its
                side, which is as likely as not, is then drawn here, where images are grouped.
        """
        self.wide = [d["width"] > d["height"] for d in dataset] if aspect_ratio_grouping else None
        self.quarter_turns = quarter_turns
        self.dataset = DatasetFromList(dataset, copy=False)
        self.mapper = mapper
        self.build_sampler = build_sampler
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.start_iter = 0

    def _batches(self) -> Iterator[list[tuple[int, int, bool | None]]]:
        groups: tuple[list, list] = ([], [])
        turns = np.random.default_rng((self.seed, comm.get_rank()))
        for position, index in enumerate(self.build_sampler(self.seed)):
            sideways = bool(turns.integers(2)) if self.quarter_turns else None
            group = groups[self.wide is not None and self.wide[index] != bool(sideways)]
            group.append((position, index, sideways))
            if len(group) == self.batch_size:
                yield group[:]
                group.clear()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        # A generator: nothing runs, and no worker starts, before the first batch is taken. By then
        # a resumed trainer has set `seed` and `start_iter`.
        # Linux's default for a single training process. Those of several are spawned, and would
        # spawn their workers too, each with its own copy of the data set.
        fork = self.num_workers > 0 and sys.platform == "linux"
        yield from torchdata.DataLoader(
            _MappedSamples(self.dataset, self.mapper, self.seed),
            batch_sampler=itertools.islice(self._batches(), self.start_iter, None),
            num_workers=self.num_workers,
            collate_fn=trivial_batch_collator,
            worker_init_fn=_ignore_interrupt,
            multiprocessing_context="fork" if fork else None,
            # PyTorch would draw the workers' seeds, which nothing here uses, in the first step of
            # the model's random numbers, and so change them for a resumed run.
            generator=torch.Generator(),
        )


def _ignore_interrupt(worker_id: int) -> None:
    # Ctrl-C reaches every process of the terminal; the trainer alone decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _sampler_builder(cfg: CfgNode, dataset: list[dict[str, Any]]) -> Callable[[int], Iterable[int]]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    size = len(dataset)  # The sampler must not keep the data set itself in memory.
    if name == "TrainingSampler":
        return lambda seed: TrainingSampler(size, seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    raise UserError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}; it must be TrainingSampler or "
        "RepeatFactorTrainingSampler."
    )


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """The training loader for a config.

    Raises:
        UserError: where the data cannot be used, or the batch cannot be divided among the GPUs.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; name at least one data set to train on.")
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; it must be a positive "
            f"multiple of the number of GPUs, {world_size}."
        )
    try:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    except AssertionError as error:
        raise UserError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: no image has an annotation to train on "
            f"({error})."
        ) from error
    return TrainLoader(
        dataset,
        SceneMapper(cfg, is_train=True),
        build_sampler=_sampler_builder(cfg, dataset),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // world_size,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        quarter_turns=cfg.INPUT.RANDOM_QUARTER_TURN,
    )
