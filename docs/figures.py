"""The guide's pictures: run the code of each page, and save the figures that the page shows.

A page shows ``_build/figures/<page>/<name>.svg`` or ``.png`` for a figure that its code calls `name`,
and ``_build/figures/<page>/<file>.gif`` for a file that its code writes.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
from pathlib import Path

PICTURE = re.compile(r"_build/figures/([\w-]+)/([\w-]+)\.(svg|png|gif)")


def make(docs: Path) -> list[Path]:
    """Make the pictures of all pages in a folder, and return their paths."""
    made = []
    for page in sorted(docs.rglob("*.md")):
        if "_build" not in page.parts:
            made += pictures(page, docs / "_build" / "figures" / page.stem)
    return made


def pictures(page: Path, folder: Path) -> list[Path]:
    """Run the code of a page that shows pictures, in `folder`, and save them there.

    Raises
    ------
    RuntimeError
        If the output of the code differs from the page, or the code does not make a picture.
    """
    text = page.read_text(encoding="utf-8")
    shown = sorted(set(PICTURE.findall(text)))
    if not shown:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, page.stem, str(page), 0)
    runner = doctest.DocTestRunner(verbose=False)
    report: list[str] = []
    paths = [folder / f"{name}.{kind}" for _, name, kind in shown]
    for path in paths:
        path.unlink(missing_ok=True)
    with contextlib.chdir(folder):
        if runner.run(test, out=report.append, clear_globs=False).failed:
            raise RuntimeError("".join(report))
    for (of, name, kind), path in zip(shown, paths, strict=True):
        if of == page.stem and kind != "gif" and name in test.globs:
            save(test.globs[name], path)
        if of != page.stem or not path.exists():
            raise RuntimeError(f"{page} shows {of}/{name}.{kind}, which its code does not make.")
    return paths


def save(figure, path: Path) -> None:
    """Save a Matplotlib figure; the same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "bpengine"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=144, metadata=metadata)


if __name__ == "__main__":
    for picture in make(Path(__file__).resolve().parent):
        print(os.path.relpath(picture))
