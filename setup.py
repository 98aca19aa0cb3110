"""Adds configs and commands to the package; all other metadata is in pyproject.toml.

In a checkout they are next to the package, as users of Detectron2 expect. A wheel contains copies,
like Detectron2's of its configs. An editable install reads them in the checkout.
"""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from facenet_command import COMMANDS  # noqa: E402

CONFIGS, PROGRAMS = Path("facenet_d2/model_zoo/configs"), Path("facenet_d2/commands")


class BuildPackage(build_py):
    """Copies the configs and the programs of the command ``facenet`` into the package."""

    def copies(self) -> dict[str, str]:
        """Return the copied files: {path in the wheel: path in the checkout}."""
        configs = [f.relative_to(ROOT) for f in sorted(ROOT.glob("configs/**/*.yaml"))]
        copied = {CONFIGS / file.relative_to("configs"): file for file in configs}
        copied |= {PROGRAMS / program: Path(program) for program, _ in COMMANDS.values()}
        return {str(Path(self.build_lib, to)): str(file) for to, file in copied.items()}

    def run(self) -> None:
        if not self.editable_mode:
            # Left by an earlier build, when there were other files.
            for folder in (CONFIGS, PROGRAMS):
                shutil.rmtree(Path(self.build_lib, folder), ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for target, source in self.copies().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self.copies()]

    def get_output_mapping(self) -> dict[str, str]:
        return {**super().get_output_mapping(), **self.copies()}

    def get_source_files(self) -> list[str]:
        """Return the files of the package for the source distribution."""
        return [*super().get_source_files(), *self.copies().values()]


setup(cmdclass={"build_py": BuildPackage})
