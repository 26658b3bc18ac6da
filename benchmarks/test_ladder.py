"""A training step at every rung of the ladder: the engine, the forms it replaces, and its peers."""

import contenders
import pytest
from ladder import LADDER

SLOW = {  # what would take minutes, or tens of gigabytes, at this rung
    "per-example loop": {"large"},
    "3-D stack, matmul": {"medium", "large"},
    "3-D stack, einsum": {"medium", "large"},
}
PACKAGES = {name: package for name, (package, _) in contenders.PEERS.items()}
MAKERS = {"bpengine": contenders.engine, **contenders.PARTS}
MAKERS |= {name: make for name, (_, make) in contenders.PEERS.items()}


@pytest.mark.parametrize("rung", LADDER)
@pytest.mark.parametrize("contender", MAKERS)
def test_step(benchmark, rung: str, contender: str) -> None:
    if rung in SLOW.get(contender, ()):
        pytest.skip(f"{contender} takes too much time or memory at {rung}")
    if contender in PACKAGES:
        pytest.importorskip(PACKAGES[contender])
    steps = {"tiny": 100, "nielsen": 100, "small": 10}.get(rung, 1)
    if contender == "per-example loop" or contender.startswith("3-D"):
        steps = 1
    run = MAKERS[contender](rung, steps)
    benchmark.group = f"a training step: {rung}"
    benchmark.extra_info["steps per call"] = steps
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
