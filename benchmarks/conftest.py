"""Sets the threads of NumPy's BLAS and of peers, for `pytest benchmarks`, and keeps peers' warnings."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
THREADS = os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy and the peers load
for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = THREADS
os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(THREADS != '1').lower()}"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the scripts out: they have no doctests, and some need further packages."""
    is_script = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return is_script or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep warnings of peers from failing a benchmark."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def group(benchmark):
    """Sets the group of a benchmark: what is done, and with how many threads."""
    from bpengine import openblas

    def named(what: str) -> None:
        threads = openblas.threads() or int(THREADS)
        benchmark.group = f"{what}, {threads} thread{'s' * (threads > 1)}"
        benchmark.extra_info["threads"] = threads

    return named
