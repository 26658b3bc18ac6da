"""A figure that notebooks show without pyplot. Only `style.figure` imports it: it needs Matplotlib."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = ["Picture"]


class Picture(Figure):
    """A Matplotlib figure drawn by Agg, unknown to pyplot."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08))
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """PNG for notebooks."""
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
