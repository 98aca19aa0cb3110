#!/usr/bin/env python3
"""Install Detectron2 0.6 as pure Python, from a source archive pinned by its hash.

Detectron2 is not in the Python package index under its own name. The archive
``pb1-detectron2==0.6`` there holds the Python files of upstream's tag v0.6, unchanged, but not
the C++ sources, so ``pip install`` of it fails. This script downloads the archive, refuses it
unless its SHA-256 is the one below, builds a wheel named ``detectron2`` without the compiled
operators, and installs that. It does nothing when a Detectron2 is already installed.

FACENet needs none of the compiled operators. Where you want them (rotated boxes, the fast COCO
evaluation), install Detectron2 by its own instructions instead:
https://detectron2.readthedocs.io/en/latest/tutorials/install.html

Run it with the Python it is to install into, after torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ARCHIVE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# `black` is pinned to a release that needs an old click, `future` serves the removed Caffe2 export;
# nothing in the package imports either at run time.
UNNEEDED_REQUIREMENTS = ("black", "future")

# Runs the archive's own setup.py, with what cannot be built here taken out of its arguments.
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


def pip(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *args], check=True)


def build_wheel(out_dir: Path, work_dir: Path) -> Path:
    """Download, verify and build; returns the path of the wheel in ``out_dir``."""
    requirements = work_dir / "detectron2.txt"
    requirements.write_text(f"{ARCHIVE} --hash=sha256:{SHA256}\n")
    pip(
        *("download", "--quiet", "--require-hashes", "--no-deps"),
        *("--no-build-isolation", "--no-binary", ":all:"),
        *("--requirement", str(requirements), "--dest", str(work_dir)),
    )
    (archive,) = work_dir.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work_dir, filter="data")
    (source,) = (p for p in work_dir.iterdir() if (p / "setup.py").is_file())
    out_dir.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD_WHEEL, str(out_dir.resolve())],
        cwd=source,
        check=True,
    )
    (wheel,) = out_dir.glob("detectron2-*.whl")
    return wheel


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--constraint", metavar="FILE", help="pip constraints for Detectron2's own requirements"
    )
    parser.add_argument(
        "--wheel-dir", metavar="DIR", type=Path, help="only build the wheel, into this folder"
    )
    args = parser.parse_args()

    if args.wheel_dir is None and importlib.util.find_spec("detectron2") is not None:
        print("Detectron2 is already installed; nothing to do.")
        return 0
    if importlib.util.find_spec("torch") is None:
        print("error: install torch first; Detectron2's setup.py imports it.", file=sys.stderr)
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
        print(f"error: installing Detectron2 failed (exit code {e.returncode}).", file=sys.stderr)
        return 1
    print("Installed Detectron2 0.6 (pure Python).")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
