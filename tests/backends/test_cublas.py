"""cuBLAS by ctypes: the calls reach a library in C that checks them, with NVIDIA's declarations."""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from bpengine.backends.cupy import cublas
from bpengine.backends.cupy.elementwise import View
from bpengine.backends.cupy.matmul import WORKSPACE, Library, product

double = pytest.importorskip("cuda_double")
pytestmark = pytest.mark.skipif(double.COMPILER is None, reason="no C compiler")
STREAM = 77


@functools.cache
def fake():
    source = (double.HOST / "cublas.c").read_text(encoding="utf-8")
    return str(double.built(source, "-x", "c", standard="c11"))


@functools.cache
def workspace():
    memory = np.empty(WORKSPACE + 256, np.uint8)
    return memory, memory.ctypes.data + -memory.ctypes.data % 256


def library(tf32=False):
    found = cublas.Cublas(ctypes.CDLL(fake()))
    made = Library(found, lambda size: workspace(), tf32, threading.RLock())
    made.enter(STREAM)
    return made


def view(x):
    return View(x.ctypes.data, x.shape, tuple(s // x.itemsize for s in x.strides), x.dtype.name)


def laid_out(shape, dtype, layout, rng):
    """A random array: by rows, by columns, or a part of a larger one, by rows or by columns."""
    *lead, n, m = shape
    pad = 3 if "padded" in layout else 0
    if "columns" in layout:
        return rng.standard_normal((*lead, m, n + pad)).astype(dtype)[..., :n].swapaxes(-1, -2)
    return rng.standard_normal((*lead, n, m + pad)).astype(dtype)[..., :m]


LAYOUTS = ["rows", "columns", "padded rows", "padded columns"]
SIZES = [(1, 1, 1), (1, 3, 2), (3, 1, 2), (2, 3, 1), (4, 5, 6)]
STACKS = [((), ()), ((3,), ()), ((), (3,)), ((2,), (2,))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stacks", STACKS)
@pytest.mark.parametrize("tf32", [False, True])
def test_products_reach_cublas_as_they_are_meant(dtype, stacks, tf32):
    made, rng = library(tf32), np.random.default_rng(0)
    for (m, k, n), of_a, of_b, of_c in itertools.product(
        SIZES, LAYOUTS, LAYOUTS, ["rows", "padded rows"]
    ):
        a, b = (
            laid_out((*stacks[0], m, k), dtype, of_a, rng),
            laid_out((*stacks[1], k, n), dtype, of_b, rng),
        )
        for α, β in ((1.0, 0.0), (-0.5, 1.0)):
            c = laid_out((*(a @ b).shape,), dtype, of_c, rng)
            expected = α * (a @ b) + β * c
            if not β:
                c[...] = np.nan
            scalars = np.array([α, β], dtype)
            addresses = scalars.ctypes.data, scalars.ctypes.data + scalars.itemsize
            found = product(view(a), view(b), view(c), *addresses)
            made.multiply(found)
            np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)


def test_an_error_names_the_function_and_the_status():
    found = cublas.Cublas(ctypes.CDLL(fake()))
    handle = found.create()
    with pytest.raises(cublas.CublasError, match=r"cublasSetWorkspace_v2.* cublasStatus_t 7"):
        found.set_workspace(handle, 100, WORKSPACE)
    found.destroy(handle)


def test_a_library_without_a_function():
    with pytest.raises(AttributeError, match="cublasCreate_v2"):
        cublas.Cublas(ctypes.CDLL(None))


def test_the_library_is_the_one_that_cupy_finds(monkeypatch):
    asked = []
    loaded = lambda name: asked.append(name) or SimpleNamespace(abs_path=fake())  # noqa: E731
    pathfinder = SimpleNamespace(load_nvidia_dynamic_lib=loaded)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=pathfinder))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    found = cublas.load()
    found.destroy(found.create())
    assert asked == ["cublas"]


@pytest.mark.parametrize("shape", [(2**31, 1, 1), (1, 2**31, 1), (1, 1, 2**31)])
def test_sizes_beyond_cublas_integers_go_through_expressions(shape):
    for m, k, n in (shape, [x // 2 or 1 for x in shape]):
        views = [View(4096, (r, c), (c, 1), "float32") for r, c in ((m, k), (k, n), (m, n))]
        assert (product(*views, 0, 0) is None) == (max(m, k, n) == 2**31)
