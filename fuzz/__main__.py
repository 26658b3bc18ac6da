"""Run cases for some minutes, or one case again: ``python -m fuzz [KIND SEED] [--minutes N]``."""

import argparse
import importlib
import itertools
import sys
import time
from collections import Counter

import numpy as np

from fuzz import Finding

KINDS = ["wrong_calls", "damaged_files", "kills", "gradients"]


def case(kind: str, seed: int) -> str | None:
    """The finding of a case, or None."""
    try:
        importlib.import_module(f"fuzz.{kind}").one(np.random.default_rng(seed))
    except Finding as finding:
        return str(finding)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    """Print the seed of the run and a line for each finding; 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("seed", nargs="?", type=int, help="run this case only")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--first", type=int, default=time.time_ns() % 2**40, help="seed of the first case"
    )
    options = parser.parse_args()
    if options.seed is not None:
        found = case(options.kind, options.seed)
        print(found or "nothing found")
        return 1 if found else 0
    kinds = [options.kind] if options.kind else KINDS
    print(f"seeds from {options.first}", flush=True)
    end = {k: options.minutes * 60 * (i + 1) / len(kinds) for i, k in enumerate(kinds)}
    counts, findings, start = Counter[str](), 0, time.monotonic()
    for kind in kinds:
        for seed in itertools.count(options.first):
            if time.monotonic() - start > end[kind] and counts[kind]:
                break
            counts[kind] += 1
            if found := case(kind, seed):
                findings += 1
                print(f"{kind} {seed}: {' '.join(found.split())}", flush=True)
    print(", ".join(f"{counts[kind]} {kind}" for kind in kinds), f"- {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
