"""Stacks of networks against peers and against single networks: `python benchmarks/stacks.py`.

Ratios of times taken in turn in one process, medians with 95 % intervals: 64 networks, float32,
sigmoid, quadratic cost, SGD, the batch resident and shared. Peers that are not installed are left out.

    python benchmarks/stacks.py --pairs 41 --threads 1
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import contenders
import numpy as np
import pages
from ladder import LEARNING_RATE, RUNGS, examples

from bpengine.timing import Ratio, measure

STEPS = 100  # of a call, as JAX's scan has them
TASKS = {"tiny": ("tiny", None), "nielsen": ("nielsen", None), "nielsen, batch 32": ("nielsen", 32)}
BACKENDS = [name for name in ("numpy", "numba") if importlib.util.find_spec(name)]
COUNTS = 1, 4, 16, 64, 256
FIT = {"epochs": 20, "batch_size": 50, "optimizer": bp.SGD(LEARNING_RATE), "progress": False}
FIT_EXAMPLES = 500

Call = Callable[[], object]


def stack(task: str, P: int, backend: str = "numpy") -> bp.Network:
    """A task's networks, from the same parameters at every call."""
    return bp.Network(RUNGS[TASKS[task][0]].sizes, backend=backend, stack=P, rng=0)


def plan_of(net: bp.Network, task: str) -> bp.Plan:
    """A training step, its batch loaded."""
    X, Y = examples(*TASKS[task])
    plan = net.plan(X.shape[1], bp.SGD(LEARNING_RATE))
    plan.load(X, Y)
    return plan


def ours(task: str, P: int, backend: str) -> Call:
    """Steps of a stack's plan."""
    return partial(plan_of(stack(task, P, backend), task).run, STEPS)


def single_plans(task: str, P: int, backend: str) -> Call:
    """The same steps by a plan for each network."""
    plans = [plan_of(net, task) for net in alone(stack(task, P, backend))]
    return lambda: [plan.run(STEPS) for plan in plans]


def alone(nets: bp.Network) -> list[bp.Network]:
    """The networks of a stack, each by itself."""
    found = []
    for one in nets:
        net = bp.Network(nets.sizes, backend=nets.backend, rng=0)
        for l in range(len(net.weights)):
            net.weights[l], net.biases[l] = one.weights[l], one.biases[l]
        found.append(net)
    return found


def jax_scan(task: str, P: int, backend: str) -> Call:
    """vmap over the networks, jit, and lax.scan over the steps."""
    import jax
    import jax.numpy as jnp

    X, Y = map(jnp.asarray, examples(*TASKS[task]))
    nets = stack(task, P)
    start = [(jnp.array(w), jnp.array(b)) for w, b in zip(nets.weights, nets.biases, strict=True)]
    gradients = jax.vmap(jax.grad(contenders.jax_cost), (0, None, None))

    def step(state: Any, _: Any) -> Any:
        return contenders.jax_update(state, gradients(state, X, Y)), None

    run = jax.jit(lambda state: jax.lax.scan(step, state, None, length=STEPS)[0])
    check(task, P, [np.asarray(w) for w, _ in run(start)])
    return contenders.advancing(run, start)


def torch_func(task: str, P: int, backend: str) -> Call:
    """torch.func: vmap of grad over the networks, and the update."""
    import torch
    from torch.func import grad, vmap

    X, Y = (torch.from_numpy(np.ascontiguousarray(x)) for x in examples(*TASKS[task]))
    m = X.shape[1]
    nets = stack(task, P)
    pairs = zip(nets.weights, nets.biases, strict=True)
    parameters = [torch.from_numpy(np.array(p)) for pair in pairs for p in pair]

    def cost(parameters: Any) -> Any:
        a = X
        for w, b in zip(parameters[::2], parameters[1::2], strict=True):
            a = torch.sigmoid(w @ a + b)
        return 0.5 * ((a - Y) ** 2).sum() / m

    gradients = vmap(grad(cost))

    def call() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                for p, g in zip(parameters, gradients(parameters), strict=True):
                    p.sub_(g, alpha=LEARNING_RATE)

    call()
    check(task, P, [p.numpy() for p in parameters[::2]])
    return call


def check(task: str, P: int, weights: list[np.ndarray]) -> None:
    """Stop if a peer's steps lead elsewhere."""
    nets = stack(task, P)
    plan_of(nets, task).run(STEPS)
    for theirs, w in zip(weights, nets.weights, strict=True):
        np.testing.assert_allclose(theirs, w, rtol=1e-3, atol=1e-4)


def fits(P: int, backend: str) -> tuple[Call, Call]:
    """`fit` of each of the networks of a stack at tiny, and of the stack."""
    data, nets = examples("tiny", FIT_EXAMPLES), stack("tiny", P, backend)
    single = alone(nets)
    return lambda: [net.fit(*data, **FIT) for net in single], lambda: nets.fit(*data, **FIT)


CONTENDERS: dict[str, Callable[[str, int, str], Call]] = {
    "JAX, vmap + jit + scan": jax_scan,
    "torch.func, vmap of grad": torch_func,
    "single plans": single_plans,
}


def memory(task: str, P: int) -> tuple[int, ...]:
    """Bytes of the parameters, the gradient and the workspace; held in all; allocated in steps."""
    plan_of(stack(task, P), task)  # what Python makes once is there
    tracemalloc.start()
    nets = stack(task, P)
    plan = plan_of(nets, task)
    plan.run()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    plan.run(STEPS)
    allocated = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    ws = plan.workspace
    arrays = map(owner_of, (ws.rows, *ws.extended, *ws.z, *ws.a, *ws.delta))
    workspace = sum({id(x): x.nbytes for x in arrays}.values())
    return nets.vector.nbytes, nets.vector.nbytes, workspace, held, allocated


def owner_of(x: np.ndarray) -> np.ndarray:
    """The array whose memory a view shows."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def times_per_network(pairs: int) -> dict[str, list[float]]:
    """Microseconds of a step a network at tiny, by backend and number of networks."""
    return {
        backend: [
            measure(call, call, pairs=pairs, rng=0).ours / STEPS / P
            for P in COUNTS
            for call in [ours("tiny", P, backend)]
        ]
        for backend in BACKENDS
    }


def picture(times: dict[str, list[float]]) -> Any:
    """Time of a network against the number of networks."""
    from bpengine.plots import style

    figure = style.figure(6.0, 4.0)
    axes = figure.subplots()
    for (name, measured), stroke in zip(times.items(), style.strokes(axes, len(times)), strict=True):
        axes.loglog(COUNTS, measured, label=name, **stroke)
        alone = [measured[0]] * len(COUNTS)
        axes.loglog(COUNTS, alone, linestyle=":", color=stroke["color"], alpha=0.5)
    axes.set_xticks(COUNTS, map(str, COUNTS))
    axes.minorticks_off()
    style.log_ticks(axes.yaxis, *axes.get_ylim())
    axes.set(
        xlabel="networks in the stack",
        ylabel="µs a step, for each network",
        title="2-3-3-1, batch 50 (dotted: networks by themselves)",
    )
    axes.grid(alpha=0.3)
    axes.legend(handlelength=3.5)
    return figure


def page(P: int, pairs: int, only_print: bool) -> list[str]:
    """Measure, and give the parts of the page."""
    few = max(5, pairs // 4)
    found: dict[str, dict[str, Ratio]] = {}
    plain: dict[tuple[str, str], float] = {}
    for backend in BACKENDS:
        for name, contender in CONTENDERS.items():
            of = found[f"{name} ÷ stack on {backend}"] = {}
            for task in TASKS:
                try:
                    other = contender(task, P, backend)
                except ImportError as error:
                    print(f"not timed: {error}", file=sys.stderr)
                    continue
                count = pairs if contender is jax_scan else few
                of[task] = measure(other, ours(task, P, backend), pairs=count, rng=0)
                plain.setdefault((backend, task), of[task].reference / STEPS)
                print(f"{backend:6} {task:18} {name:26} {of[task]}", file=sys.stderr, flush=True)
    rows = {name: [pages.cell(of.get(task)) for task in TASKS] for name, of in found.items()}
    for backend in BACKENDS:
        rows[f"*stack on {backend}, µs a step*"] = [f"*{plain[backend, task]:.4g}*" for task in TASKS]
    fitted = {
        backend: [pages.cell(measure(*fits(P, backend), pairs=few, rng=0))] for backend in BACKENDS
    }
    stored = {task: [f"{n:,}" for n in memory(task, P)] for task in TASKS}
    times = times_per_network(few)
    if not only_print:
        picture(times).savefig(pages.DOCS / "benchmarks-stacks.svg", metadata={"Date": None})
    return [
        *pages.first_lines(
            f"How much time a training step of {P} networks takes relative to a stack of bpengine, in "
            "peers and as single plans of bpengine.",
            "Above 1, the stack is faster. A step is plain SGD for all networks, update included: "
            f"float32, sigmoid, quadratic cost, one resident batch for all, {STEPS} steps a call.",
            ["numba", "jax", "torch"],
            ["tiny", "nielsen"],
        ),
        f"{pairs} pairs with JAX, {few} with the others.",
        pages.table("ratio of times", [*TASKS], rows),
        pages.losses(found),
        f"`fit` of {P} networks at `tiny`, {FIT['epochs']} epochs of {FIT_EXAMPLES} examples in batches "
        f"of {FIT['batch_size']}: {P} single `fit`s ÷ one `fit` of the stack.",
        pages.table("backend", ["ratio of times"], fitted),
        f"Memory of {P} networks in bytes, on NumPy: the stack's arrays and one workspace. A plan also "
        "holds the kernels' scratch arrays and Python's objects, and in steps NumPy buffers what it "
        "broadcasts.",
        pages.table(
            "",
            ["parameters", "gradient", "workspace", "held in all", "allocated at a time in steps"],
            stored,
        ),
        "What a network costs in a stack, µs a step at `tiny`:",
        pages.table(
            "networks",
            [*map(str, COUNTS)],
            {backend: [f"{t:.3g}" for t in measured] for backend, measured in times.items()},
        ),
        "![Time of a step for each network, against the number of networks](benchmarks-stacks.svg)",
    ]


def main() -> None:
    """Measure, and write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=41)
    options = pages.parsed_with_threads(parser)
    parts = page(options.networks, options.pairs, options.print)
    pages.write("stacks", "stacks", parts, options.print)


if __name__ == "__main__":
    main()
