"""What `bpengine doctor` prints, and the advice that follows from measurements."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bpengine import backends, openblas
from bpengine.backends import registry
from bpengine.cli import doctor, main
from bpengine.cli.doctor import Measurement, Setting

needs_openblas = pytest.mark.skipif(
    not (openblas._linux_x86_64() and openblas.taken_core() and openblas.chooses()),
    reason="needs Linux on x86-64 and a NumPy on an OpenBLAS that chooses its core",
)
SKYLAKEX = openblas.Processor("AuthenticAMD", "AMD EPYC 9B45", openblas.SKYLAKEX_NEEDS)
HASWELL = openblas.Processor("GenuineIntel", "Intel(R) Core(TM) i7-4770", frozenset({"avx2", "fma"}))


def measured(*rates: float, core: str = "Haswell", threads: int = 2) -> Measurement:
    """A measurement with these rates, one for each round."""
    return Measurement(core, threads, [[rate] * len(doctor.PRODUCTS) for rate in rates])


AS_IT_IS = [Setting({}), Setting({}, single=True)]
OTHER = [
    Setting({openblas.CORETYPE: "SkylakeX"}, "export OPENBLAS_CORETYPE=SkylakeX", single=single)
    for single in (False, True)
]
UNSET = [
    Setting({openblas.CORETYPE: None}, "unset OPENBLAS_CORETYPE", single=single)
    for single in (False, True)
]


def advice(
    *rates: tuple[float, ...], tried: list[Setting] | None = None, busy: str = "", gpu: str = ""
) -> str:
    found = [measured(*r) for r in rates]
    return doctor.advise((tried or AS_IT_IS + OTHER)[: len(found)], found, busy, gpu)


def test_advice_names_a_better_core() -> None:
    assert advice((200, 200), (100, 100), (390, 390), (190, 195)).startswith(
        "export OPENBLAS_CORETYPE=SkylakeX (before Python starts): products then are 1.9 times as fast"
    )


@pytest.mark.parametrize("other", [(105, 109), (190, 100), (80, 80)])
def test_advice_ignores_noise(other: tuple[float, float]) -> None:
    # a gain has to show in every round
    assert advice((200, 200), (100, 100), (400, 400), other) == "nothing to change"


def test_advice_prefers_the_simpler_change() -> None:
    rates = [(200, 200), (100, 100), (390, 390), (190, 190), (390, 390), (195, 195)]
    assert advice(*rates, tried=AS_IT_IS + UNSET + OTHER).startswith("unset OPENBLAS_CORETYPE (")


def test_advice_on_threads() -> None:
    assert advice((50, 50), (100, 100)).startswith(
        "export OPENBLAS_NUM_THREADS=1 (before Python starts)"
    )
    busy = advice((50, 50), (100, 100), busy="the load average was 2.0 on 2 cores")
    assert busy.startswith("run this again")
    assert busy.endswith("the load average was 2.0 on 2 cores")


def test_advice_on_a_gpu() -> None:
    assert advice((200,), (100,), gpu="needs CuPy") == "for the GPU: needs CuPy"


def test_advice_where_bpengine_sets_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openblas, "decision", "set")
    rates = [(390, 390), (190, 190), (200, 200), (100, 100)]
    assert advice(*rates, tried=AS_IT_IS + UNSET).startswith(
        "nothing to change; bpengine sets OPENBLAS_CORETYPE=SkylakeX itself and is 1.9 times as fast"
    )
    rates = [(390, 390), (190, 190), (380, 380), (185, 185)]
    assert advice(*rates, tried=AS_IT_IS + UNSET) == "nothing to change"


def test_advice_where_products_fail() -> None:
    found = [Measurement(failure="ended by SIGILL"), Measurement(failure="ended by SIGILL")]
    assert doctor.advise(AS_IT_IS, found, "", "").startswith("reinstall NumPy")
    found = [measured(100), measured(100), Measurement(failure="ended by SIGILL"), measured()]
    assert doctor.advise(AS_IT_IS + OTHER, found, "", "") == "nothing to change"


@pytest.mark.parametrize(
    ("core", "processor", "variable", "expected"),
    [
        ("Haswell", SKYLAKEX, None, ["as it is", "SkylakeX"]),
        ("Haswell", SKYLAKEX, "Haswell", ["as it is", None, "SkylakeX"]),
        ("SkylakeX", SKYLAKEX, None, ["as it is", "Haswell"]),
        ("SkylakeX", SKYLAKEX, "SkylakeX", ["as it is", None]),
        ("Haswell", HASWELL, None, ["as it is"]),
        ("Prescott", HASWELL, None, ["as it is", "Haswell"]),
        ("neoversen1", openblas.Processor(), None, ["as it is"]),
        (None, SKYLAKEX, None, ["as it is"]),
    ],
)
def test_tries_only_what_the_processor_can_run(
    monkeypatch: pytest.MonkeyPatch,
    core: str | None,
    processor: openblas.Processor,
    variable: str | None,
    expected: list[str | None],
) -> None:
    monkeypatch.delenv(openblas.CORETYPE, raising=False)
    if variable is not None:
        monkeypatch.setenv(openblas.CORETYPE, variable)
    monkeypatch.setattr(openblas, "taken_core", lambda: core)
    monkeypatch.setattr(openblas, "chooses", lambda: True)
    for threads in (1, 2):
        monkeypatch.setattr(openblas, "threads", lambda n=threads: n)
        tried = doctor.settings(processor)
        assert len(tried) == threads * len(expected)
        singles = [setting for setting in tried if setting.single]
        assert [s.variables.get(openblas.CORETYPE, "as it is") for s in singles] == expected


def test_a_child_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [
            subprocess.CompletedProcess(
                [], 0, json.dumps({"core": "Zen", "threads": 2, "rates": [9, 8, 7, 6]}), ""
            ),
            subprocess.CompletedProcess([], -4, "", ""),
            subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no NumPy"),
            subprocess.TimeoutExpired("python", 60.0),
        ]
    )

    def run(*_: object, env: dict[str, str], **__: object) -> subprocess.CompletedProcess[str]:
        assert env[openblas.OPT_OUT] == "0"  # the child must not choose
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(doctor, "ROUNDS", 1)
    tried = AS_IT_IS + OTHER
    found = doctor.measure(tried)
    assert found[0] == Measurement("Zen", 2, [[9, 8, 7, 6]])
    assert [m.failure.split(":")[0] for m in found[1:]] == ["ended by SIGILL"] + [
        "could not be measured"
    ] * 2
    table = "\n".join(doctor._table(tried, found))
    assert "as it is: Zen, 2 threads" in table
    assert "OPENBLAS_CORETYPE=SkylakeX could not be measured: ImportError: no NumPy" in " ".join(
        table.split()
    )


def test_measures_in_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROUNDS", 1)
    monkeypatch.setattr(doctor, "SECONDS", 0.001)
    one = dict.fromkeys(doctor.THREAD_VARIABLES, "1")
    (found,) = doctor.measure([Setting(one, single=True)])
    assert not found.failure
    assert found.threads in (1, None)
    assert all(rate > 0 for rate in found.rounds[0])


def test_the_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> backends.Backend:
        raise RuntimeError("two\nlines")

    monkeypatch.setitem(registry._factories, "broken", broken)
    monkeypatch.setattr(doctor, "measure", lambda tried: [measured(100, threads=1) for _ in tried])
    assert main.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:1].isalpha()][:6] == [
        "processor",
        "SIMD",
        "Python",
        "NumPy",
        "BLAS",
        "environment",
    ]
    assert lines[-1].startswith("advice: ")
    usable = {
        line.removeprefix("backends").split()[0]: line
        for line in lines
        if line.endswith(("usable", "lines"))
    }
    assert usable["numpy"].endswith(" usable")
    assert usable["broken"].endswith(" two lines")
    assert not any("advice:" in line for line in lines[:-1])


@pytest.mark.parametrize(
    ("driver", "expected"), [("/usr/bin/nvidia-smi", "for the GPU: needs X"), (None, "nothing")]
)
def test_the_report_speaks_of_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, expected: str
) -> None:
    messages = {"fast": "needs X, to match your CUDA driver", "numpy": "usable"}
    monkeypatch.setattr(backends, "names", lambda: list(messages))
    monkeypatch.setattr(doctor, "_backend", messages.__getitem__)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: driver)
    monkeypatch.setattr(doctor, "measure", lambda tried: [measured(100, threads=1) for _ in tried])
    assert list(doctor.report())[-1].startswith(f"advice: {expected}")


@needs_openblas
def test_a_forced_core_shows() -> None:
    forced = "Nehalem"  # every x86-64 processor can run it
    code = (
        "from bpengine.cli import doctor, main; "
        "doctor.ROUNDS, doctor.SECONDS, doctor.CORES = 1, 0.001, {}; "
        "raise SystemExit(main.main(['doctor']))"
    )
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, openblas.CORETYPE: forced, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    assert f"core {forced} (OPENBLAS_CORETYPE is set)" in child.stdout
    assert f"as it is: {forced}," in child.stdout
    assert "OPENBLAS_CORETYPE unset: " in child.stdout
    assert child.stdout.splitlines()[-1].startswith("advice: ")
