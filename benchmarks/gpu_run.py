"""All that a GPU is needed for: `python benchmarks/gpu_run.py` runs smoke test, tests and benchmark.

Every part has a time limit, and what it prints is also written to a file as it goes, so that a run that
is cut leaves something. It needs the packages of the `test` group and of the extra cuda12 or cuda13, but
no network and no nox.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from gpu_smoke import NO_GPU

ROOT = Path(__file__).parent.parent
WORKERS = min(8, os.cpu_count() or 1)  # a context on the device each
LIMITS = {"smoke": 90, "tests": 600, "bench": 600}  # seconds
TESTS = "cupy and not stand-in and not for_a_gpu and not stand_in"
PAGES = "benchmarks-gpu.md", "benchmarks-gpu-ratios.svg"


def command(part: str, arguments: Sequence[str]) -> list[str]:
    """The command of a part; `arguments` are for pytest."""
    if part == "smoke":
        return [sys.executable, "benchmarks/gpu_smoke.py"]
    if part == "bench":
        return [sys.executable, "benchmarks/gpu.py", "--pairs", "9"]
    # warnings of other packages are no errors here
    found = [sys.executable, "-m", "pytest", "tests", "-W", "default", "--maxfail", "60", "-k", TESTS]
    if importlib.util.find_spec("xdist"):
        found += ["-n", str(WORKERS)]
    if importlib.util.find_spec("pytest_timeout"):
        found += ["--timeout", "60"]
    return [*found, *arguments]


def run(arguments: Sequence[str], limit: float, path: Path) -> int:
    """Run a command, show what it prints and write it to a file; ended by Ctrl-C after `limit` seconds.

    Returns
    -------
    int
        Its exit code; negative where it was ended.
    """
    variables = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    with path.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        late = threading.Event()

        def end() -> None:
            late.set()
            os.killpg(child.pid, signal.SIGINT)

        assert child.stdout is not None
        timers = [
            threading.Timer(limit, end),
            threading.Timer(limit + 20, os.killpg, (child.pid, signal.SIGKILL)),
        ]
        for timer in timers:
            timer.start()
        try:
            for line in child.stdout:
                print(line, end="", flush=True)
                file.write(line)
                file.flush()
            code = child.wait()
        except KeyboardInterrupt:
            os.killpg(child.pid, signal.SIGINT)
            raise
        finally:
            child.stdout.close()
            for timer in timers:
                timer.cancel()
        file.write(f"exit code {code}{f', ended after {limit:g} s' if late.is_set() else ''}\n")
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for, or all, but none after a smoke test without a GPU.

    Returns
    -------
    int
        How many failed.
    """
    usage = f"gpu_run.py [{'] ['.join(LIMITS)}] [--out FOLDER] [--limit SECONDS] [arguments of pytest]"
    parser = argparse.ArgumentParser(usage=usage, description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-out", help="the folder of the output")
    parser.add_argument("--limit", type=float, help=f"seconds for a part; by default {LIMITS}")
    chosen, rest = parser.parse_known_args(arguments)
    parts = [argument for argument in rest if argument in LIMITS]
    rest = [argument for argument in rest if argument not in LIMITS]
    chosen.out.mkdir(parents=True, exist_ok=True)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run([sys.executable, "-m", "bpengine", "doctor"], 60, chosen.out / "doctor.txt")
    failed = []
    for part in parts or LIMITS:
        path = chosen.out / f"{part}.txt"
        code = run(command(part, rest), chosen.limit or LIMITS[part], path)
        if code:
            failed.append(part)
        if part == "smoke" and code == NO_GPU:
            break
        if part == "bench":
            for page in PAGES:
                if (ROOT / "docs" / page).exists():
                    shutil.copy(ROOT / "docs" / page, chosen.out)
    print(f"failed: {', '.join(failed) or 'nothing'}; all output is in {chosen.out}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
