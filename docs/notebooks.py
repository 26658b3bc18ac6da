"""The tutorial as notebooks, made when the guide is built: ``_build/notebooks/<page>.ipynb``."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

BLOCK = re.compile(r"^```(\S+) ?(\S*)\n(.*?)^```$\n", flags=re.DOTALL | re.MULTILINE)
MADE = re.compile(r"_build/figures/[\w-]+/([\w-]+)\.(svg|png|gif)")


def make(docs: Path, guide: str, repository: str) -> list[Path]:
    """Write the notebooks, and return their paths."""
    folder = docs / "_build" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for page in sorted(docs.glob("tutorial/*.md")):
        if page.stem != "index":
            paths.append(folder / f"{page.stem}.ipynb")
            paths[-1].write_text(
                json.dumps(notebook(page, guide, repository), indent=1), encoding="utf-8"
            )
    return paths


def notebook(page: Path, guide: str, repository: str) -> dict:
    """A page as a notebook; its links lead to the guide."""
    text = page.read_text(encoding="utf-8")
    source = f"From [the guide]({guide}/tutorial/{page.stem}.html). Needs the extra `plots`."
    cells = [cell("markdown", source)]
    if MADE.search(text):
        cells.append(cell("code", "%matplotlib inline"))
    end = 0
    for match in BLOCK.finditer(text):
        cells.append(cell("markdown", linked(text[end : match.start()], guide)))
        cells += block(page, *match.groups(), repository)
        end = match.end()
    cells.append(cell("markdown", linked(text[end:], guide)))
    for number, entry in enumerate(cells):
        entry["id"] = str(number)
    cells = [entry for entry in cells if entry["source"]]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def cell(kind: str, source: str) -> dict:
    """A cell without outputs."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source.strip(), **code}


def linked(text: str, guide: str) -> str:
    """Text whose links to other pages lead to the guide."""
    text = re.sub(r"\]\(\.\./([\w/-]+)\.md", rf"]({guide}/\1.html", text)
    return re.sub(r"\]\(([\w-]+)\.md", rf"]({guide}/tutorial/\1.html", text)


def block(page: Path, name: str, argument: str, body: str, repository: str) -> list[dict]:
    """The cells of a block: code, a picture, or lines of a file."""
    options = dict(re.findall(r"^:([\w-]+): *(.*)$", body, flags=re.MULTILINE))
    if name == "python":
        examples = doctest.DocTestParser().get_examples(body)
        return [cell("code", "".join(example.source for example in examples))]
    if name == "{literalinclude}":
        lines = (page.parent / argument).read_text(encoding="utf-8").splitlines()
        start, end = (options[key].strip("'\"") for key in ("start-at", "end-at"))
        first = next(i for i, line in enumerate(lines) if start in line)
        last = next(i for i, line in enumerate(lines) if i >= first and end in line)
        quoted = "\n".join(line.strip() for line in lines[first : last + 1])
        return [cell("markdown", f"```python\n{quoted}\n```")]
    if name != "{figure}":
        raise ValueError(f"{page}: a notebook has no {name}")
    caption = cell("markdown", re.sub(r"^:.*\n", "", body, flags=re.MULTILINE))
    made = MADE.search(argument)
    if made is None:
        picture = argument.replace("../", f"{repository}/raw/main/docs/")
        return [cell("markdown", f"![{options['alt']}]({picture})"), caption]
    show = made[1]
    if made[2] == "gif":
        show = f'from IPython.display import Image\nImage("{made[1]}.gif")'
    return [cell("code", show), caption]
