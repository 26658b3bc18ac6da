"""A figure that notebooks show without pyplot. Imported by `style.figure` alone: it needs Matplotlib."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = ["Picture"]


class Picture(Figure):
    """A Matplotlib figure that is drawn by Agg and belongs to no window and no global list."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08))
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
