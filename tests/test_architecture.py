"""The layout: who may import whom, what is public, how long a module may be."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from strategies import looped

import bpengine as bp

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bpengine"

# from the top down: a package imports only from packages below; those on one level know nothing of
# each other
LEVELS = [
    {"__main__"},
    {"__init__", "book", "cli", "estimators", "plots"},
    {"legacy", "network"},
    {"callbacks", "distributed", "privacy"},
    {"training", "derivatives"},
    {"backprop"},
    {"data", "datasets", "optimizers"},
    {"model"},
    {"backends", "schedules"},
    {"counting", "openblas", "reference", "timing", "validation"},
]
INDEX = (PACKAGE.parent / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
PUBLIC = re.findall(r"`bp\.(\w+)`", INDEX)

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
modules = looped("module", FILES)


def imports(tree):
    """Every (module, name) that is imported: in functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


def file_of(module, name):
    """The file of the package that an import leads to, or None where it leads elsewhere."""
    parts = module.split(".")
    if parts[0] != "bpengine":
        return None
    inner = ".".join(parts[1:])
    for candidate in (f"{inner}.{name}", f"{inner}.{name}.__init__", inner, f"{inner}.__init__"):
        if candidate.strip(".") in FILES:
            return candidate.strip(".")
    raise AssertionError(f"there is no {module}.{name}")


def imported(module):
    """The files of the package that a file imports."""
    found = (file_of(*pair) for pair in imports(TREES[module]))
    return {target for target in found if target is not None}


def package(module):
    return module.split(".")[0]


def level(module):
    [found] = (i for i, names in enumerate(LEVELS) if package(module) in names)
    return found


def test_the_reader_of_imports():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "import numpy as np, bpengine.datasets\n"
        "if TYPE_CHECKING:\n    from bpengine.network import Network\n"
        "class A:\n    def f(self):\n        from bpengine.backends import get\n"
    )
    assert sorted(imports(tree), key=str) == [
        ("bpengine.backends", "get"),
        ("bpengine.datasets", None),
        ("bpengine.network", "Network"),
        ("numpy", None),
        ("typing", "TYPE_CHECKING"),
    ]
    assert file_of("bpengine", "datasets") == "datasets.__init__"
    assert file_of("bpengine.backends", "get") == "backends.__init__"
    assert file_of("bpengine.backends", "registry") == "backends.registry"
    assert file_of("bpengine", "Network") == "__init__"
    assert file_of("numpy", None) is None


def test_every_package_is_on_one_level():
    assert {package(module) for module in FILES} == set().union(*LEVELS)
    assert len(LEVELS) <= 10
    assert sum(map(len, LEVELS)) <= 25


@modules
def test_packages_import_downwards(module):
    for target in imported(module):
        if package(target) != package(module):
            assert level(target) > level(module), f"{module} imports {target}"


def test_no_circle_of_files():
    TopologicalSorter({module: imported(module) for module in FILES}).prepare()  # names a circle


@modules
def test_a_package_does_not_import_its_own_face(module):
    current = f"{module.rpartition('.')[0]}.__init__"
    assert current not in imported(module)


@modules
def test_backends_do_not_know_each_other(module):
    """But for Numba's, whose arrays are NumPy's; and those who choose among them."""
    if module in ("backends.__init__", "backends.registry"):
        return
    current = module.split(".")[1] if module.startswith("backends.") else None
    for target in imported(module):
        other = target.split(".")[1:2]
        if target.startswith("backends.") and other[0] in ("numpy", "numba", "cupy"):
            assert [current] == other or (current, other) == ("numba", ["numpy"]), (
                f"{module} imports {target}"
            )


@modules
def test_types_of_our_own_are_imported_as_everything_else(module):
    for node in ast.walk(TREES[module]):
        if (
            module != "__init__"
            and isinstance(node, ast.If)
            and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            assert not any(file_of(*pair) for pair in imports(node)), module


@modules
def test_no_module_takes_what_is_private_to_another(module):
    for source, name in imports(TREES[module]):
        if file_of(source, name) is not None:
            assert not str(name).startswith("_"), f"{module} imports {source}.{name}"


@modules
def test_reference_is_numpy_alone_and_for_the_command_line_and_plots_alone(module):
    for source, name in imports(TREES[module]):
        if module.startswith("reference."):
            top = source.split(".")[0]
            assert (
                top == "numpy"
                or top in sys.stdlib_module_names
                or source.startswith("bpengine.reference")
            )
        elif not module.startswith(("cli.", "plots.")):
            target = file_of(source, name)
            assert target is None or not target.startswith("reference.")


def names_in(tree):
    """All that code names: imports, variables, attributes, strings; not docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.name for alias in node.names)
            yield getattr(node, "module", None) or ""
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        ):
            yield node.value


@modules
def test_nothing_outside_backends_names_cupy(module):
    found = [name for name in names_in(TREES[module]) if "cupy" in name.lower()]
    assert not found or module.startswith("backends.")


def test_backends_do_name_cupy():
    assert any("cupy" in name for name in names_in(TREES["backends.registry"]))


def test_public_names():
    assert sorted(bp.__all__) == sorted(PUBLIC)


@looped("name", PUBLIC)
def test_public_names_have_a_docstring(name):
    thing = getattr(bp, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        assert "__doc__" in vars(thing)
        assert not re.match(rf"{name}\(", thing.__doc__), "made by dataclass"
        for member, value in vars(thing).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_init_is_the_public_names_and_nothing_else():
    docstring, *statements = TREES["__init__"].body
    assert isinstance(docstring, ast.Expr)
    # OpenBLAS chooses its kernels while NumPy loads: what is to choose with it comes first
    assert [ast.unparse(node) for node in statements[:2]] == [
        "from bpengine import openblas",
        "openblas.prepare()",
    ]
    [block] = [node for node in statements if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    assert all(isinstance(node, ast.ImportFrom) for node in block.body)
    for_checkers = {
        (alias.name, node.module.removeprefix("bpengine").strip("."))
        for node in block.body
        for alias in node.names
    }
    at_run_time = {(name, module) for module, names in bp.MODULES.items() for name in names}
    assert for_checkers == at_run_time | {(name, "") for name in bp.PACKAGES & set(PUBLIC)}
    assert {name for name, _ in for_checkers} == set(PUBLIC)


def test_modules_are_imported_when_they_are_used():
    code = """
import sys
import bpengine
before = [name for name in sys.modules if name.startswith("bpengine.")]
assert set(before) <= {"bpengine.openblas", "bpengine.legacy", *old}, before
assert "numpy" not in sys.modules
assert bpengine.Network is sys.modules["bpengine.network"].Network
"""
    code = code.replace("*old", "*(f'bpengine.{name}' for name in bpengine.legacy.OLD)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_equations_are_one_screen():
    text = FILES["backprop.equations"].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    for equation in ("BP1", "BP2", "BP3", "BP4"):
        assert equation in text


def lines_of_code(module):
    """Lines that are neither empty nor of a docstring."""
    said = set()
    for node in ast.walk(TREES[module]):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                said.update(range(value.lineno, value.end_lineno + 1))
    lines = FILES[module].read_text(encoding="utf-8").splitlines()
    return sum(bool(line.strip()) for number, line in enumerate(lines, 1) if number not in said)


@modules
def test_modules_are_short(module):
    assert lines_of_code(module) <= 300


@modules
def test_each_module_says_what_it_is_in_its_first_line(module):
    docstring = ast.get_docstring(TREES[module])
    assert docstring and docstring.splitlines()[0].endswith((".", "``.", ":", "’"))


def test_importing_loads_nothing_optional():
    optional = [
        "tqdm",
        "pooch",
        "hypothesis",
        "scipy",
        "safetensors",
        "sklearn",
        "torch",
        "matplotlib",
        "numba",
        "mpi4py",
        "distributed",
        "pytest",
    ]
    code = f"import sys, bpengine; print([name for name in {optional} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


TRAIN = "pip install . && python -m bpengine train digits"
TEST = "pip install nox && nox -s tests"


@looped("command", [TRAIN, TEST])
def test_readme_gives_the_commands_each_alone_on_its_line(command):
    assert (ROOT / "README.md").read_text(encoding="utf-8").splitlines().count(command) == 1


def test_ci_runs_the_test_command():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert f"command='{TEST}'" in lines
    assert lines.index('eval "$command"') > lines.index(f"command='{TEST}'")
    assert "set -euo pipefail" in lines
