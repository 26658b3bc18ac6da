"""The guide's programs and commands, run as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")
pytest.importorskip("distributed")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "many-machines.md"


def test_the_guide(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    programs = re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert [name for name, _ in programs] == ["train.py", "search.py"]
    for name, code in programs:
        (tmp_path / name).write_text(code, encoding="utf-8")
    install, *commands = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    assert install == 'pip install "bpengine[mpi]"\n'  # as the session has done
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = []
    for command in [*commands, commands[0]]:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PATH": path},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    trained, priced, found, again = said
    assert re.fullmatch(r"2 ranks, 10 epochs, accuracy 0\.9\d\n", trained) and again == trained
    assert "largest useful number of ranks" in priced
    assert "'hidden_layer_sizes'" in found
