"""First contact with a GPU: `python benchmarks/gpu_smoke.py` checks the riskiest parts in seconds.

Expected: no warning; errors of about 1e-7 n in float32 and 1e-16 n in float64, never nan; the same
memory left from the second round on.
"""

from __future__ import annotations

import argparse
import logging
import sys

import numpy as np
from array_api_compat import array_namespace

import bpengine as bp
from bpengine import backends
from bpengine.backends import Operation

NO_GPU = 3  # the exit code without one


def products(backend: backends.Backend) -> None:
    """Products of several sizes, call by call and as graphs."""
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        for n in (1, 3, 64, 515):
            x, y = rng.random((n, n + 1)), rng.random((n + 1, n + 2))
            out = backend.empty((n, n + 2), dtype)
            out[...] = float("nan")  # which β = 0 must not read
            inputs = backend.asarray(x, dtype), backend.asarray(y, dtype)
            backend.compile([Operation("matmul", "", lambda p, q: p @ q, inputs, out)]).run(20)
            print(dtype, n, f"{np.abs(backend.to_numpy(out) - x @ y).max():.2e}", flush=True)


def trainings(backend: backends.Backend, rounds: int = 9) -> None:
    """Trainings, also with a custom activation, whose graphs have memory of their temporary arrays."""
    rng = np.random.default_rng(0)
    X, Y = rng.random((784, 4096)), rng.random((10, 4096))
    sine = bp.Activation(
        "sine", lambda z: array_namespace(z).sin(z), lambda z: array_namespace(z).cos(z)
    )
    for i in range(rounds):
        for σ in ("sigmoid", sine):
            net = bp.Network([784, 512, 10], activations=[σ, "sigmoid"], backend=backend, rng=0)
            history = net.fit(X, Y, epochs=2, batch_size=128, progress=False)
            backend.synchronize()
            left = (backend.memory_left() or 0) >> 20
            print(f"round {i}: cost {history.cost[-1]:.6f}, {left} MB left", flush=True)


def main() -> int:
    """Run both on the current GPU; without one, returns `NO_GPU`."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        backend = backends.get("cupy")
    except backends.BackendUnavailableError as error:
        print(f"benchmarks/gpu_smoke.py needs a GPU: {error}", file=sys.stderr)
        return NO_GPU
    products(backend)
    trainings(backend)
    return 0


if __name__ == "__main__":
    sys.exit(main())
