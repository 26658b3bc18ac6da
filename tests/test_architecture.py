"""The house as it was drawn: who may import whom, what is public, how long a room may be."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bpengine as bp

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bpengine"

# top to bottom: a room imports only from rooms further down
ROOMS = [
    "__main__",
    "cli",
    "doctor",
    "scaling",
    "__init__",
    "estimators.__init__",
    "estimators.ensembles",
    "estimators.search",
    "estimators.classifier",
    "estimators.regressor",
    "estimators.base",
    "estimators.stacked",
    "estimators.stochastic",
    "estimators.full_batch",
    "estimators.watching",
    "estimators.rules",
    "estimators.steps",
    "estimators.losses",
    "estimators.data",
    "plots.__init__",
    "plots.motion",
    "plots.history",
    "plots.regions",
    "plots.weights",
    "plots.steps",
    "plots.benchmarks",
    "plots.style",
    "plots.picture",
    "checking",
    "curvature",
    "second_derivatives",
    "sensitivity",
    "book.__init__",
    "book.mnist_loader",
    "book.network",
    "book.network2",
    "book.shared",
    "book.examples",
    "book.costs",
    "loading",
    "stacking",
    "network",
    "fitting",
    "lbfgs",
    "distributed_training",
    "joining",
    "private_training",
    "stack_training",
    "training",
    "moving",
    "monitoring",
    "stack_sources",
    "streaming",
    "sources",
    "prediction",
    "callbacks",
    "checkpoints",
    "history",
    "persistence",
    "exchange",
    "distributed",
    "private",
    "gaussian",
    "per_example_plans",
    "plan",
    "per_example",
    "equations",
    "initializers",
    "workspace",
    "regularization",
    "members",
    "updates",
    "optimizers",
    "schedules",
    "parameters",
    "costs",
    "activations",
    "validation",
    "collectives",
    "datasets",
    "mnist",
    "backends.choice",
    "backends.__init__",
    "backends.cupy",
    "backends.cupy_program",
    "backends.cupy_random",
    "backends.cupy_table",
    "backends.cupy_feeder",
    "backends.cupy_products",
    "backends.cupy_lines",
    "backends.cupy_source",
    "backends.numba",
    "backends.numba_team",
    "backends.numba_table",
    "backends.numba_layout",
    "backends.numba_own",
    "backends.numba_random",
    "backends.numba_updates",
    "backends.numba_batches",
    "backends.numba_products",
    "backends.numba_vectors",
    "backends.numba_kernels",
    "backends.numba_math",
    "backends.numba_llvm",
    "backends.numba_rows",
    "backends.nccl",
    "backends.numpy",
    "backends.numpy_per_example",
    "backends.numpy_stacks",
    "backends.numpy_updates",
    "backends.blas",
    "backends.array_api",
    "backends.base",
    "blas_core",
    "ratios",
    "reference.paths",
    "reference.diagonal",
    "reference.nudges",
    "reference.forward",
    "reference.stacked",
    "reference.linear",
    "reference.per_example",
    "reference.__init__",
]
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
PUBLIC = re.findall(r"`bp\.(\w+)`", README.partition("## Public names")[2].partition("\n## ")[0])

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
modules = pytest.mark.parametrize("module", FILES)


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def imports(node):
    """Every (module, name) that is imported when the code runs, in functions too."""
    if is_type_checking(node):
        for other in node.orelse:
            yield from imports(other)
    elif isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from ((node.module, alias.name) for alias in node.names)
    else:
        for child in ast.iter_child_nodes(node):
            yield from imports(child)


def room(module, name):
    """The room of the package that an import leads to, or None where it leads elsewhere."""
    parts = module.split(".")
    if parts[0] != "bpengine":
        return None
    inner = ".".join(parts[1:])
    for candidate in (f"{inner}.{name}", f"{inner}.{name}.__init__", inner, f"{inner}.__init__"):
        if candidate.strip(".") in FILES:
            return candidate.strip(".")
    raise AssertionError(f"no room for {module}.{name}")


def test_the_parser_of_imports():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "import numpy as np, bpengine.mnist\n"
        "if TYPE_CHECKING:\n    from bpengine.network import Network\n"
        "else:\n    import one\n"
        "try:\n    from bpengine import datasets\nexcept ImportError:\n    pass\n"
        "class A:\n    def f(self):\n        from bpengine.backends import get\n"
    )
    assert list(imports(tree)) == [
        ("typing", "TYPE_CHECKING"),
        ("numpy", None),
        ("bpengine.mnist", None),
        ("one", None),
        ("bpengine", "datasets"),
        ("bpengine.backends", "get"),
    ]
    assert room("bpengine", "datasets") == "datasets"
    assert room("bpengine.mnist", None) == "mnist"
    assert room("bpengine.backends", "get") == "backends.__init__"
    assert room("bpengine.backends", "numpy") == "backends.numpy"
    assert room("bpengine", "Network") == "__init__"
    assert room("numpy", None) is None


def test_every_room_is_in_the_list_once():
    assert len(set(ROOMS)) == len(ROOMS)
    assert set(FILES) <= set(ROOMS)


@modules
def test_imports_go_downwards(module):
    for source, name in imports(TREES[module]):
        target = room(source, name)
        if target is not None:
            assert ROOMS.index(target) > ROOMS.index(module), f"{module} imports {source}.{name}"


@modules
def test_no_room_takes_what_is_private_to_another(module):
    for source, name in imports(TREES[module]):
        if room(source, name) is not None:
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
        elif module != "cli" and not module.startswith("plots."):
            target = room(source, name)
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
    assert any("cupy" in name for name in names_in(TREES["backends.__init__"]))


def test_public_names():
    assert sorted(bp.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
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
        "from bpengine import blas_core",
        "blas_core.prepare()",
    ]
    *rest, public, version = statements[2:]
    assert all(isinstance(node, ast.ImportFrom) for node in rest)
    assert [ast.unparse(node.targets[0]) for node in (public, version)] == ["__all__", "__version__"]
    assert sorted(alias.name for node in rest for alias in node.names) == sorted(PUBLIC)


def test_equations_are_one_screen():
    text = FILES["equations"].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    for equation in ("BP1", "BP2", "BP3", "BP4"):
        assert equation in text


def lines_of_code(module):
    """Lines that are neither empty nor of a docstring: what there is to understand."""
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
def test_rooms_are_short(module):
    assert lines_of_code(module) <= 300


@modules
def test_each_module_says_what_it_is_in_its_first_line(module):
    docstring = ast.get_docstring(TREES[module])
    assert docstring and docstring.splitlines()[0].endswith((".", "``.", ":", "’"))


def test_importing_loads_nothing_optional():
    optional = [
        "tqdm",
        "platformdirs",
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


@pytest.mark.parametrize("command", [TRAIN, TEST])
def test_readme_gives_the_commands_each_alone_on_its_line(command):
    assert (ROOT / "README.md").read_text(encoding="utf-8").splitlines().count(command) == 1


def test_ci_runs_the_test_command():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert f"command='{TEST}'" in lines
    assert lines.index('eval "$command"') > lines.index(f"command='{TEST}'")
    assert "set -euo pipefail" in lines
