#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox"]
# ///
"""Sessions of the project: `nox -s tests` is the one a newcomer runs."""

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, and the examples in README and docstrings."""
    session.install("-e", ".", *group("test"))
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(name="cuda-double", default=False)
def cuda_double(session: nox.Session) -> None:
    """Optional: all tests on a stand-in for a GPU, with CUDA kernels compiled for the host."""
    session.install("-e", ".", *group("test"))
    session.run("pytest", "tests", "-n", "auto", "--cuda-double", "-k", "cuda-double", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's rules and its format."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy in strict mode."""
    session.install("-e", ".", *group("types"))
    session.run("mypy")


@nox.session
def lowest(session: nox.Session) -> None:
    """A part of the tests on the lowest versions of NumPy, array-api-compat, Numba and scikit-learn."""
    extras = PROJECT["project"]["optional-dependencies"]
    required = [*PROJECT["project"]["dependencies"], *extras["numba"], *extras["estimators"]]
    lowest = [requirement.replace(">=", "==") for requirement in required]
    session.install("-e", ".", *group("test"), *lowest)
    parts = ["backends", "backprop", "data", "model", "network", "optimizers", "training"]
    folders = [f"tests/{part}" for part in parts]
    session.run("pytest", *folders, "-n", "auto", "-k", "numpy", *session.posargs)
    session.run(
        "pytest", "tests/backends/test_numba_random.py", "tests/backprop/test_plan.py", "-k", "numba"
    )
    # networks of scikit-learn 1.6 have no sample_weight and no loss to compare with
    session.run(
        "pytest",
        "tests/estimators",
        "-n",
        "auto",
        "-k",
        "not equal_to and not those_of and not counts",
        "-W",
        "ignore::pytest.PytestRemovedIn10Warning",
    )


@nox.session(default=False)
def nightly(session: nox.Session) -> None:
    """Optional, needs a network: a part of the tests on NumPy's nightly wheels."""
    session.install("-e", ".", *group("test"))
    wheels = "https://pypi.anaconda.org/scientific-python-nightly-wheels/simple"
    session.install("--upgrade", "--pre", "--extra-index-url", wheels, "--no-deps", "numpy")
    allow_newer_numpy(session)
    parts = ["backends", "backprop", "data", "derivatives", "model", "network", "optimizers", "training"]
    folders = [f"tests/{part}" for part in parts]
    session.run("pytest", *folders, "-n", "auto", "-k", "numpy or numba", *session.posargs)


def allow_newer_numpy(session: nox.Session) -> None:
    """Let the installed Numba load with a NumPy that is newer than its release."""
    find = "import importlib.util; print(importlib.util.find_spec('numba').origin)"
    path = Path(session.run("python", "-c", find, silent=True).strip())
    source = path.read_text(encoding="utf-8")
    changed, found = re.subn(r"if numpy_version > \(\d+, \d+\):", "if False:", source)
    if not found:
        session.error(f"{path} no longer compares NumPy's version as expected")
    path.unlink()  # uv links files to its cache: write another
    path.write_text(changed, encoding="utf-8")


@nox.session
def perf(session: nox.Session) -> None:
    """Counts and time ratios of steps, kernels and calls: docs/performance-check.md."""
    session.install("-e", ".[numba,estimators]")
    session.run("python", "benchmarks/perf.py", *(session.posargs or ["check"]))


@nox.session
def mpi(session: nox.Session) -> None:
    """Ranks under a real mpiexec, and a search over a local Dask cluster: docs/many-machines.md."""
    session.install("-e", ".", *group("mpi"))
    session.run("pytest", "tests/mpi", *session.posargs)
    script(session, "distributed", *SHORTEST["distributed"], silent=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The guide, in docs/_build/html; any warning is an error."""
    session.install("-e", ".", *group("docs"))
    strict = ["-W", "--keep-going", "-n", "-E"]
    session.run("sphinx-build", *strict, "docs", "docs/_build/html", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """What a release uploads, in dist: sdist and wheel."""
    session.install("build", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    with zipfile.ZipFile(next(Path("dist").glob("*.whl"))) as wheel:
        metadata = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
        if re.search(r"\]\((?!https?://|#)", wheel.read(metadata).decode()):
            session.error("README, as an index shows it, has relative addresses: hatch_build.py")


@nox.session(default=False)
def links(session: nox.Session) -> None:
    """Optional, needs a network: the guide's links to other sites."""
    session.install("-e", ".", *group("docs"))
    session.run("sphinx-build", "-b", "linkcheck", "docs", "docs/_build/links", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Optional: the benchmark suite, and docs/benchmarks-core.md with its pictures."""
    session.install("-e", ".", *group("bench"))
    session.run("pytest", "benchmarks", "--benchmark-columns=median")
    session.run("python", "benchmarks/report.py", "core", *session.posargs)


@nox.session(name="bench-quick")
def bench_quick(session: nox.Session) -> None:
    """Whether the benchmarks run: the suite once, each script in its shortest form or its help."""
    session.install("-e", ".", *group("bench"))  # as `bench`, then what the other scripts need
    session.run("pytest", "benchmarks", "--benchmark-disable")
    script(session, "report core", *SHORTEST["report core"], silent=True)
    session.install("-e", ".[numba,estimators]")
    session.run("pytest", "benchmarks", "--benchmark-disable")
    folder = session.create_tmp()
    for option in ("save=before", "compare", f"json={folder}/times.json"):  # of docs/benchmarks.md
        selected = ["-k", "nielsen and bpengine", f"--benchmark-storage={folder}"]
        session.run("pytest", "benchmarks", *selected, f"--benchmark-{option}", silent=True)
    paths = sorted(Path("benchmarks").glob("*.py"))
    code = "import sys; sys.path.insert(0, 'benchmarks'); sys.argv[1:] = ['--unknown']; import "
    code += ", ".join(path.stem for path in paths)
    if printed := session.run("python", "-c", code, silent=True):
        session.error(f"importing the scripts prints: {printed}")
    for name, options in SHORTEST.items():
        if name != "distributed":  # which needs MPI: the session `mpi` runs it
            script(session, name, *options, silent=True)
    run = {name.split()[0] for name in SHORTEST}
    for path in paths:  # those that take too long, or need a GPU
        if path.stem not in run and '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            script(session, path.stem, "--help", silent=True)


def script(session: nox.Session, name: str, *options: str, **keywords: Any) -> None:
    """Run one of benchmarks/, named with its first argument if it has some."""
    stem, *what = name.split()
    session.run("python", f"benchmarks/{stem}.py", *what, *options, **keywords)


# the pages of benchmarks, by the scripts that write them, in order
REPORTS = {
    "report core": [],
    "report peers": [],
    "compiled": [],
    "per_example": ["--threads", "1"],
    "stacks": ["--pairs", "15"],
    "estimators": ["--pairs", "5", "--examples", "4000", "--epochs", "30"],
    "distributed": ["--pairs", "5"],
    "calls": ["--pairs", "11"],
}
# as short as can be, and writing nothing
SHORTEST = {
    "busy": ["--processes", "1", "--rungs", "tiny", "--pairs", "5"],
    "calls": [
        *("--sizes", "2-3-3-1, 50", "--pairs", "5", "--backends", "numpy"),
        *("--searches", "--rungs", "tiny", "--processes", "1", "--print"),
    ],
    "resources": ["--processes", "1", "--examples", "2000"],
    "numba_rule": ["--shapes", "2-3-3-1, batch 50", "--pairs", "5"],
    "search": ["64-20-10", "--epochs", "2", "--rounds", "1"],
    "book": ["--data", "none", "--examples", "20", "--epochs", "1", "--pairs", "5"],
    "tried": ["tiny", "--pairs", "5"],
    "report core": ["--rungs", "tiny", "--print"],
    "report peers": ["--rungs", "tiny", "--print"],
    "compiled": ["--rungs", "tiny", "--print"],
    "per_example": ["tiny", "--pairs", "5", "--threads", "1", "--print"],
    "stacks": ["--pairs", "5", "--networks", "2", "--threads", "1", "--print"],
    "estimators": [
        *("--pairs", "1", "--examples", "200", "--epochs", "1", "--print"),
        *("--networks", "digits, 64-100-10"),
    ],
    "distributed": ["--pairs", "1", "--rungs", "small", "--print"],
}


@nox.session(name="bench-all", default=False)
def bench_all(session: nox.Session) -> None:
    """Optional: every page of benchmarks made again, on a machine that does nothing else.

    `nox -s bench-all -- --quick` only tries whether all of them can be made.
    """
    packages = [*group("bench"), *group("peers"), "opacus>=1.5"]
    session.install("-e", ".[numba,estimators,mpi]", *packages)
    for name, full in REPORTS.items():
        options = SHORTEST[name] if "--quick" in session.posargs else full
        threads = {"OPENBLAS_NUM_THREADS": "1"} if name == "estimators" else None
        script(session, name, *options, env=threads)


@nox.session(name="bench-peers", default=False)
def bench_peers(session: nox.Session) -> None:
    """Optional: the same against JAX, PyTorch and scikit-learn: docs/benchmarks-peers.md."""
    session.install("-e", ".[numba]", *group("bench"), *group("peers"))
    session.run("python", "benchmarks/report.py", "peers", *session.posargs)


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """Optional: PyTorch tensors as a backend, and gradients against PyTorch's."""
    session.install("-e", ".", *group("test"), *group("peers"))
    session.run("pytest", "tests/peers", *session.posargs)


@nox.session(name="bench-numba", default=False)
def bench_numba(session: nox.Session) -> None:
    """Optional: compiled plans against NumPy's and JAX: docs/benchmarks-numba.md."""
    session.install("-e", ".[numba]", *group("bench"), "jax>=0.4.30")
    session.run("python", "benchmarks/compiled.py", *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Optional, needs an NVIDIA GPU: smoke test, all tests and benchmark, into gpu-out: docs/gpu.md.

    `nox -s gpu -- cuda12` for a driver of CUDA 12, `smoke`, `tests` or `bench` for parts, and
    `wheels=FOLDER` to install from there and not from an index; pytest takes what else is given.
    """
    rest = install_gpu(session, *group("test"))
    session.run("python", "benchmarks/gpu_run.py", *rest)


@nox.session(name="bench-gpu", default=False)
def bench_gpu(session: nox.Session) -> None:
    """Optional, needs an NVIDIA GPU: docs/benchmarks-gpu.md and its picture, against PyTorch and JAX.

    `cuda12` and `wheels=FOLDER` as for `gpu`.
    """
    jax = "jax[cuda12]>=0.7" if "cuda12" in session.posargs else "jax[cuda13]>=0.7"
    rest = install_gpu(session, *group("bench"), "torch>=2.4", jax)
    session.run("python", "benchmarks/gpu.py", *rest)


def install_gpu(session: nox.Session, *packages: str) -> list[str]:
    """Install what a GPU needs, from the index or a folder of wheels; returns the other arguments."""
    extra = "cuda12" if "cuda12" in session.posargs else "cuda13"
    rest = [argument for argument in session.posargs if argument not in ("cuda12", "cuda13")]
    folders = [argument for argument in rest if argument.startswith("wheels=")]
    source = ["--no-index"] if folders else []
    for folder in folders:
        source += ["--find-links", folder.removeprefix("wheels=")]
    session.install(*source, "-e", f".[{extra}]", *packages)
    return [argument for argument in rest if argument not in folders]


@nox.session(name="nvrtc", default=False)
def compile_kernels(session: nox.Session) -> None:
    """Optional: every CUDA kernel compiles for a GPU, by NVIDIA's compiler, which needs no GPU."""
    session.install("-e", ".", *group("test"), *group("nvrtc"))
    session.run("pytest", "tests/backends/test_cupy.py", "-n", "auto", "-k", "for_a_gpu or wrong_source")


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Optional: ten minutes of wrong calls, damaged files, kills and random networks against JAX."""
    session.install("-e", ".", *group("test"), "jax>=0.4.30")
    session.run("python", "-m", "fuzz", *session.posargs)


@nox.session(default=False)
def exhaustive(session: nox.Session) -> None:
    """Optional: the compiled exp, expm1, log1p, sigmoid and tanh on every float32."""
    session.install("-e", ".", *group("test"))
    session.run(
        "pytest",
        "tests/backends/test_numba.py",
        "-k",
        "every_float32",
        *session.posargs,
        env={"BPENGINE_EXHAUSTIVE": "1"},
    )


if __name__ == "__main__":
    nox.main()
