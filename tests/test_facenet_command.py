"""The command facenet: it lists commands at once, and runs the programs of the checkout."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import facenet_command
import pytest
from helpers import REPOSITORY

# Tools for work on the checkout itself.
OF_THE_CHECKOUT = {"check_python", "facenet_command", "publish_weights"}
SLOW_MODULES = ("torch", "numpy", "detectron2", "facenet_d2")


def call(monkeypatch, *arguments):
    """Call the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/facenet", *arguments])
    monkeypatch.setattr(sys, "path", ["/usr/bin", *sys.path])
    # The program takes the place of the main module.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    try:
        return facenet_command.main()
    except SystemExit as error:
        return error.code


def test_the_list_needs_none_of_the_packages():
    start = f"""
import sys, facenet_command
sys.argv = ["facenet"]
assert facenet_command.main() == 0
assert not set({SLOW_MODULES}) & set(sys.modules)
"""
    folder = REPOSITORY / "tools"
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=folder, capture_output=True, text=True, check=True
    )
    for name, (_, description) in facenet_command.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert f"  {description}\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_every_program_is_a_command():
    programs = {program for program, _ in facenet_command.COMMANDS.values()}
    tools = {f"tools/{p.name}" for p in (REPOSITORY / "tools").glob("*.py")}
    others = {f"tools/{name}.py" for name in OF_THE_CHECKOUT}
    assert programs == {"train_net.py", "demo/demo.py", *tools} - others


@pytest.mark.parametrize("name", facenet_command.COMMANDS)
def test_every_command_is_in_the_docs(name):
    text = (REPOSITORY / "docs" / "GETTING_STARTED.md").read_text()
    # A row names its first command in full: `facenet prepare scenes`, `isaid`.
    family, _, last = name.rpartition(" ")
    lines = [
        x for x in text.splitlines() if f"`facenet {family}" in x and re.search(rf"[` ]{last}`", x)
    ]
    assert lines


@pytest.mark.parametrize("name", facenet_command.COMMANDS)
def test_help_is_that_of_the_program(name, monkeypatch, capsys):
    assert call(monkeypatch, *name.split(), "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(f"usage: facenet {name} [-h]")
    source = (REPOSITORY / facenet_command.COMMANDS[name][0]).read_text()
    first, *_ = ast.get_docstring(ast.parse(source)).split("\n\n")
    assert " ".join(first.split()) in printed


def test_arguments_and_exit_codes_are_those_of_the_program(monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, "compare", "one.json") == 2
    assert "facenet compare: error: the following arguments" in capsys.readouterr().err
    assert call(monkeypatch, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")) == 2
    assert str(tmp_path / "a.json") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["tran"], 2, "did you mean train?"),
        (["predict_scenes.py"], 2, "did you mean predict?"),
        (["prepare", "isaids"], 2, "'prepare isaids' is not a command"),
        (["xyzxyz"], 2, "facenet --help lists them"),
        (["prepare"], 2, "prepare isaid "),
        (["prepare", "--help"], 0, "prepare isaid "),
        (["--help"], 0, "usage: facenet COMMAND"),
    ],
)
def test_words_that_are_not_a_command(words, code, expected, monkeypatch, capsys):
    assert call(monkeypatch, *words) == code
    printed = capsys.readouterr()
    assert expected in printed.out + printed.err


PROGRAM = """
import multiprocessing, sys

def work(number):
    print("child", number, flush=True)
    sys.exit(number)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work, args=(7,))
    process.start()
    process.join()
    print(sys.argv, flush=True)
    sys.exit(process.exitcode)
"""


def test_a_program_starts_processes(tmp_path):
    """They import functions of the program from its file."""
    (tmp_path / "program.py").write_text(PROGRAM)
    start = tmp_path / "start.py"
    start.write_text(
        "import sys, facenet_command as c\n"
        f"c.COMMANDS['two words'] = ({str(tmp_path / 'program.py')!r}, '')\n"
        "if __name__ == '__main__': c.main()\n"
    )
    environment = {"PYTHONPATH": str(REPOSITORY / "tools")}
    command = [sys.executable, str(start), "two", "words", "--option"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "child 7\n['facenet two words', '--option']\n", done.stderr
    assert done.returncode == 7


def test_without_detectron2(monkeypatch, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("raise ModuleNotFoundError(name='detectron2')\n")
    monkeypatch.setitem(facenet_command.COMMANDS, "own", (str(program), ""))
    assert "facenet install-detectron2" in call(monkeypatch, "own")
    program.write_text("raise ModuleNotFoundError(name='own_module')\n")
    with pytest.raises(ModuleNotFoundError):
        call(monkeypatch, "own")


def test_programs_are_found_in_an_installed_package(monkeypatch, tmp_path):
    assert facenet_command.root() == REPOSITORY
    (tmp_path / "facenet_d2" / "commands").mkdir(parents=True)
    monkeypatch.setattr(facenet_command, "__file__", str(tmp_path / "facenet_command.py"))
    assert facenet_command.root() == Path(tmp_path, "facenet_d2", "commands")
