"""When OPENBLAS_CORETYPE is set, when it is left alone, and what is said when it is too late."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bpengine import openblas

BASE = "fpu sse sse2 ssse3 fma sse4_1 sse4_2 avx avx2 bmi1 bmi2"
AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"


def cpuinfo(vendor: str, name: str, flags: str, family: int = 25) -> str:
    block = (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\n"
        f"model name\t: {name}\nflags\t\t: {flags}\nbugs\t\t: sysret_ss_attrs\npower management:\n\n"
    )
    return block + block.replace("processor\t: 0", "processor\t: 1")


ZEN5 = cpuinfo("AuthenticAMD", "AMD EPYC 9B45", f"{BASE} {AVX512} avx512_bf16 avx512_vnni", family=26)
ZEN5_DISGUISED = cpuinfo("AuthenticAMD", "AMD EPYC", f"{BASE} {AVX512}", family=23)
HYGON = cpuinfo("HygonGenuine", "Hygon C86", f"{BASE} {AVX512}", family=24)
ZEN3 = cpuinfo("AuthenticAMD", "AMD EPYC 7763 64-Core Processor", BASE)
SKYLAKEX = cpuinfo(
    "GenuineIntel", "Intel(R) Xeon(R) Platinum 8171M CPU @ 2.60GHz", f"{BASE} {AVX512}", 6
)
COFFEE_LAKE = cpuinfo("GenuineIntel", "Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", BASE, family=6)
ARM = (
    "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd evtstrm aes sha2 crc32 atomics sve\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n\n"
)


@pytest.mark.parametrize(
    ("text", "core"),
    [
        (ZEN5, "SkylakeX"),
        (ZEN5_DISGUISED, "SkylakeX"),
        (HYGON, "SkylakeX"),
        (ZEN3, None),
        (SKYLAKEX, None),
        (COFFEE_LAKE, None),
        (ARM, None),
        ("", None),
        ("no such format", None),
    ],
)
def test_the_rule(text: str, core: str | None) -> None:
    assert openblas.better_core(openblas.parse(text.splitlines())) == core


@pytest.mark.parametrize("missing", sorted(openblas.SKYLAKEX_NEEDS))
def test_every_instruction_set_is_needed(missing: str) -> None:
    flags = " ".join(flag for flag in f"{BASE} {AVX512}".split() if flag != missing)
    assert (
        openblas.better_core(openblas.parse(cpuinfo("AuthenticAMD", "AMD EPYC", flags).splitlines()))
        is None
    )


def test_reads_the_first_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(ZEN3 + ZEN5)
    monkeypatch.setattr(openblas, "CPUINFO", str(tmp_path / "cpuinfo"))
    assert openblas.processor() == openblas.parse(ZEN3.splitlines())
    assert openblas.processor().name == "AMD EPYC 7763 64-Core Processor"
    monkeypatch.setattr(openblas, "CPUINFO", str(tmp_path / "missing"))
    assert openblas.processor() == openblas.Processor()
    assert "asimd" in openblas.parse(ARM.splitlines()).flags


Prepare = Callable[..., tuple[str, dict[str, str]]]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Call `prepare` with a processor, an environment, and the core that a loaded NumPy took."""

    def call(text: str, core: str | None = None, **variables: str) -> tuple[str, dict[str, str]]:
        (tmp_path / "cpuinfo").write_text(text)
        environment = dict(variables)
        monkeypatch.setattr(os, "environ", environment)
        monkeypatch.setattr(openblas, "CPUINFO", str(tmp_path / "cpuinfo"))
        monkeypatch.setattr(openblas, "taken_core", lambda: core)
        monkeypatch.setattr(openblas, "chooses", lambda: True)
        if core is None:
            monkeypatch.delitem(sys.modules, "numpy", raising=False)
        return openblas.prepare(), environment

    monkeypatch.setattr(openblas, "_linux_x86_64", lambda: True)
    monkeypatch.setattr(openblas, "decision", "not needed")
    openblas._warn.cache_clear()
    return call


def test_sets_the_variable_before_numpy(prepare: Prepare) -> None:
    assert prepare(ZEN5) == ("set", {"OPENBLAS_CORETYPE": "SkylakeX"})


@pytest.mark.parametrize("text", [ZEN3, SKYLAKEX, COFFEE_LAKE, ARM, ""])
def test_leaves_other_processors_alone(prepare: Prepare, text: str) -> None:
    assert prepare(text) == ("not needed", {})


@pytest.mark.parametrize("value", ["Haswell", "SkylakeX", ""])
def test_never_overrides(prepare: Prepare, value: str) -> None:
    assert prepare(ZEN5, OPENBLAS_CORETYPE=value) == ("given", {"OPENBLAS_CORETYPE": value})
    assert prepare(ZEN5, "Haswell", OPENBLAS_CORETYPE=value)[0] == "given"


@pytest.mark.parametrize("value", ["0", "off", "No", "false"])
def test_opt_out(prepare: Prepare, value: str) -> None:
    assert prepare(ZEN5, BPENGINE_BLAS_CORE=value) == ("opted out", {"BPENGINE_BLAS_CORE": value})
    assert prepare(ZEN5, "Haswell", BPENGINE_BLAS_CORE=value)[0] == "opted out"


@pytest.mark.parametrize(
    ("platform", "machine"), [("win32", "AMD64"), ("darwin", "x86_64"), ("linux", "aarch64")]
)
def test_only_linux_on_x86_64(monkeypatch: pytest.MonkeyPatch, platform: str, machine: str) -> None:
    class Name:
        def __init__(self) -> None:
            self.machine = machine

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "uname", Name, raising=False)
    assert not openblas._linux_x86_64()


def test_too_late_is_said_once(prepare: Prepare) -> None:
    with pytest.warns(RuntimeWarning, match="takes this processor for a Haswell") as caught:
        assert prepare(ZEN5, "Haswell") == ("too late", {})
        assert prepare(ZEN5, "Haswell") == ("too late", {})
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "\n    export OPENBLAS_CORETYPE=SkylakeX\n" in message
    assert "BPENGINE_BLAS_CORE=0" in message


@pytest.mark.parametrize("core", ["SkylakeX", "Cooperlake", "SapphireRapids", "some later one"])
def test_numpy_before_is_no_matter_where_the_core_is_right(prepare: Prepare, core: str) -> None:
    assert prepare(ZEN5, core) == ("not needed", {})


def test_a_build_for_one_core_has_no_choice(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(ZEN5, "SkylakeX")
    monkeypatch.setattr(openblas, "taken_core", lambda: "Haswell")
    monkeypatch.setattr(openblas, "chooses", lambda: False)
    assert openblas.prepare() == "not needed"


# Fresh processes: blas_core is loaded by itself, pointed at another processor, then bpengine imported.
# The core is one that every x86-64 processor can run, since NumPy really loads with it.
PRETEND = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("bpengine.openblas", sys.argv[1])
blas_core = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blas_core)
blas_core.CPUINFO, blas_core.CORE = sys.argv[2], "Nehalem"
blas_core._linux_x86_64 = lambda: True
"""


def fresh(tmp_path: Path, code: str, text: str = ZEN5, **variables: str) -> list[str]:
    (tmp_path / "cpuinfo").write_text(text)
    environment = {k: v for k, v in os.environ.items() if k not in (openblas.CORETYPE, openblas.OPT_OUT)}
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, openblas.__file__, str(tmp_path / "cpuinfo")],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines()


needs_openblas = pytest.mark.skipif(
    not (openblas._linux_x86_64() and openblas.taken_core() and openblas.chooses()),
    reason="needs Linux on x86-64 and a NumPy on an OpenBLAS that chooses its core",
)


def test_importing_bpengine_sets_it(tmp_path: Path) -> None:
    code = (
        PRETEND + "import bpengine; print(os.environ['OPENBLAS_CORETYPE'], bpengine.openblas.decision)"
    )
    assert fresh(tmp_path, code) == ["Nehalem set"]
    code = PRETEND + "import bpengine; print(os.environ.get('OPENBLAS_CORETYPE'), blas_core.decision)"
    assert fresh(tmp_path, code, ZEN3) == ["None not needed"]
    assert fresh(tmp_path, code, BPENGINE_BLAS_CORE="0") == ["None opted out"]
    assert fresh(tmp_path, code, OPENBLAS_CORETYPE="nehalem") == ["nehalem given"]


@needs_openblas
def test_openblas_follows(tmp_path: Path) -> None:
    code = "import bpengine, numpy; print(blas_core.taken_core())"
    assert fresh(tmp_path, PRETEND + code) == ["Nehalem"]


@needs_openblas
def test_importing_numpy_first_warns(tmp_path: Path) -> None:
    code = (
        "import os, warnings, numpy; del os.environ['OPENBLAS_CORETYPE']\n"
        + PRETEND
        + "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import bpengine; bpengine.openblas.prepare()\n"
        "print(len(caught), caught[0].category.__name__, caught[0].filename)\n"
        "print(caught[0].message)\n"
        "print(os.environ.get('OPENBLAS_CORETYPE'))"
    )
    first, *message, last = fresh(tmp_path, code, OPENBLAS_CORETYPE="Nehalem")
    assert first == "1 RuntimeWarning <string>"
    assert "takes this processor for a Nehalem" in message[0]
    assert "    export OPENBLAS_CORETYPE=Nehalem" in message
    assert last == "None"


@needs_openblas
def test_asks_numpys_own_openblas() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    numpys = [p for p in threadpoolctl.threadpool_info() if "numpy.libs" in p["filepath"]]
    if not numpys:
        pytest.skip("NumPy is not from a wheel")
    assert openblas.taken_core() == numpys[0]["architecture"]
    assert openblas.threads() == numpys[0]["num_threads"]


def test_imports_the_standard_library_alone(tmp_path: Path) -> None:
    code = PRETEND + "blas_core.prepare(); print('numpy' in sys.modules, 'bpengine' in sys.modules)"
    assert fresh(tmp_path, code) == ["False False"]
