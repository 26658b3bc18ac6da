"""Formulas as SVG, drawn when the guide is built: pages need no script and no fonts."""

from __future__ import annotations

import html
import re

import ziafont
import ziamath
from docutils.nodes import SkipNode

SIZE = 20  # units of the drawing per em
ziafont.config.precision = 1
ziamath.config.svg2 = False


def drawn(latex, display):
    """Return LaTeX as an SVG element that scales with the surrounding text."""
    svg = ziamath.Latex(latex, size=SIZE, inline=not display).svg()
    box = re.search(r'viewBox="(.*?)"', svg)[1]
    _, top, width, height = map(float, box.split())
    style = f"width:{width / SIZE:.2f}em;height:{height / SIZE:.2f}em"
    if not display:
        # the baseline is at y = 0
        style += f";vertical-align:{-(top + height) / SIZE:.2f}em"
    label = html.escape(" ".join(latex.split()))
    shapes = svg[svg.index(">") + 1 :]
    return f'<svg role="img" aria-label="{label}" viewBox="{box}" style="{style}">{shapes}'


def inline(translator, node):
    """Write an inline formula."""
    translator.body.append(f'<span class="formula">{drawn(node.astext(), display=False)}</span>')
    raise SkipNode


def display(translator, node):
    """Write a display formula."""
    translator.body.append(f'<div class="formula">{drawn(node.astext(), display=True)}</div>')
    raise SkipNode


def setup(app):
    """Register the renderer ``svg`` for ``html_math_renderer``."""
    app.add_html_math_renderer("svg", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
