"""Other revisions of the repository, whose times are taken in turn with those of this one."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent


@contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """The files of a revision, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree, archive = Path(folder) / "tree", Path(folder) / "tree.zip"
        archived = [*_git(HERE.parent), "archive", f"--output={archive}", revision]
        subprocess.run(archived, check=True)
        shutil.unpack_archive(archive, tree)
        yield tree


def revision_of(baseline: Path) -> str | None:
    """The commit that stored the ratios of a baseline; None where git does not know it."""
    baseline = baseline.resolve()
    ratios, found = json.loads(baseline.read_text(encoding="utf-8"))["ratios"], None
    if _output(baseline, "rev-parse", "--is-shallow-repository").strip() != "false":
        return None  # also outside a repository
    for commit in _output(baseline, "log", "--format=%H", "--", baseline.name).split():
        stored = json.loads(_output(baseline, "show", f"{commit}:./{baseline.name}")).get("ratios")
        if stored != ratios:
            break
        found = commit
    return found


def _output(path: Path, *command: str) -> str:
    return subprocess.run([*_git(path.parent), *command], capture_output=True, text=True).stdout


def _git(folder: Path) -> list[str | Path]:
    return ["git", "-C", folder]
