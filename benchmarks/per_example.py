"""Per-example gradients against plain steps and against peers: `python benchmarks/per_example.py`.

Ratios of times taken in turn in one process, medians with 95 % intervals: float32, sigmoid, quadratic
cost, the batch resident. Peers that are not installed are left out.

    python benchmarks/per_example.py --pairs 41 --threads 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import contenders
import numpy as np
import pages
from ladder import LEARNING_RATE, examples, network, plain_parameters

from bpengine.timing import Ratio, measure

BOUND, NOISE = 1.0, 1.0

Call = Callable[[], object]


def plan(name: str, optimizer: Any = None, backend: str = "numpy", **options: Any) -> Call:
    """A loaded plan's run."""
    X, Y = examples(name)
    made = network(name, backend).plan(X.shape[1], optimizer, **options)
    made.load(X, Y)
    return made.run


SGD, DPSGD = bp.SGD(LEARNING_RATE), bp.DPSGD(LEARNING_RATE, NOISE, BOUND)
norms = partial(plan, per_example="norms")
step, private_step = partial(plan, optimizer=SGD), partial(plan, optimizer=DPSGD)


def jax_norms(name: str, only_gradients: bool = False) -> Call:
    """jit of vmap of grad, and the norms of what it gives, which XLA can make as it goes."""
    import jax
    import jax.numpy as jnp

    X, Y = (jnp.asarray(x.T) for x in examples(name))
    parameters = [
        (jnp.array(w), jnp.array(b[:, 0])) for w, b in zip(*plain_parameters(name), strict=True)
    ]

    def cost(parameters: Any, x: Any, y: Any) -> Any:
        for w, b in parameters:
            x = jax.nn.sigmoid(w @ x + b)
        return 0.5 * jnp.sum((x - y) ** 2)

    @jax.jit
    def run(parameters: Any) -> Any:
        gradients = jax.vmap(jax.grad(cost), (None, 0, 0))(parameters, X, Y)
        squares = [jnp.sum(g.reshape(g.shape[0], -1) ** 2, axis=1) for g in jax.tree.leaves(gradients)]
        return jnp.sqrt(sum(squares))

    check(name, np.asarray(run(parameters)))
    if only_gradients:
        run = jax.jit(lambda parameters: jax.vmap(jax.grad(cost), (None, 0, 0))(parameters, X, Y))
    return lambda: jax.block_until_ready(run(parameters))


def torch_norms(name: str) -> Call:
    """torch.func: vmap of grad, and the norms of what it gives."""
    import torch
    from torch.func import grad, vmap

    X, Y = (torch.from_numpy(np.ascontiguousarray(x.T)) for x in examples(name))
    pairs = zip(*plain_parameters(name), strict=True)
    parameters = [torch.from_numpy(p) for w, b in pairs for p in (w, b[:, 0].copy())]

    def cost(parameters: Any, x: Any, y: Any) -> Any:
        for w, b in zip(parameters[::2], parameters[1::2], strict=True):
            x = torch.sigmoid(w @ x + b)
        return 0.5 * ((x - y) ** 2).sum()

    gradients = vmap(grad(cost), (None, 0, 0))

    def run() -> Any:
        with torch.no_grad():
            return torch.sqrt(sum((g.flatten(1) ** 2).sum(1) for g in gradients(parameters, X, Y)))

    check(name, run().numpy())
    return run


def opacus_step(name: str) -> Call:
    """A private step by Opacus with ghost clipping, noise included."""
    import torch
    from opacus import PrivacyEngine

    X, Y = (torch.from_numpy(np.ascontiguousarray(x.T)) for x in examples(name))
    model = contenders.torch_model(name)

    class Quadratic(torch.nn.Module):
        reduction = "mean"

        def forward(self, a: Any, y: Any) -> Any:
            costs = 0.5 * ((a - y) ** 2).sum(1)
            return costs if self.reduction == "none" else costs.mean()

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=len(X))
    model, optimizer, criterion, _ = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        data_loader=data,
        criterion=Quadratic(),
        noise_multiplier=NOISE,
        max_grad_norm=BOUND,
        poisson_sampling=False,
        grad_sample_mode="ghost",
    )

    def run() -> None:
        optimizer.zero_grad()
        criterion(model(X), Y).backward()
        optimizer.step()

    return run


def check(name: str, theirs: np.ndarray) -> None:
    """Stop if a peer computes something else."""
    ours = network(name).backprop(*examples(name), per_example="norms").total
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)


Pair = tuple[Callable[[str], Call], Callable[[str], Call]]
ROWS: dict[str, Pair] = {
    "norms ÷ plain gradient": (norms, plan),
    "clipped step ÷ plain step": (partial(step, per_example="clip", max_norm=BOUND), step),
    "private step, noise drawn in it ÷ plain step": (private_step, step),
    'the same two with `backend="numba"`': (
        partial(private_step, backend="numba"),
        partial(step, backend="numba"),
    ),
}
PEERS: dict[str, Pair] = {
    "JAX, jit of vmap(grad), gradients stored ÷ norms": (partial(jax_norms, only_gradients=True), norms),
    "JAX, jit of vmap(grad) and norms ÷ norms": (jax_norms, norms),
    "torch.func, vmap(grad) and norms ÷ norms": (torch_norms, norms),
    "Opacus, ghost clipping ÷ private step": (opacus_step, private_step),
}


def ratios(pairs: dict[str, Pair], names: Sequence[str], count: int) -> dict[str, dict[str, Ratio]]:
    """Ratios of times by name and network, without those of peers that are not installed."""
    found: dict[str, dict[str, Ratio]] = {label: {} for label in pairs}
    for label, (one, reference) in pairs.items():
        for name in names:
            try:
                found[label][name] = measure(one(name), reference(name), pairs=count, rng=0)
            except ImportError as error:
                print(f"not timed: {error}", file=sys.stderr)
            print(f"{name:8} {label:50} {found[label].get(name)}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rungs", nargs="*", default=["small", "medium"], metavar="rung")
    parser.add_argument("--pairs", type=int, default=41)
    options = pages.parsed_with_threads(parser)
    rungs, pairs = options.rungs, options.pairs
    costs, peers = ratios(ROWS, rungs, pairs), ratios(PEERS, rungs, max(5, pairs // 4))
    found = costs | peers
    rows = {label: [pages.cell(of.get(name)) for name in rungs] for label, of in found.items()}
    parts = [
        *pages.first_lines(
            "How much time per-example norms, clipping and private steps take, relative to plain "
            "gradients and steps of bpengine; and peers, relative to bpengine.",
            "In the first four rows, 1 means that they cost nothing. In those of peers, bpengine is "
            "faster above 1. float32, sigmoids, quadratic cost, the batch in memory.",
            ["numba", "jax", "torch", "opacus"],
            rungs,
        ),
        pages.table("ratio of times", rungs, rows),
        pages.losses(peers),
    ]
    pages.write("per-example", "per-example gradients", parts, options.print)


if __name__ == "__main__":
    main()
