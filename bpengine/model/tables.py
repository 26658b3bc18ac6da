"""Tables as text and as HTML, for `repr` and for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["as_html", "as_text"]


def as_text(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A table as lines of text, the first row its header; columns of numbers are right-aligned."""
    columns = []
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        right = all(not cell or (cell[0].isdigit() and "×" not in cell) for cell in column[1:])
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in column])
    return "\n".join([title, *("  ".join(row).rstrip() for row in zip(*columns, strict=True))])


def as_html(title: str, rows: Sequence[Sequence[str]]) -> str:
    """The same as an HTML table."""
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    lines[0] = lines[0].replace("td>", "th>")
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>\n<caption>{escape(title)}</caption>\n{body}\n</table>"
