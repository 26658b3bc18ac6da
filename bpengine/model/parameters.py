"""All weights and biases of a network as views of one flat vector."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, SupportsIndex

import numpy as np
from array_api_compat import device, is_array_api_obj, is_numpy_array

from bpengine.backends import AnyArray, Array, Backend
from bpengine.backends.array_api import library_name
from bpengine.backends.namespace import array_namespace
from bpengine.validation import host_numbers, shown

__all__ = ["Gradient", "ParameterSlice", "Parameters", "Views", "not_padding", "numbers_like", "padded"]


class Views(tuple[AnyArray, ...]):
    """Arrays that are views of one vector; setting one writes into it."""

    def __setitem__(self, l: SupportsIndex, values: Array) -> None:
        try:
            view = self[operator.index(l)]
        except (TypeError, IndexError) as error:
            raise type(error)(
                f"the layer l of weights[l] and biases[l] must be a whole number from {-len(self)} to "
                f"{len(self) - 1}, got {shown(l)}; set one layer at a time."
            ) from None
        view[...] = numbers_like(values, view)


def numbers_like(values: Array, view: Array) -> Array:
    """Finite real numbers, from an array of the library of `view`, the host or Python."""
    xp = array_namespace(view)
    dtype = f"float{xp.finfo(view.dtype).bits}"
    host = not is_array_api_obj(values) or is_numpy_array(values)
    if not host and array_namespace(values) is not xp:
        ours, theirs = (library_name(array_namespace(x)) for x in (view, values))
        raise TypeError(f"parameters are arrays of {ours}, got one of {theirs}; convert it first.")
    found = host_numbers(values, "parameters") if host else values
    if not host and not xp.isdtype(found.dtype, ("bool", "integral", "real floating")):
        raise TypeError(f"parameters must be real numbers, got an array of {found.dtype}.")
    shape, expected = tuple(found.shape), tuple(view.shape)
    sizes = zip(reversed(shape), reversed(expected), strict=False)
    if len(shape) > len(expected) or any(n not in (1, size) for n, size in sizes):
        raise ValueError(f"parameters of shape {expected} can't be set to an array of shape {shape}.")
    with np.errstate(over="ignore"):
        numbers = found.astype(dtype) if host else xp.astype(found, view.dtype)
    numbers = xp.asarray(numbers, device=device(view)) if host else numbers
    if not bool(xp.all(xp.isfinite(numbers))):
        raise ValueError(f"parameters must be finite numbers that {dtype} holds.")
    return numbers


class Parameters:
    """Weights and biases as views of one flat vector.

    Layer l has ``[w | b | 0]`` in one array of shape (…, n_l, K_l): the bias is the weight of an
    input that is always 1, and the zeros pad rows to the backend's alignment. Layers follow each
    other in the vector.

    Attributes
    ----------
    backend : Backend
    dtype : str
    stack : tuple of int
    vector : array of shape (size,)
        All parameters, padding included; initially 0.
    blocks : Views of arrays of shape (…, n_l, K_l)
        ``[w b 0]`` per layer.
    weights : Views of arrays of shape (…, n_l, n_{l-1})
    biases : Views of arrays of shape (…, n_l, 1)
    """

    def __init__(
        self, sizes: Sequence[int], backend: Backend, dtype: str, stack: tuple[int, ...] = ()
    ) -> None:
        self.sizes, self.backend, self.dtype, self.stack = tuple(sizes), backend, dtype, stack
        widths = [padded(n + 1, backend, dtype) for n in self.sizes[:-1]]
        self._shapes = [(*stack, n, width) for n, width in zip(self.sizes[1:], widths, strict=True)]
        self.vector: AnyArray = backend.empty((sum(map(math.prod, self._shapes)),), dtype)
        self.vector[...] = 0.0

    def __repr__(self) -> str:
        sizes = zip(self.sizes[1:], self.sizes, strict=False)
        shapes = ", ".join(f"{n}×{before}" for n, before in sizes)
        stack = "".join(f", stack of {P}" for P in self.stack)
        return f"{type(self).__name__}(weights {shapes}, {self.dtype}, {self.backend.name}{stack})"

    def split(self, vector: Array) -> list[Array]:
        """Views of the blocks of a vector with the layout of the parameters."""
        xp, ends = array_namespace(vector), accumulate(map(math.prod, self._shapes), initial=0)
        return [
            xp.reshape(vector[start:stop], shape, copy=False)
            for (start, stop), shape in zip(pairwise(ends), self._shapes, strict=True)
        ]

    @functools.cached_property
    def blocks(self) -> Views:
        """``[w b 0]`` per layer."""
        return Views(self.split(self.vector))

    @functools.cached_property
    def weights(self) -> Views:
        """Of shape (…, n_l, n_{l-1}) per layer."""
        return Views(x[..., :n] for x, n in zip(self.blocks, self.sizes[:-1], strict=True))

    @functools.cached_property
    def biases(self) -> Views:
        """Of shape (…, n_l, 1) per layer."""
        return Views(x[..., n : n + 1] for x, n in zip(self.blocks, self.sizes[:-1], strict=True))


class ParameterSlice(Parameters):
    """The parameters of one network of a stack: views of the stack's.

    Its blocks are not contiguous: `vector` is a read-only copy.
    """

    def __init__(self, parameters: Parameters, i: int) -> None:
        self.sizes, self.backend, self.stack = parameters.sizes, parameters.backend, ()
        self.dtype = parameters.dtype
        self.blocks = Views(block[i, ...] for block in parameters.blocks)

    @property
    def vector(self) -> AnyArray:  # type: ignore[override]
        """A copy of all parameters, padding included."""
        xp = self.backend.xp
        vector = xp.concat([xp.reshape(block, (-1,)) for block in self.blocks])
        if isinstance(vector, np.ndarray):
            vector.flags.writeable = False
        return vector


class Gradient(Parameters):
    """The gradient of the average cost, with the layout of the parameters.

    Attributes
    ----------
    vector, blocks, weights, biases
        As in `Parameters`: ``weights[l]`` is ∂C/∂w of layer l, ``biases[l]`` is ∂C/∂b.
    cost : float, or NumPy array of shape (P,)
        The average cost C at which the gradient was taken, of each network of a stack.
    """

    cost: Any

    def copied(self) -> Gradient:
        """The same numbers in another vector."""
        new = object.__new__(type(self))
        new.sizes, new.backend, new.dtype, new.stack = self.sizes, self.backend, self.dtype, self.stack
        new._shapes, new.cost = self._shapes, self.cost
        new.vector = self.backend.xp.asarray(self.vector, copy=True)
        return new

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, cost {self.cost})"


def padded(width: int, backend: Backend, dtype: str) -> int:
    """`width` elements of `dtype`, rounded up to the backend's alignment in bytes."""
    elements = max(1, backend.alignment // np.dtype(dtype).itemsize)
    return -(-width // elements) * elements


def not_padding(parameters: Parameters) -> np.ndarray[Any, Any]:
    """A mask of the entries of the vector that are no padding, on the host."""
    mask = np.zeros(tuple(parameters.vector.shape), bool)
    for block, n in zip(parameters.split(mask), parameters.sizes, strict=False):
        block[..., : n + 1] = True
    return mask
