"""The GPU's table: `python benchmarks/gpu.py` writes docs/benchmarks-gpu.md and its picture.

Every figure is a ratio of times taken in turn in this process, by events on the device after a warm-up:
time of the contender ÷ time of bpengine's graph, median over pairs with a 95 % bootstrap interval. It
needs a GPU, and says so where there is none.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import contenders
import numpy as np
import pages
from ladder import LADDER, LEARNING_RATE, RUNGS, examples, network

import bpengine as bp
from bpengine import backends, plots
from bpengine.backprop.equations import product as product_of
from bpengine.timing import Ratio, measure

SIZES = [*LADDER, "xlarge"]
STEPS = {"tiny": 800, "nielsen": 800, "small": 400, "medium": 80, "large": 8, "xlarge": 1}
PAIRS = 21
PEERS = {"PyTorch eager": "torch", "torch.compile": "torch", "JAX scan": "jax"}
SQUARE = 8192  # rows of the matrices by which the card's own product rate is measured

Run = Callable[[], object]


class Card:
    """The GPU, and a clock of its events.

    Parameters
    ----------
    precision : {"full", "tf32"}
        Of float32 products, ours and everyone's.
    """

    def __init__(self, precision: str) -> None:
        self.backend: Any = backends.get("cupy", precision=precision)
        self.cuda, self.precision = self.backend.gpu.cupy.cuda, precision
        self._last = self.cuda.Event()
        self._last.record()
        self._seconds = 0.0

    def clock(self) -> float:
        """Seconds, by an event behind all that the default stream was given."""
        event = self.cuda.Event()
        event.record()
        event.synchronize()
        # a float32 number of milliseconds, which must not grow
        self._seconds += float(self.cuda.get_elapsed_time(self._last, event)) / 1e3
        self._last = event
        return self._seconds

    def plan(self, name: str) -> bp.Plan:
        """A rung's training step, its batch loaded."""
        net = network(name, self.backend)
        plan = net.plan(RUNGS[name].batch, bp.SGD(LEARNING_RATE))
        plan.load(*examples(name))
        return plan

    def ours(self, name: str, steps: int) -> Run:
        """Our step, replayed as graphs."""
        plan = self.plan(name)
        return lambda: plan.run(steps)

    def products_alone(self, name: str, steps: int) -> Run:
        """The products of a step and nothing else, by cuBLAS in a graph: the lower bound."""
        plan = self.plan(name)
        plan.run()
        products = [op for op in plan.operations if op.name == "matmul"]
        program = self.backend.compile(products)
        return lambda: program.run(steps)

    def numpy(self, name: str, steps: int) -> Run:
        """bpengine on the CPU of the same machine."""
        return contenders.engine(name, steps)

    def torch_eager(self, name: str, steps: int) -> Run:
        """PyTorch: eager, with the fused SGD."""
        return self._torch(name, steps, None)

    def torch_compile(self, name: str, steps: int) -> Run:
        """PyTorch: torch.compile with CUDA graphs, with the fused SGD."""
        return self._torch(name, steps, "reduce-overhead")

    def _torch(self, name: str, steps: int, mode: str | None) -> Run:
        import torch

        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        X, Y = (torch.from_numpy(np.ascontiguousarray(x.T)).cuda() for x in examples(name))
        model = contenders.torch_model(name).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, fused=True)

        def cost(X: Any, Y: Any) -> Any:
            return 0.5 * ((model(X) - Y) ** 2).sum() / X.shape[0]

        evaluate = cost if mode is None else torch.compile(cost, mode=mode)

        def run() -> None:
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                evaluate(X, Y).backward()
                optimizer.step()

        return run

    def jax_scan(self, name: str, steps: int) -> Run:
        """JAX: jit of a scan over all steps, buffers donated."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or it takes most memory
        import jax

        jax.config.update(
            "jax_default_matmul_precision", "highest" if self.precision == "full" else "tensorfloat32"
        )
        return contenders.jax_scan(name, steps)

    def rate(self) -> float:
        """Floating-point operations a second of large square products: what the card gives."""
        a, b, c = (self.backend.empty((SQUARE, SQUARE), "float32") for _ in range(3))
        for x in (a, b):  # products of constants are faster, as they need less power
            x[...] = self.backend.asarray(np.random.default_rng(0).random(x.shape, "float32"), "float32")
        product = product_of("", a, b, c)
        program = self.backend.compile([product])
        return product.flops / self._median(lambda: program.run(4), 4)

    def launch_cost(self) -> tuple[float, float]:
        """Seconds of a graph's launch, and of one more kernel in a graph."""
        x = [self.backend.asarray(np.zeros(32), "float32") for _ in range(100)]
        σ = network("tiny", self.backend).activations[0]
        # each on an array of its own shape, so that none is part of another's kernel
        lines = [
            op for i, array in enumerate(x) for op in σ.forward(array[: 1 + i % 32], array[: 1 + i % 32])
        ]
        one, many = (self.backend.compile(lines[:n]) for n in (1, 100))
        for program in (one, many):
            program._many = 1  # a launch for each step
        short, long = (self._median(lambda p=p: p.run(200), 200) for p in (one, many))
        return short, (long - short) / 99

    def _median(self, run: Run, steps: int) -> float:
        run()
        run()
        times = []
        for _ in range(PAIRS):
            start = self.clock()
            run()
            times.append((self.clock() - start) / steps)
        return float(np.median(times))

    def describe(self) -> str:
        """The device, the driver and CuPy."""
        runtime = self.cuda.runtime
        name = runtime.getDeviceProperties(self.backend.gpu.number)["name"].decode()
        driver, cuda = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        cupy = self.backend.gpu.cupy.__version__
        return (
            f"{name}, driver for CUDA {driver // 1000}.{driver % 1000 // 10}, CUDA {cuda // 1000}."
            f"{cuda % 1000 // 10}, CuPy {cupy}"
        )


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rungs", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--precision", default="full", choices=["full", "tf32"])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    pages.options(parser)
    chosen = parser.parse_args(arguments)
    if chosen.pairs < 1:
        parser.error("--pairs must be 1 or more")
    return chosen


def page(
    ratios: Mapping[str, Mapping[str, Ratio]],
    rungs: Sequence[str],
    machine: str,
    precision: str,
    rate: float,
    launch: tuple[float, float],
) -> list[str]:
    """The parts of the page: a row a contender, a column a rung."""
    ahead = [r for r in rungs if r in ratios.get("NumPy", {}) and ratios["NumPy"][r].median > 1]
    setting = "float32" if precision == "full" else "float32 with TF32 products"
    return [
        *pages.first_lines(
            "How much time a training step takes in other libraries on the same GPU, and by bpengine on "
            "NumPy, relative to bpengine's graph.",
            "Above 1, bpengine on the GPU is faster. A step is plain SGD on a resident batch, update "
            f"included: {setting}, sigmoid, quadratic cost, timed by events on the device.",
            ["torch", "jax"],
            rungs,
        ),
        f"The GPU: {machine}.",
        pages.step_table("× time of bpengine's step", ratios, rungs),
        f"This GPU multiplies square matrices of {SQUARE} rows at {rate / 1e12:.1f} TFLOP/s in that "
        f"setting. Launching a graph of one kernel takes {1e6 * launch[0]:.1f} µs, a further kernel in "
        f"it {1e6 * launch[1]:.2f} µs.",
        "The GPU is ahead of NumPy on the same machine "
        + (f"at {', '.join(ahead)}." if ahead else "at none of these sizes."),
        "![Times of contenders over the time of bpengine](benchmarks-gpu-ratios.svg)",
    ]


def against(
    card: Card, rungs: Sequence[str], pairs: int
) -> Iterator[tuple[str, dict[str, dict[str, Ratio]]]]:
    """Time of each contender ÷ time of ours, for a step: after each rung, those so far."""
    makers = {
        "products alone": card.products_alone,
        "PyTorch eager": card.torch_eager,
        "torch.compile": card.torch_compile,
        "JAX scan": card.jax_scan,
        "NumPy": card.numpy,
    }
    missing = {name for name, package in PEERS.items() if not importlib.util.find_spec(package)}
    if missing:
        print(f"not installed, and not timed: {', '.join(sorted(missing))}", file=sys.stderr)
    found: dict[str, dict[str, Ratio]] = {name: {} for name in makers if name not in missing}
    for rung in rungs:
        for name in found:
            if name == "NumPy" and rung == "xlarge":
                continue  # takes minutes
            # the CPU takes its time
            theirs = max(1, STEPS[rung] // 40) if name == "NumPy" else STEPS[rung]
            run, ours = makers[name](rung, theirs), card.ours(rung, STEPS[rung])
            for _ in range(3):
                run(), ours()
            ratio = measure(run, ours, pairs=pairs, rng=0, clock=card.clock)
            found[name][rung] = pages.per_step(ratio, theirs, STEPS[rung])
            print(f"{rung:8} {name:16} {found[name][rung]}", file=sys.stderr, flush=True)
        yield rung, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page and the picture."""
    chosen = options(arguments)
    try:
        card = Card(chosen.precision)
    except backends.BackendUnavailableError as error:
        raise SystemExit(f"benchmarks/gpu.py needs a GPU: {error}") from None
    if card.backend.gpu.library is None:
        raise SystemExit("benchmarks/gpu.py needs cuBLAS: pip install 'bpengine[cuda13]'")
    rate, launch, done = card.rate(), card.launch_cost(), []
    for rung, ratios in against(card, chosen.rungs, chosen.pairs):
        done.append(rung)
        parts = page(ratios, done, card.describe(), chosen.precision, rate, launch)
        pages.write("gpu", "on a GPU", parts, chosen.print)  # now, as the next may take too long
        if not chosen.print:
            plots.ratios(ratios).savefig(pages.DOCS / "benchmarks-gpu-ratios.svg")


if __name__ == "__main__":
    main()
