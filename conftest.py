"""An option, and what pytest does not collect where an optional package is absent."""

import importlib.util

import pytest

pytest_plugins = ["pytester"]
collect_ignore = ["tests/mpi/program.py"]  # run under mpiexec by the tests beside it
collect_ignore_glob = []
# tests and docstrings of what is optional: left out where a package they import is not installed
OPTIONAL = {
    "numba": ["bpengine/backends/numba/*.py", "tests/backends/test_numba*.py"],
    "torch": ["tests/peers/*torch.py", "tests/peers/test_exchange.py"],
    "jax": ["tests/peers/test_per_example_jax.py"],
    "mpi4py": ["tests/mpi/*"],
    "distributed": ["tests/mpi/test_dask.py", "tests/mpi/test_guide.py"],
    "sklearn": ["benchmarks/estimators.py", "benchmarks/search.py"],
}
for package, paths in OPTIONAL.items():
    if importlib.util.find_spec(package) is None:
        collect_ignore_glob += paths


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that asks for the stand-in for a GPU."""
    parser.addoption(
        "--cuda-double",
        action="store_true",
        help="run tests also on a stand-in for a GPU, whose CUDA kernels are compiled for the host",
    )
