"""The wheel, built from the source distribution, contains configs, programs and zoo files."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from facenet_command import COMMANDS
from helpers import REPOSITORY

from facenet_d2.engine.downloads import LocalConfig

SOURCES = ("facenet_d2", "configs", "tools", "demo")
FILES = ("train_net.py", "setup.py", "pyproject.toml", "README.md", "LICENSE")
CONFIGS = sorted(p.relative_to(REPOSITORY).as_posix() for p in REPOSITORY.glob("configs/**/*.yaml"))
# Weights of the model zoo, which a checkout may lack.
ZOO = ("weights/one.safetensors", "weights/NWPU-VHR10/two.safetensors")


def run(*command, cwd):
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with the files of the wheel."""
    root = tmp_path_factory.mktemp("package")
    source = root / "source"
    for folder in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=ignore)
    for file in FILES:
        shutil.copy(REPOSITORY / file, source / file)
    for file in ZOO:
        path = source / "facenet_d2" / "model_zoo" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    build = "import setuptools.build_meta as b; b.build_sdist('dist')"
    (source / "dist").mkdir()
    run("-c", build, cwd=source)
    (archive,) = (source / "dist").iterdir()
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run("-m", "pip", "wheel", *offline, "--wheel-dir", root, archive, cwd=root)
    (wheel,) = root.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(root / "installed")
    return root / "installed"


def test_files_of_the_wheel(installed):
    package = installed / "facenet_d2"
    expected = {p.relative_to(REPOSITORY) for p in (REPOSITORY / "facenet_d2").rglob("*.py")}
    found = {p.relative_to(installed) for p in package.rglob("*.py")}
    commands = {p for p in found if p.parts[1] == "commands"}
    assert found - commands == expected
    assert (package / "py.typed").is_file()
    for file in ZOO:
        assert (package / "model_zoo" / file).read_bytes() == b"weights"
    names = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert names == {"facenet_d2", "facenet_command.py"}


def test_programs_of_the_wheel(installed):
    (metadata,) = installed.glob("*.dist-info")
    entries = configparser.ConfigParser()
    entries.read(metadata / "entry_points.txt")
    assert dict(entries["console_scripts"]) == {"facenet": "facenet_command:main"}
    folder = installed / "facenet_d2" / "commands"
    programs = {program for program, _ in COMMANDS.values()}
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.py")} == programs
    for program in programs:
        assert (folder / program).read_bytes() == (REPOSITORY / program).read_bytes()


def test_configs_of_the_wheel(installed):
    """They are those of the checkout, and can be read with their bases."""
    folder = installed / "facenet_d2" / "model_zoo"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")) == CONFIGS
    for config in CONFIGS:
        assert (folder / config).read_bytes() == (REPOSITORY / config).read_bytes()
        assert LocalConfig.load_yaml_with_base(str(folder / config)), config


def test_a_program_uses_the_files_of_the_wheel(installed, tmp_path):
    """Outside of the checkout, training finds a config by name, and then misses its data."""
    start = """
import facenet_command, sys
sys.argv[1:] = ["train", "--config-file", "NWPU-VHR10/facenet_R_18_36ep", "MODEL.WEIGHTS", ""]
try:
    facenet_command.main()
finally:
    from facenet_d2 import paths
    print(paths.configs(), paths.train_net())
"""
    environment = {"PYTHONPATH": str(installed), "DETECTRON2_DATASETS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", start],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"{tmp_path / 'nwpu_vhr10' / 'train.json'} does not exist" in done.stderr
    package = installed / "facenet_d2"
    expected = (package / "model_zoo" / "configs", package / "commands" / "train_net.py")
    assert done.stdout.split() == list(map(str, expected))
