"""Modules import only from the layers below their own, so that each part can be read alone."""

import ast
from pathlib import Path

import pytest
from helpers import REPOSITORY

PACKAGE = "facenet_d2"
# Parts of the package, bottom first. A part imports only itself and parts of lower layers.
LAYERS = (
    ("errors", "wording"),
    (
        "compat",
        "cores",
        "exported_options",
        "files",
        "inputs",
        "opencv",
        "signals",
        "startup",
        "stride",
        "unpickling",
    ),
    (
        "config",
        "config_checks",
        "parallel",
        "paths",
        "scenes",
        "structures",
        "synthetic",
    ),
    ("data", "modeling", "runtime", "visualization", "zoo_files"),
    ("evaluation", "weights"),
    ("conversion", "engine"),
    ("analysis", "checking", "clients", "experiments", "export", "model_zoo", "preparing"),
)
# The models, which share code through the rest of `modeling` only.
MODELS = (
    "condinst",
    "mask2former",
    "queryinst",
    "rdsnet",
    "roi_heads",
    "solo",
    "solov2",
    "yolact",
)

LAYER_OF = {part: number for number, layer in enumerate(LAYERS) for part in layer}


def imported_modules(source, module, is_package):
    """Return the absolute names that the imports in a module refer to, at any depth.

    For ``from a import b``, this is "a.b", whether b is a module or not.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            # One dot is the module's own package, which for a package is itself.
            up = node.level - is_package
            prefix = base[: len(base) - up] if node.level else []
            prefix += [node.module] if node.module else []
            names += [".".join([*prefix, alias.name]) for alias in node.names]
    return names


def imports_of_package():
    """Yield (module, name imported from this project) for all modules of the package."""
    for file in sorted((REPOSITORY / PACKAGE).rglob("*.py")):
        parts = list(file.relative_to(REPOSITORY).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        for name in imported_modules(file.read_text(), module, is_package):
            yield module, name


IMPORTS = list(imports_of_package())


def part_of(name):
    return ([*name.split("."), ""])[1]


def test_imports_are_resolved():
    source = (
        "import torch\nfrom . import a\nfrom .b import c\n"
        "def f():\n    from ..d import e\n    from ... import g\n"
    )
    assert imported_modules(source, "p.q.r.m", False) == [
        "torch",
        "p.q.r.a",
        "p.q.r.b.c",
        "p.q.d.e",
        "p.g",
    ]
    assert imported_modules("from .a import b\nfrom .. import c", "p.q", True) == [
        "p.q.a.b",
        "p.c",
    ]


def test_every_part_has_a_layer():
    paths = [p for p in (REPOSITORY / PACKAGE).iterdir() if list(p.glob("*.py"))]
    paths += [p for p in (REPOSITORY / PACKAGE).glob("*.py") if p.stem != "__init__"]
    assert {p.stem for p in paths} == set(LAYER_OF)


@pytest.mark.parametrize("part", LAYER_OF)
def test_a_part_imports_lower_layers_only(part):
    violations = []
    for module, name in IMPORTS:
        if part_of(module) != part or name.split(".")[0] != PACKAGE or part_of(name) == part:
            continue
        # An import from the root package would have no layer, and import everything.
        if LAYER_OF.get(part_of(name), len(LAYERS)) >= LAYER_OF[part]:
            violations.append(f"{module} imports {name}")
    assert violations == []


@pytest.mark.parametrize("model", MODELS)
def test_models_do_not_import_each_other(model):
    others = tuple(f"{PACKAGE}.modeling.{other}." for other in MODELS if other != model)
    own = f"{PACKAGE}.modeling.{model}"
    assert any(module.startswith(own) for module, _ in IMPORTS)
    violations = [
        f"{module} imports {name}"
        for module, name in IMPORTS
        if (module == own or module.startswith(own + ".")) and f"{name}.".startswith(others)
    ]
    assert violations == []


def test_the_package_imports_no_command():
    scripts = [*(REPOSITORY / "tools").glob("*.py"), *(REPOSITORY / "demo").glob("*.py")]
    commands = {"tools", "demo", "train_net", *(Path(script).stem for script in scripts)}
    violations = [
        f"{module} imports {name}" for module, name in IMPORTS if name.split(".")[0] in commands
    ]
    assert violations == []
