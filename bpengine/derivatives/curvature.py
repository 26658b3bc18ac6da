"""Curvature of the cost: products of a vector with the Hessian or the Gauss-Newton matrix.

R{·} is the derivative of a quantity along a vector v of the parameters, ``[V c]`` in each layer.
Applied to the equations of backprop, it gives the product of the Hessian and v for about the cost of
two gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bpengine.backends import AnyArray, Array
from bpengine.backends.namespace import array_namespace
from bpengine.backprop.plan import Plan
from bpengine.model.activations import Activation, PerNeuron, Softmax
from bpengine.model.model import Model, check_single
from bpengine.model.parameters import Gradient, Parameters
from bpengine.validation import choose, non_negative_number

__all__ = ["Curvature"]


class Curvature:
    """Hessian and Gauss-Newton matrix of the average cost over a batch, as products with vectors.

    Parameters
    ----------
    network : Network
        Create a new object when its parameters have changed.
    X : array of shape (n_1, m)
    Y : array of shape (n_L, m), or m integer labels
    sample_weight : array of shape (m,), optional
        As for `Network.backprop`.

    Raises
    ------
    ValueError, TypeError
        If X or Y does not fit the network.

    Notes
    -----
    Vectors are laid out as ``network.vector``. An l2 penalty is part of both matrices. The second
    derivative at a kink is 0.

    The Gauss-Newton matrix is ``Jᵀ H J``. For a canonical pair of cost and output activation
    (δ = a - y), J is the Jacobian of the outputs' z and H the Hessian of the cost by z; otherwise of
    the outputs a, and by a. It has no negative eigenvalue if H has none.

    References
    ----------
    B. Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6, 1994;
    N. Schraudolph, Fast curvature matrix-vector products, Neural Computation 14, 2002.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> net = bp.Network([3, 4, 2], dtype="float64", rng=0)
    >>> X, Y = np.ones((3, 5)), np.zeros((2, 5))
    >>> v = 1e-5 * np.ones_like(net.vector)
    >>> product = bp.Curvature(net, X, Y).hessian_vector(v)
    >>> before = net.backprop(X, Y).vector.copy()
    >>> net.vector[...] += v
    >>> (1e6 * product)[-3:].round(2)
    array([2.41, 1.46, 1.91])
    >>> (1e6 * (net.backprop(X, Y).vector - before))[-3:].round(2)
    array([2.41, 1.46, 1.91])
    """

    @np.errstate(all="ignore")
    def __init__(self, network: Model, X: Array, Y: Array, sample_weight: Array | None = None) -> None:
        check_single(network, "Curvature")
        X, Y = network.check_examples(X, Y)
        plan = Plan(network, X.shape[1], weighted=sample_weight is not None)
        plan.load(X, Y, sample_weight)
        self.network, self._ws = network, plan.run().workspace
        ws, cost = self._ws, network.cost
        self._parameters = Parameters(network.sizes, network.backend, network.dtype)
        self._parameters.vector[...] = network.vector
        w = self._parameters.weights
        self._canonical = cost.is_canonical(network.activations[-1])
        # the factors of the slope in BP1 and BP2
        self._upstream = [w_.mT @ δ for w_, δ in zip(w[1:], ws.delta[1:], strict=True)]
        if not self._canonical:
            self._upstream.append(cost.scaled_derivative(ws.a[-1], ws.targets, ws.example_scale))

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.network.sizes))
        return f"Curvature({sizes}, {self._ws.a[-1].shape[-1]} examples)"

    @np.errstate(all="ignore")
    def hessian_vector(self, v: Array) -> AnyArray:
        """The Hessian times v.

        Parameters
        ----------
        v : array of shape (size,)

        Returns
        -------
        array of shape (size,)

        Raises
        ------
        ValueError
            If v has another shape, or a custom activation or cost has no second derivative.
        """
        V, ws, σ = self._direction(v), self._ws, self.network.activations
        Rz, Ra = self._forward(V)
        L = len(σ) - 1
        out = self._result(V)
        if self._canonical:
            Rδ = Ra[L] * ws.example_scale  # of δ[L] = (a - y) / m
        else:
            Rg = self._cost_curvature(Ra[L])
            Rδ = _slope_change(σ[L], self._upstream[L], Rg, Rz[L], ws.z[L], ws.a[L])
        for l in range(L, -1, -1):
            # R{δ [aᵀ 1]} = R{δ} [aᵀ 1] + δ [R{a}ᵀ 0]
            out.blocks[l][...] = out.blocks[l] + Rδ @ ws.extended[l].mT
            if l > 0:
                δ, w = ws.delta[l], self._parameters.weights[l]
                out.weights[l][...] = out.weights[l] + δ @ Ra[l - 1].mT
                # R{wᵀ δ} = wᵀ R{δ} + Vᵀ δ
                Rg = w.mT @ Rδ + V.weights[l].mT @ δ
                g, z, a = self._upstream[l - 1], ws.z[l - 1], ws.a[l - 1]
                Rδ = _slope_change(σ[l - 1], g, Rg, Rz[l - 1], z, a)
        return out.vector

    @np.errstate(all="ignore")
    def gauss_newton_vector(self, v: Array) -> AnyArray:
        """The Gauss-Newton matrix times v; as `hessian_vector`, but needs no second derivative of σ."""
        V, ws, σ = self._direction(v), self._ws, self.network.activations
        _, Ra = self._forward(V)
        L = len(σ) - 1
        out = self._result(V)
        scaled = Ra[L] * ws.example_scale
        δ = scaled if self._canonical else self._slope(L, self._cost_curvature(Ra[L]))
        for l in range(L, -1, -1):
            out.blocks[l][...] = out.blocks[l] + δ @ ws.extended[l].mT
            if l > 0:
                δ = self._slope(l - 1, self._parameters.weights[l].mT @ δ)
        return out.vector

    def operator(self, matrix: str = "hessian") -> Any:
        """A ``scipy.sparse.linalg.LinearOperator`` on NumPy vectors, for SciPy's solvers.

        Parameters
        ----------
        matrix : {"hessian", "gauss_newton"}, optional

        Raises
        ------
        ImportError
            Without SciPy.
        """
        products = {"hessian": self.hessian_vector, "gauss_newton": self.gauss_newton_vector}
        product = choose(matrix, products, "matrix")
        backend, dtype = self.network.backend, self.network.dtype
        size = self.network.vector.shape[0]

        def matvec(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            direction = backend.asarray(v.ravel().astype(dtype), dtype)
            return backend.to_numpy(product(direction)).astype("float64")

        linalg = _linalg()
        return linalg.LinearOperator((size, size), matvec=matvec, rmatvec=matvec, dtype="float64")

    def top_eigenvalue(self, matrix: str = "hessian", tolerance: float = 1e-6) -> float:
        """The eigenvalue of greatest magnitude, with its sign, by Lanczos iterations in SciPy.

        Parameters
        ----------
        matrix : {"hessian", "gauss_newton"}, optional
        tolerance : float, optional
            Relative error; with float32 at least about 1e-5.

        Raises
        ------
        ImportError
            Without SciPy.
        """
        tolerance = non_negative_number(tolerance, "tolerance")
        start = np.random.default_rng(0).standard_normal(self.network.vector.shape[0])
        operator, eigsh = self.operator(matrix), _linalg().eigsh
        values = eigsh(operator, k=1, which="LM", v0=start, tol=tolerance, return_eigenvectors=False)
        return float(values[0])

    def _direction(self, v: Array) -> Parameters:
        net = self.network
        shape = tuple(getattr(v, "shape", ()))
        if shape != tuple(net.vector.shape):
            raise ValueError(
                f"v has shape {shape}; expected {tuple(net.vector.shape)}, as network.vector has."
            )
        V = Parameters(net.sizes, net.backend, net.dtype)
        V.vector[...] = net.backend.asarray(v, net.dtype)
        return V

    def _result(self, V: Parameters) -> Gradient:
        """A new vector with the penalty's part of the product."""
        net = self.network
        out = Gradient(net.sizes, net.backend, net.dtype)
        if net.l2:
            for target, v in zip(out.weights, V.weights, strict=True):
                target[...] = net.l2 * v
        return out

    def _forward(self, V: Parameters) -> tuple[list[Array], list[Array]]:
        """R{z} and R{a} of the layers after the input."""
        Rz: list[Array] = []
        Ra: list[Array] = []
        for l, x in enumerate(self._ws.extended):
            # R{[w b] [a; 1]} = [V c] [a; 1] + w R{a}
            change = V.blocks[l] @ x
            if l > 0:
                change = change + self._parameters.weights[l] @ Ra[-1]
            Rz.append(change)
            Ra.append(self._slope(l, change))
        return Rz, Ra

    def _slope(self, l: int, g: Array) -> Array:
        """Product g ⊙ σ'(z); for softmax the Jacobian, which is symmetric, times g."""
        σ, ws = self.network.activations[l], self._ws
        return σ.slope(g, ws.z[l] if σ.of == "z" else ws.a[l])

    def _cost_curvature(self, Ra: Array) -> Array:
        ws, cost = self._ws, self.network.cost
        if cost.second_derivative is None:
            raise ValueError(
                f"cost {cost.name!r} has no second derivative, which curvature needs: give it "
                "second_derivative=, a function of a and y."
            )
        return cost.second_derivative(ws.a[-1], ws.targets) * Ra * ws.example_scale


def _slope_change(σ: Activation, g: Array, Rg: Array, Rz: Array, z: Array, a: Array) -> Array:
    """R{g ⊙ σ'(z)} from Rg and Rz; for softmax, of the Jacobian times g."""
    xp = array_namespace(a)
    if isinstance(σ, PerNeuron):
        parts = ((σ, *(x[..., rows, :] for x in (g, Rg, Rz, z, a))) for σ, rows in σ.slices())
        return xp.concat([_slope_change(*part) for part in parts], axis=-2)
    if isinstance(σ, Softmax):
        # δ = a ⊙ (g - Σ a g), by the product rule
        Ra = σ.slope(Rz, a)
        mean = xp.sum(a * g, axis=-2, keepdims=True)
        change = xp.sum(Ra * g + a * Rg, axis=-2, keepdims=True)
        return Ra * (g - mean) + a * (Rg - change)
    if σ.second_derivative is None:
        raise ValueError(
            f"activation {σ.name!r} has no second derivative, which the Hessian needs: give it "
            "second_derivative=, a function of what its derivative takes; or use Gauss-Newton products."
        )
    x = z if σ.of == "z" else a
    return σ.slope(Rg, x) + g * σ.second_derivative(x) * Rz


def _linalg() -> Any:
    try:
        from scipy.sparse import linalg
    except ImportError:
        raise ImportError(
            'operators and eigenvalues need SciPy. Install it: pip install "bpengine[scipy]"'
        ) from None
    return linalg
