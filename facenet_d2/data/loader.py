"""A training data loader with reproducible batches and exact resumption."""

from __future__ import annotations

import itertools
import random
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
from ..signals import ignore_stop_signals
from .mapper import SceneMapper


@contextmanager
def augmentation_seed(*key: int) -> Iterator[None]:
    """Seed the random generators that augmentations use, and restore their state afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


class _MappedSamples(torchdata.Dataset[dict[str, Any]]):
    """A data set whose keys are (position in the stream, index of the image, sideways).

    The position seeds the augmentation; ``sideways`` is passed to the mapper unless it is None.
    """

    def __init__(
        self,
        dataset: torchdata.Dataset[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int,
    ) -> None:
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed
        # Determined here, since a spawned worker process does not know its rank.
        self.rank = comm.get_rank()

    def __getitem__(self, key: tuple[int, int, bool | None]) -> dict[str, Any]:
        position, index, sideways = key
        record = self.dataset[index]
        if sideways is not None:
            record = {**record, "sideways": sideways}
        with augmentation_seed(self.seed, self.rank, position):
            return self.mapper(record)


class TrainLoader:
    """An infinite loader whose batches are functions of the seed and their number only.

    The number of worker processes has no influence on them. To resume a run, set ``start_iter`` to
    the next iteration before the first batch is taken; the batches are then those of an
    uninterrupted run.
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
            mapper: function that maps a dataset dict to the input of the model.
            build_sampler: function that returns the infinite stream of indices for a seed.
            batch_size: number of images per batch in this process.
            seed: seed of the order and the augmentations.
            num_workers: number of worker processes; 0 to load in this process.
            aspect_ratio_grouping: whether to put only wide, or only tall, images into a batch, to
                reduce padding.
            quarter_turns: whether the mapper applies random quarter turns. If so, the loader draws
                whether an image is turned sideways, because it groups images by their aspect ratio
                after the turn, and passes it to the mapper as ``sideways``.
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
        groups: tuple[list[tuple[int, int, bool | None]], ...] = ([], [])
        turns = np.random.default_rng((self.seed, comm.get_rank()))
        for position, index in enumerate(self.build_sampler(self.seed)):
            sideways = bool(turns.integers(2)) if self.quarter_turns else None
            group = groups[self.wide is not None and self.wide[index] != bool(sideways)]
            group.append((position, index, sideways))
            if len(group) == self.batch_size:
                yield group[:]
                group.clear()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        # This is a generator: no worker starts before the first batch is taken. By then, a resumed
        # trainer has set `seed` and `start_iter`.
        # Several training processes are spawned, and would by default spawn their workers too, each
        # with its own copy of the data set. Forked workers share it.
        fork = self.num_workers > 0 and sys.platform == "linux"
        yield from torchdata.DataLoader(
            _MappedSamples(self.dataset, self.mapper, self.seed),
            batch_sampler=itertools.islice(self._batches(), self.start_iter, None),
            num_workers=self.num_workers,
            collate_fn=trivial_batch_collator,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if fork else None,
            # By default, PyTorch draws a seed for the workers from the global generator, and so
            # would change the model's random numbers in a resumed run.
            generator=torch.Generator(),
        )


def _start_worker(worker_id: int) -> None:
    ignore_stop_signals()


def _sampler_builder(cfg: CfgNode, dataset: list[dict[str, Any]]) -> Callable[[int], Iterable[int]]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    size = len(dataset)  # A closure over the data set would keep it in memory.
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
    """Build the training loader of a config.

    Raises:
        UserError: if the data sets are unusable, or the batch cannot be divided among the GPUs.
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
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: no image has an annotation to train on; "
            f"crowds and annotations without a mask do not count ({error})."
        ) from error
    if "annotations" not in dataset[0]:
        raise UserError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} has no annotations to train on; its file "
            'has no list "annotations".'
        )
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
