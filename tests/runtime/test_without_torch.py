"""The runner and the scenes need neither PyTorch nor Detectron2."""

import subprocess
import sys
import textwrap

from helpers import REPOSITORY

HEAVY = ("torch", "torchvision", "detectron2", "fvcore", "iopath", "timm", "matplotlib")
REFUSE = f"""
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {(*HEAVY, "pycocotools")}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_python(code):
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_runner_and_scenes_work_without_heavy_packages():
    code = """
    import pkgutil, facenet_d2
    import facenet_d2.runtime, facenet_d2.scenes
    from importlib import import_module
    for package in (facenet_d2.runtime, facenet_d2.scenes):
        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    try:
        facenet_d2.Predictor
    except ModuleNotFoundError as error:
        print(error.name)
    """
    assert run_python(REFUSE + textwrap.dedent(code)).strip() in HEAVY


def test_detectron2_is_registered_whatever_is_imported_first():
    code = """
    import os, sys, traceback
    # The child processes need not load these.
    import cv2, matplotlib.pyplot, pycocotools.cocoeval, timm, torch, torchvision
    orders = (
        "import detectron2; import facenet_d2",
        "import facenet_d2; from detectron2.config import get_cfg",
        "import facenet_d2.config_checks.table",
    )
    for order in orders:
        if os.fork() == 0:
            status = 1
            try:
                exec(order)
                from detectron2.data import DatasetCatalog
                from detectron2.evaluation import coco_evaluation
                from detectron2.modeling import META_ARCH_REGISTRY
                from pycocotools.cocoeval import COCOeval
                import facenet_d2.compat
                assert "SOLOv2" in META_ARCH_REGISTRY
                assert "isaid_val" in DatasetCatalog.list()
                if not facenet_d2.compat.compiled_operators_available():
                    assert coco_evaluation.COCOeval_opt is COCOeval
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0, order
    print("all", len(orders))
    """
    assert run_python(textwrap.dedent(code)).strip() == "all 3"
