#!/usr/bin/env python3
"""Install Detectron2 0.6 as pure Python, from a source archive pinned by its hash.

The Python package index does not have Detectron2 under its own name. Its archive
``pb1-detectron2==0.6`` contains the unchanged Python files of the tag v0.6 but not the C++ sources,
so ``pip install`` fails on it. This script downloads the archive, verifies its SHA-256, builds a
wheel named ``detectron2`` without the compiled operators, and installs it. It does nothing if
Detectron2 is already installed.

FACENet does not use the compiled operators. If you want them (rotated boxes, the fast COCO
evaluation), install Detectron2 according to its own instructions instead:
https://detectron2.readthedocs.io/en/latest/tutorials/install.html

Install torch first, and run this script with the Python interpreter to install into.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

ARCHIVE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# Detectron2 imports neither at run time: `black` is pinned to a version that needs an old click,
# and `future` served the removed Caffe2 export.
UNNEEDED_REQUIREMENTS = ("black", "future")

# Runs the archive's setup.py without the extensions and the requirements above.
BUILD_WHEEL = f"""
import runpy, sys
from pathlib import Path
import setuptools

original = setuptools.setup

def pure_python_setup(**kwargs):
    zoo = Path("detectron2/model_zoo")
    kwargs.update(
        name="detectron2",
        ext_modules=[],
        extras_require={{}},
        install_requires=[
            r for r in kwargs["install_requires"] if not r.startswith({UNNEEDED_REQUIREMENTS!r})
        ],
        package_data={{
            "detectron2.model_zoo": [
                str(p.relative_to(zoo)) for p in zoo.glob("configs/**/*") if p.is_file()
            ]
        }},
    )
    original(**kwargs)

setuptools.setup = pure_python_setup
sys.argv = ["setup.py", "-q", "bdist_wheel", "--dist-dir", sys.argv[1]]
sys.path.insert(0, "")
runpy.run_path("setup.py", run_name="__main__")
"""


# Newer versions of pip refuse the archive, for an address among its optional requirements. Newer
# versions of setuptools lack pkg_resources, and older ones cannot build wheels by themselves.
BUILD_REQUIREMENTS = ("pip<26.3", "setuptools>=70.1,<81")


def pip(*args: str, env: Mapping[str, str] | None = None) -> None:
    subprocess.run([sys.executable, "-m", "pip", *args], env=env, check=True)


def build_wheel(out_dir: Path, work_dir: Path) -> Path:
    """Download and verify the archive and build a wheel from it.

    Args:
        out_dir: folder for the wheel.
        work_dir: temporary folder for the archive and its files.

    Returns:
        path of the wheel.

    Raises:
        subprocess.CalledProcessError: if the download, the verification or the build fails.
    """
    build_tools = work_dir / "build_tools"
    pip("install", "--quiet", "--target", str(build_tools), *BUILD_REQUIREMENTS)
    path = [str(build_tools), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    requirements = work_dir / "detectron2.txt"
    requirements.write_text(f"{ARCHIVE} --hash=sha256:{SHA256}\n")
    pip(
        *("download", "--quiet", "--require-hashes", "--no-deps"),
        *("--no-build-isolation", "--no-binary", ":all:"),
        *("--requirement", str(requirements), "--dest", str(work_dir)),
        env=env,
    )
    (archive,) = work_dir.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work_dir, filter="data")
    (source,) = (p for p in work_dir.iterdir() if (p / "setup.py").is_file())
    out_dir.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD_WHEEL, str(out_dir.resolve())],
        cwd=source,
        env=env,
        check=True,
    )
    (wheel,) = out_dir.glob("detectron2-*.whl")
    return wheel


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--constraint", metavar="FILE", help="pip constraints file for Detectron2's requirements"
    )
    parser.add_argument(
        "--wheel-dir", metavar="DIR", type=Path, help="only build the wheel, in this folder"
    )
    args = parser.parse_args()

    if args.wheel_dir is None and importlib.util.find_spec("detectron2") is not None:
        print("Detectron2 is already installed; nothing to do.")
        return 0
    if importlib.util.find_spec("torch") is None:
        print(
            "error: torch is not installed; install it first, Detectron2's setup.py needs it.",
            file=sys.stderr,
        )
        return 1
    try:
        with tempfile.TemporaryDirectory() as tmp:
            work_dir = Path(tmp)
            wheel = build_wheel(args.wheel_dir or work_dir / "wheel", work_dir)
            if args.wheel_dir is not None:
                print(f"Built {wheel}")
                return 0
            constraint = ["--constraint", args.constraint] if args.constraint else []
            pip("install", "--quiet", *constraint, str(wheel))
    except subprocess.CalledProcessError as e:
        print(
            "error: Detectron2 was not installed: the command above failed with exit code "
            f"{e.returncode}.",
            file=sys.stderr,
        )
        return 1
    print("Installed Detectron2 0.6 (pure Python).")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
