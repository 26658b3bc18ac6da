"""A training step of each network of the ladder: the engine, the forms it replaces, and its peers.

Times are those of one step, whatever number of steps a call takes.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import contenders
import pytest
from ladder import LADDER

SLOW = {  # what would take minutes, or tens of gigabytes, with this network
    "per-example loop": {"large"},
    "3-D stack, matmul": {"medium", "large"},
    "3-D stack, einsum": {"medium", "large"},
}
STEPS = {"tiny": 100, "nielsen": 100, "small": 10}  # a call, as a scan of JAX has them
PACKAGES = {name: package for name, (package, _) in contenders.PEERS.items()}
MAKERS = {"bpengine": contenders.engine, **contenders.PARTS}
MAKERS |= {name: make for name, (_, make) in contenders.PEERS.items()}


def clock(steps: int) -> float:
    """Seconds divided by the steps of a call: a difference of two is the time of a step."""
    return time.perf_counter() / steps


def cases() -> Iterator[Any]:
    for contender in MAKERS:
        for name in LADDER:
            steps = 1 if contender in SLOW else STEPS.get(name, 1)
            mark = pytest.mark.benchmark(timer=partial(clock, steps))
            yield pytest.param(contender, name, steps, marks=mark, id=f"{contender}-{name}")


@pytest.mark.parametrize(("contender", "name", "steps"), [*cases()])
def test_step(benchmark, group, contender: str, name: str, steps: int) -> None:
    if name in SLOW.get(contender, ()):
        pytest.skip(f"{contender} takes too much time or memory for {LADDER[name]}")
    if contender in PACKAGES:
        pytest.importorskip(PACKAGES[contender])
    run = MAKERS[contender](name, steps)
    group(f"a training step: {LADDER[name]}")
    benchmark.extra_info["steps of a call"] = steps
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
