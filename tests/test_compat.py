"""The package without Detectron2's compiled operators, and what its import registers."""

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


def test_works_with_the_compiled_module_absent():
    """Hide ``detectron2._C`` if it is installed, import the package and call an operator."""
    done = run_python(
        """
        import importlib.abc, sys

        class Hide(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "detectron2._C":
                    raise ModuleNotFoundError(name)

        import importlib.util
        find_spec = importlib.util.find_spec
        hidden = "detectron2._C"
        importlib.util.find_spec = lambda n, p=None: None if n == hidden else find_spec(n, p)
        sys.meta_path.insert(0, Hide())
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


def test_a_stand_in_for_pkg_resources_finds_files():
    done = run_python(
        """
        import importlib.util, sys
        find_spec = importlib.util.find_spec
        hidden = "pkg_resources"
        importlib.util.find_spec = lambda n, p=None: None if n == hidden else find_spec(n, p)
        import facenet_d2, detectron2
        assert sys.modules["pkg_resources"].__spec__.loader is None
        import pkg_resources
        from detectron2.model_zoo import model_zoo
        assert model_zoo.pkg_resources is pkg_resources
        found = pkg_resources.resource_filename("detectron2.model_zoo", "model_zoo.py")
        assert found == model_zoo.__file__, found
        """
    )
    assert done.returncode == 0, done.stderr


def test_stand_in_has_no_dunder_attributes():
    stand_in = compat._MissingOperators()
    with pytest.raises(AttributeError):
        _ = stand_in.__wrapped__
    assert stand_in.has_cuda() is False


def test_importing_the_package_registers_everything():
    done = run_python(
        """
        import facenet_d2
        from detectron2.data import DatasetCatalog
        from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
        from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
        for neck in ("face_fpn", "sem_fpn", "pafpn", "bifpn", "hrfpn"):
            BACKBONE_REGISTRY.get(f"build_resnet_{neck}_backbone")
        META_ARCH_REGISTRY.get("SOLOv2"), META_ARCH_REGISTRY.get("SOLO")
        ROI_MASK_HEAD_REGISTRY.get("MaskScoringHead")
        sets = ("nwpu_vhr10_train", "nwpu_vhr10_test", "isaid_val", "hrsid_train")
        assert {*sets, "synthetic_aerial_val"} <= set(DatasetCatalog.list())
        """
    )
    assert done.returncode == 0, done.stderr


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
