"""The package without Detectron2's compiled operators, and what its import registers."""

import json
import subprocess
import sys
import textwrap

import pytest
from helpers import REPOSITORY

from facenet_d2 import compat


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )


# Hides ``detectron2._C`` and ``pkg_resources``, if they are installed.
HIDE = """
import importlib.abc, importlib.util, sys

hidden = ("detectron2._C", "pkg_resources")

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in hidden:
            raise ModuleNotFoundError(name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda n, p=None: None if n in hidden else find_spec(n, p)
sys.meta_path.insert(0, Hide())
"""


def test_works_without_the_compiled_module_and_pkg_resources():
    """Import the package, call an operator, and find a file of Detectron2."""
    done = run_python(
        HIDE
        + """
import facenet_d2, facenet_d2.engine, facenet_d2.data, facenet_d2.evaluation
import facenet_d2.visualization, detectron2.utils.collect_env
assert not facenet_d2.compat.compiled_operators_available()
import detectron2.evaluation.coco_evaluation as e
from pycocotools.cocoeval import COCOeval
assert e.COCOeval_opt is COCOeval
assert "not built" in detectron2.utils.collect_env.collect_env_info()
import torch
from detectron2 import _C
assert _C.__spec__ is not None
try:
    _C.nms_rotated(torch.zeros(1))
except RuntimeError as error:
    print(error)

assert sys.modules["pkg_resources"].__spec__.loader is None
import pkg_resources
from detectron2.model_zoo import model_zoo
assert model_zoo.pkg_resources is pkg_resources
found = pkg_resources.resource_filename("detectron2.model_zoo", "model_zoo.py")
assert found == model_zoo.__file__, found
"""
    )
    assert done.returncode == 0, done.stderr
    assert "nms_rotated" in done.stdout
    assert "without its compiled operators" in done.stdout


def test_nothing_in_the_package_uses_the_compiled_module():
    for folder in ("facenet_d2", "tools", "demo"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            if file.name == "compat.py":
                continue
            text = file.read_text()
            assert "detectron2._C" not in text, file
            assert "import _C" not in text, file
            assert "DeformConv(" not in text, file


def test_stand_in_has_no_dunder_attributes():
    stand_in = compat._MissingOperators()
    with pytest.raises(AttributeError):
        _ = stand_in.__wrapped__
    assert stand_in.has_cuda() is False


@pytest.fixture(scope="module")
def fresh():
    """Return what a new process has imported and registered after the import of the package."""
    done = run_python(
        """
        import json, sys
        import facenet_d2, detectron2
        package = sorted(sys.modules)
        import facenet_d2.preparing.published, facenet_d2.preparing.patches
        preparing = sorted(sys.modules)
        from detectron2.data import DatasetCatalog
        from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
        from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
        registries = (BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_MASK_HEAD_REGISTRY)
        names = [*DatasetCatalog.list(), *(name for r in registries for name, _ in r)]
        print(json.dumps({"package": package, "preparing": preparing, "registered": names}))
        """
    )
    assert done.returncode == 0, done.stderr
    return {k: {*v} for k, v in json.loads(done.stdout.splitlines()[-1]).items()}


def test_importing_the_package_registers_everything(fresh):
    expected = {f"build_resnet_{n}_backbone" for n in ("face_fpn", "sem_fpn", "pafpn", "bifpn")}
    expected |= {"build_resnet_hrfpn_backbone", "SOLOv2", "SOLO", "MaskScoringHead"}
    expected |= {"nwpu_vhr10_train", "nwpu_vhr10_test", "isaid_val", "hrsid_train"}
    expected |= {"synthetic_aerial_val"}
    assert expected <= fresh["registered"]


def test_importing_the_package_imports_no_drawing(fresh):
    """Registering the built-in data set does not import what draws it."""
    assert "facenet_d2.data.datasets.synthetic_aerial" in fresh["package"]
    assert {m for m in fresh["package"] if m.startswith("facenet_d2.synthetic.")} == set()


@pytest.mark.parametrize("step", ["package", "preparing"])
def test_importing_the_package_imports_no_checks(fresh, step):
    assert {m for m in fresh[step] if m.startswith("facenet_d2.checking")} == set()
    assert not fresh[step] & {"shapely", "matplotlib.pyplot", "scipy.optimize"}


def test_opencv_without_its_system_libraries_says_what_to_install():
    code = """
import sys
from importlib.abc import MetaPathFinder

class Slim(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "cv2":
            message = "libGL.so.1: cannot open shared object file: No such file or directory"
            raise ImportError(message)

sys.meta_path.insert(0, Slim())
import facenet_d2
"""
    result = run_python(code)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: OpenCV cannot be loaded (libGL.so.1: cannot open")
    assert "opencv-python-headless" in last
    assert "During handling" not in result.stderr
