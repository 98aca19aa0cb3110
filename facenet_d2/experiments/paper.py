"""Metrics of the paper's Tables 2 to 8 and the file in configs/models of each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..paths import configs


@dataclass(frozen=True)
class Row:
    """Row of a table.

    Attributes:
        name: name in the printed table.
        model: name of the file in configs/models.
        metrics: mask AP, AP50, AP75, APs, APm and APl in percent; empty for models that are not in
            the paper's table.
        parameters: number of parameters in millions (Table 2 only).
        multiply_adds: number of multiply-adds in 10^9 (Table 2 only).
    """

    name: str
    model: str
    metrics: tuple[float, ...]
    parameters: float | None = None
    multiply_adds: float | None = None

    @property
    def config(self) -> Path:
        """Config of the model, to be merged into a :class:`~.choice.Protocol`."""
        return configs() / "models" / f"{self.model}.yaml"


@dataclass(frozen=True)
class Table:
    """Table of the paper.

    Attributes:
        title: title of the table.
        dataset: folder in configs of the data set that the paper trains and evaluates on.
        rows: rows in the paper's order.
        baseline: name of the row that the others are compared with.
    """

    title: str
    dataset: str
    rows: tuple[Row, ...]
    baseline: str = "SOLOv2"

    def row(self, name: str) -> Row:
        """Return the row with the given name."""
        return next(r for r in self.rows if r.name == name)


_SOLOV2_NWPU = (32.9, 56.4, 31.8, 13.1, 27.3, 47.7)
_FACENET_NWPU = (45.8, 74.8, 44.4, 23.3, 42.6, 55.7)
_SOLOV2_HRSID = (33.3, 59.3, 37.6, 32.5, 42.0, 17.4)
_FACENET_HRSID = (40.9, 68.9, 48.2, 38.6, 61.2, 29.8)

TABLES: Mapping[int, Table] = {
    2: Table(
        "Instance segmentation on iSAID",
        "iSAID",
        (
            Row("Mask R-CNN", "mask_rcnn", (35.4, 59.2, 37.7, 17.2, 41.3, 47.4), 63.17, 351.64),
            Row(
                "Mask Scoring R-CNN",
                "mask_scoring_rcnn",
                (35.5, 58.4, 37.6, 17.3, 41.3, 47.2),
                79.729,
                337.92,
            ),
            Row("PointRend", "point_rend", (33.4, 56.3, 35.1, 16.0, 39.4, 45.3), 60.215, 181.248),
            Row(
                "Cascade Mask R-CNN",
                "cascade_mask_rcnn",
                (34.4, 57.5, 36.5, 16.5, 40.3, 46.2),
                96.09,
                470.0,
            ),
            Row("YOLACT", "yolact", (22.3, 43.3, 19.9, 8.4, 31.8, 40.4), 54.286, 91.716),
            Row("RDSNet", "rdsnet", (29.3, 51.3, 29.5, 12.6, 40.2, 47.9), 62.04, 228.42),
            Row("QueryInst", "queryinst", (28.6, 46.8, 30.4, 12.5, 35.5, 43.7), 196.608, 250.88),
            # Our reading of their abstract, on CondInst.
            Row(
                "Luo et al. (our reading)",
                "elliptic_centerness",
                (29.4, 54.5, 27.8, 15.5, 37.8, 42.0),
                43.83,
            ),
            Row("SOLO", "solo", (24.7, 44.9, 24.2, 7.9, 32.7, 47.8), 54.91, 442.13),
            Row("SOLOv2", "solov2", (31.1, 54.2, 31.4, 13.7, 38.3, 43.1), 65.84, 284.44),
            Row("FACENet", "facenet", (36.2, 59.2, 37.6, 15.7, 43.6, 52.4), 93.28, 379.85),
        ),
    ),
    3: Table(
        "Instance segmentation on NWPU VHR-10",
        "NWPU-VHR10",
        (
            Row("YOLACT", "yolact", (41.6, 75.2, 39.6, 23.4, 39.7, 54.3)),
            Row("QueryInst", "queryinst", (38.3, 61.2, 40.0, 19.2, 37.0, 50.2)),
            Row("SOLO", "solo", (14.2, 20.9, 15.0, 14.2, 17.1, 28.6)),
            Row("SOLOv2", "solov2", _SOLOV2_NWPU),
            Row("FACENet", "facenet", _FACENET_NWPU),
        ),
    ),
    4: Table(
        "Instance segmentation on HRSID",
        "HRSID",
        (
            Row("YOLACT", "yolact", (33.3, 65.4, 31.5, 33.7, 37.3, 14.2)),
            Row("SOLO", "solo", (34.8, 61.0, 39.1, 33.2, 50.0, 19.6)),
            Row("SOLOv2", "solov2", _SOLOV2_HRSID),
            Row("FACENet", "facenet", _FACENET_HRSID),
        ),
    ),
    5: Table(
        "Parts of FACENet on NWPU VHR-10",
        "NWPU-VHR10",
        (
            Row("SOLOv2", "solov2", _SOLOV2_NWPU),
            Row("SEM", "sem", (34.0, 57.7, 33.0, 14.3, 29.7, 41.0)),
            Row("FACE-FPN", "face_fpn", (37.7, 63.9, 37.0, 14.8, 34.8, 44.6)),
            Row("DCNv2", "dcn", (34.8, 60.9, 32.6, 10.9, 31.1, 43.4)),
            Row("SEM + FACE-FPN", "sem_face_fpn", (40.7, 67.9, 40.3, 23.0, 36.5, 50.6)),
            Row("SEM + FACE-FPN + DCNv2", "facenet", _FACENET_NWPU),
        ),
    ),
    6: Table(
        "Parts of FACENet on HRSID",
        "HRSID",
        (
            Row("SOLOv2", "solov2", _SOLOV2_HRSID),
            Row("SEM", "sem", (38.9, 67.0, 45.0, 37.3, 53.6, 17.2)),
            Row("FACE-FPN", "face_fpn", (38.7, 66.6, 44.9, 36.9, 56.8, 16.8)),
            Row("DCNv2", "dcn", (35.3, 61.5, 40.8, 34.0, 49.0, 12.7)),
            Row("SEM + FACE-FPN", "sem_face_fpn", (40.2, 68.0, 47.8, 38.2, 59.3, 25.0)),
            Row("SEM + FACE-FPN + DCNv2", "facenet", _FACENET_HRSID),
        ),
    ),
    7: Table(
        "Variants of SEM on NWPU VHR-10",
        "NWPU-VHR10",
        (
            # The paper's table omits the baseline; its metrics are in Tables 3, 5 and 8.
            Row("SOLOv2", "solov2", _SOLOV2_NWPU),
            Row("Case 1", "sem_case1", (32.2, 55.1, 30.4, 9.9, 28.1, 41.6)),
            Row("Case 2", "sem_case2", (31.3, 53.7, 28.4, 13.3, 26.4, 41.8)),
            Row("Case 3", "sem_case3", (33.9, 56.2, 34.9, 12.2, 29.3, 41.8)),
            Row("SEM*", "sem_star", (32.8, 56.4, 30.4, 14.2, 27.5, 42.0)),
            # The paper states an APs of 14.3 in Table 5 and of 12.3 here.
            Row("SEM", "sem", (34.0, 57.7, 33.0, 12.3, 29.7, 41.0)),
        ),
    ),
    8: Table(
        "Necks on NWPU VHR-10",
        "NWPU-VHR10",
        (
            Row("FPN", "solov2", _SOLOV2_NWPU),
            Row("HRFPN", "hrfpn", (29.2, 51.2, 29.6, 8.7, 24.0, 45.2)),
            Row("PAFPN", "pafpn", (31.3, 53.2, 31.0, 10.2, 26.1, 46.2)),
            Row("BiFPN", "bifpn", (17.0, 23.7, 19.7, 1.2, 9.7, 39.5)),
            Row("FACE-FPN", "face_fpn", (37.7, 63.9, 37.0, 14.8, 34.8, 44.6)),
        ),
        baseline="FPN",
    ),
}
