"""Types of fitted attributes: the parameters per layer, and the name of the output activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bpengine.backends import Array
from bpengine.model.parameters import numbers_like
from bpengine.network.network import Network

__all__ = ["Layers", "OutputName"]


class OutputName(str):
    """An output activation's name, which is in no table of names.

    Converters to other formats look it up, and take `activation` for the hidden layers. Where these have
    others, the result would be another network.
    """

    def __hash__(self) -> int:
        raise TypeError(
            "the hidden layers have other activations than the parameter activation says: see "
            "network_.activations. Tools that read activation can't convert this estimator."
        )


class Layers(list[Any]):
    """Arrays of a network in scikit-learn's layout; setting an entry writes it into the network."""

    def __init__(self, network: Network, views: Sequence[Array]) -> None:
        super().__init__(map(network.backend.to_numpy, views))
        self._network, self._views = network, views

    def __setitem__(self, l: Any, values: Any) -> None:
        backend = self._network.backend
        many = isinstance(l, slice)
        chosen = zip(self._views[l], values, strict=True) if many else [(self._views[l], values)]
        checked = [(view, numbers_like(array, view)) for view, array in chosen]
        for view, array in checked:
            view[...] = array
        super().__init__(map(backend.to_numpy, self._views))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)
