"""Comparison of trained rows with the paper's table, as Markdown, JSON and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..engine import read_config
from ..engine.run_record import read_sessions
from ..evaluation import METRICS
from ..files import replaced, write_whole
from ..paths import REPOSITORY, configs
from .choice import DEFAULT_SCHEDULE, PROTOCOL_PREFIX
from .paper import Row
from .plan import Job, TrainingPlan
from .plots import Panel, draw_curves
from .runs import Run, mean_and_spread, paired_gains
from .tables import MISSING_VALUE, format_duration, markdown_table, with_spread

PANELS = (
    Panel("segm/AP", "mask AP"),
    Panel("segm/AP50", "mask AP50"),
    Panel("total_loss", "sum of the losses", log=True),
)
# In pixels; section 4.2 of the paper.
PAPER_SIZE = 800


class Report:
    """Results of a training plan.

    Attributes:
        runs: finished runs by job; filled by the caller.
        failures: error messages of failed runs by job; filled by the caller.
    """

    def __init__(self, number: int, plan: TrainingPlan, command: str) -> None:
        """
        Args:
            number: number of the paper's table.
            plan: plan of the trainings.
            command: shell command that made the table.
        """
        self.number, self.plan, self.command = number, plan, command
        self.table = plan.table
        self.runs: dict[Job, Run] = {}
        self.failures: dict[Job, str] = {}
        output = plan.jobs[0].output
        self.files = {kind: output / f"table{number}.{kind}" for kind in ("md", "png")}
        # Rows of the table in its order, then other models.
        self.rows = [r.row for r in plan.rows]
        self.baseline = self.table.row(self.table.baseline)
        self.cfg = plan.rows[0].cfg

    def write(self) -> None:
        """Write the Markdown file and, if there are finished runs, the curves."""
        write_whole(self.files["md"], self.markdown() + "\n")
        curves = {r.name: runs for r in self.rows if (runs := self._runs_of(r.name))}
        if curves:
            with replaced(self.files["png"]) as temporary:
                draw_curves(curves, PANELS, temporary)

    def markdown(self) -> str:
        """Return metrics, gains over the baseline, and settings as Markdown."""
        own, changed = self._own_data(), self._own_network()
        title = f"# Table {self.number}: {self.table.title}"
        sections = [title + (f" (here on {own})" if own else "")]
        if own:
            sections.append(
                f"**Trained on {own}, not on {self._paper_data()}: the values are not comparable "
                "with the paper's.**"
            )
        if changed:
            sections.append(
                f"**Trained with {changed}: the values are not comparable with the paper's.**"
            )
        several = len({j.seed for j in self.plan.jobs}) > 1
        spread = "; ours is the mean ± standard deviation over the seeds" if several else ""
        sections += [
            f"Mask metrics in percent: ours / the paper's{spread}.",
            markdown_table(["row", "seeds", *METRICS], [self._metrics_line(r) for r in self.rows]),
        ]
        others = [r for r in self.rows if r is not self.baseline]
        if others:
            gain = ", mean ± standard deviation of the differences by seed" if several else ""
            sections += [
                f"Gains over {self.baseline.name}: ours / the paper's{gain}.",
                markdown_table(["row", "seeds", *METRICS], [self._gains_line(r) for r in others]),
            ]
        return "\n\n".join([*sections, *self._failed(), "## Settings", *self._settings()])

    def json(self) -> dict[str, Any]:
        """Return the report as JSON values; None stands for a missing metric."""
        rows = []
        for row in self.rows:
            runs = self._runs_of(row.name)
            ours = {m: _summary([r.metrics()[f"segm/{m}"] for r in runs]) for m in METRICS}
            paired = {m: self._gains(row, m) for m in METRICS}
            rows.append(
                {
                    "row": row.name,
                    "model": row.model,
                    "state": self._state(row),
                    "seeds": [r.seed for r in runs],
                    "ours": ours,
                    "paper": dict(zip(METRICS, row.metrics)) or None,
                    "difference": {m: _summary(values) for m, values in paired.items()},
                    "paper_difference": {m: self._paper_gain(row, m) for m in METRICS},
                    "folders": [str(r.folder) for r in runs],
                }
            )
        return {
            "table": self.number,
            "baseline": self.baseline.name,
            "trained_on": list(self.cfg.DATASETS.TRAIN),
            "evaluated_on": list(self.cfg.DATASETS.TEST),
            "comparable_with_paper": not (self._own_data() or self._own_network()),
            "rows": rows,
            "failed": {f"{j.row.name}, seed {j.seed}": e for j, e in self.failures.items()},
            "files": list(map(str, self.existing_files())),
        }

    def existing_files(self) -> list[Path]:
        """Return the files that have been written."""
        return [f for f in self.files.values() if f.is_file()]

    def _runs_of(self, name: str) -> list[Run]:
        """Return the finished runs of a row in the order of the seeds."""
        return [self.runs[j] for j in self.plan.jobs if j in self.runs and j.row.name == name]

    def _state(self, row: Row) -> str:
        jobs = [j for j in self.plan.jobs if j.row == row]
        if all(j in self.runs for j in jobs):
            return "finished"
        if any(j in self.failures for j in jobs):
            return "failed"
        if any(j in self.runs for j in jobs) or self._saved(row):
            return "not finished"
        return "not run"

    def _saved(self, row: Row) -> int:
        """Return the number of saved iterations of the most advanced run of a row."""
        total = self.cfg.SOLVER.MAX_ITER
        return max(j.saved_iterations(total) for j in self.plan.jobs if j.row == row)

    def _seeds(self, row: Row) -> str:
        state, done = self._state(row), len(self._runs_of(row.name))
        if state == "finished":
            return str(done)
        if not done:
            if state != "not finished":
                return state
            return f"stopped after {self._saved(row)} of {self.cfg.SOLVER.MAX_ITER} iterations"
        wanted = sum(j.row == row for j in self.plan.jobs)
        return f"{done} of {wanted}" + (", failed" if state == "failed" else "")

    def _metrics_line(self, row: Row) -> list[str]:
        runs = self._runs_of(row.name)
        ours = [with_spread([r.metrics()[f"segm/{m}"] for r in runs]) for m in METRICS]
        paper = [f"{v:.1f}" for v in row.metrics] or [MISSING_VALUE] * len(METRICS)
        name = f"{row.name} (baseline)" if row is self.baseline else row.name
        return [name, self._seeds(row), *map(_pair, ours, paper)]

    def _gains_line(self, row: Row) -> list[str]:
        ours = [with_spread(self._gains(row, m), "+") for m in METRICS]
        paper = [self._paper_gain(row, m) for m in METRICS]
        texts = [MISSING_VALUE if v is None else f"{v:+.1f}" for v in paper]
        paired = len(self._gains(row, "AP"))
        return [row.name, str(paired or MISSING_VALUE), *map(_pair, ours, texts)]

    def _gains(self, row: Row, metric: str) -> list[float]:
        baseline, runs = self._runs_of(self.baseline.name), self._runs_of(row.name)
        return paired_gains(baseline, runs, f"segm/{metric}")

    def _paper_gain(self, row: Row, metric: str) -> float | None:
        if not row.metrics:
            return None
        number = METRICS.index(metric)
        return round(row.metrics[number] - self.baseline.metrics[number], 1)

    def _paper_data(self) -> str:
        return self.table.title.rpartition(" on ")[2]

    def _own_data(self) -> str | None:
        """Return the training sets if they are not the paper's, else None."""
        paper = read_config(
            configs() / self.table.dataset / f"{PROTOCOL_PREFIX}{DEFAULT_SCHEDULE}.yaml"
        ).DATASETS
        ours = self.cfg.DATASETS
        same = (tuple(ours.TRAIN), tuple(ours.TEST)) == (tuple(paper.TRAIN), tuple(paper.TEST))
        return None if same else ", ".join(ours.TRAIN)

    def _own_network(self) -> str | None:
        """Describe bottom-up network and image size if they are not the paper's, else None.

        The paper's network is ResNet-101 (docs/TABLES.md); its images have 800 pixels or more.
        """
        network, size = _bottom_up(self.cfg), self.cfg.INPUT.MAX_SIZE_TEST
        own = [network] if network != "ResNet-101" else []
        own += [f"images of at most {size} pixels"] if size < PAPER_SIZE else []
        return " and ".join(own) or None

    def _failed(self) -> list[str]:
        if not self.failures:
            return []
        lines = [
            f"- {j.row.name}, seed {j.seed}: {error} (`{j.folder / 'train.log'}`)"
            for j, error in self.failures.items()
        ]
        return ["Failed:", "\n".join(lines)]

    def _settings(self) -> list[str]:
        cfg, plan = self.cfg, self.plan
        steps = ", ".join(map(str, cfg.SOLVER.STEPS)) or "none"
        lines = [
            f"Made by `{self.command}`",
            f"Trained on {', '.join(cfg.DATASETS.TRAIN)}, evaluated on "
            f"{', '.join(cfg.DATASETS.TEST)}; {len(cfg.DATASETS.CLASS_NAMES)} classes",
            f"Protocol `{_shown(plan.protocol.file)}`, merged with the row's `configs/models` file",
            f"Overrides: {'`' + ' '.join(plan.overrides) + '`' if plan.overrides else 'none'}",
            f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images (the paper "
            f"gives no schedule), learning rate {cfg.SOLVER.BASE_LR}, lowered after: {steps}",
            f"{_bottom_up(cfg)}, initial weights: "
            f"{cfg.MODEL.WEIGHTS or 'none'}; images of at most {cfg.INPUT.MAX_SIZE_TEST} pixels",
            *self._versions(),
        ]
        sections = ["\n".join(f"- {line}" for line in lines)]
        if self.runs:
            every = [
                [
                    job.row.name,
                    str(job.seed),
                    ", ".join(run.devices) or "?",
                    format_duration(run.seconds),
                    f"`{run.folder}`",
                ]
                for job, run in self.runs.items()
            ]
            sections.append(markdown_table(["run of", "seed", "device", "time", "folder"], every))
        for planned in plan.rows:
            if planned.row is self.baseline:
                continue
            sections.append(
                f"Changes by `configs/models/{planned.row.model}.yaml`, "
                f"{self.baseline.name} → {planned.row.name}:"
            )
            listed = [f"- `{k}`: `{a!r}` → `{b!r}`" for k, (a, b) in planned.changes.items()]
            sections.append(
                "\n".join(listed) or "- none: with these overrides the models are the same"
            )
        return sections

    def _versions(self) -> list[str]:
        """List commits and library versions, with their runs if there are several."""
        lines = []
        sessions = {job: read_sessions(run.folder) for job, run in self.runs.items()}
        for key, title, plural in (
            ("commit", "Commit", "commits"),
            ("python", "Python", "versions of Python"),
            ("torch", "PyTorch", "versions of PyTorch"),
        ):
            jobs: dict[str, list[str]] = {}
            for job, of_job in sessions.items():
                for value in dict.fromkeys(str(s.get(key) or "unknown") for s in of_job):
                    jobs.setdefault(value, []).append(f"{job.row.name} seed {job.seed}")
            if len(jobs) == 1:
                lines.append(f"{title} {next(iter(jobs))}")
            elif jobs:
                listed = "; ".join(f"{value}: {', '.join(of)}" for value, of in jobs.items())
                lines.append(f"**The runs used {len(jobs)} {plural}**: {listed}")
        return lines


def _bottom_up(cfg: CfgNode) -> str:
    """Return the name of the bottom-up network."""
    if (
        cfg.MODEL.BOTTOM_UP.NAME == "build_timm_backbone"
        and "resnet" not in cfg.MODEL.BACKBONE.NAME
    ):
        return cfg.MODEL.TIMM.NAME
    return f"ResNet-{cfg.MODEL.RESNETS.DEPTH}"


def _pair(ours: str, paper: str) -> str:
    return MISSING_VALUE if ours == paper == MISSING_VALUE else f"{ours} / {paper}"


def _shown(file: Path) -> Path:
    """Return a file of this project relative to the checkout, any other path as it is."""
    return file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file


def _summary(values: Sequence[float]) -> Mapping[str, Any] | None:
    """Return mean, standard deviation and values; None without values or with a NaN."""
    if not values or any(map(math.isnan, values)):
        return None
    mean, spread = mean_and_spread(values)
    return {"mean": mean, "sd": None if math.isnan(spread) else spread, "values": list(values)}
