"""Small datasets: handwritten digits, and random circles and steps."""

from __future__ import annotations

import importlib.resources

import numpy as np
from numpy.typing import NDArray

from bpengine.validation import (
    generator,
    non_negative_number,
    positive_integer,
    positive_number,
    whole_number,
)

__all__ = ["circles", "digits", "step"]

_Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]
_Seed = np.random.Generator | int | None


def digits() -> _Labelled:
    """Return the 1,797 handwritten digits of 8 x 8 pixels that come with the package.

    Returns
    -------
    X : float32 (64, 1797)
        Ink from 0 to 1, row by row; the transpose of a C-ordered array.
    labels : int64 (1797,)
        0 to 9, in the original order.

    References
    ----------
    E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits (test part), UCI
    Machine Learning Repository, doi:10.24432/C50P49; CC BY 4.0.

    Examples
    --------
    >>> X, labels = digits()
    >>> X.shape, labels[:5].tolist()
    ((64, 1797), [0, 1, 2, 3, 4])
    """
    stored = importlib.resources.files("bpengine.datasets") / "digits.npz"
    with stored.open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return images.astype(np.float32).T / np.float32(16), labels.astype(np.int64)


def circles(
    examples: int = 1000, *, inner: float = 0.5, noise: float = 0.05, rng: _Seed = None
) -> _Labelled:
    """Draw points on two concentric circles, in shuffled order; half of them on each.

    Parameters
    ----------
    examples : int
        How many points, at least 2; of an odd number, one more lies on the outer circle.
    inner : float
        Radius of the inner circle, above 0 and below 1; the outer one's is 1.
    noise : float
        Standard deviation of the normal noise on each coordinate, in the radii's unit; at most 1e36.
    rng : generator or seed, optional

    Returns
    -------
    X : float32 (2, examples)
        The transpose of a C-ordered array.
    labels : int64 (examples,)
        1 on the inner circle, 0 on the outer.

    Raises
    ------
    ValueError
        A parameter out of its range.

    Examples
    --------
    >>> X, labels = circles(6, noise=0, rng=0)
    >>> sorted(zip(labels.tolist(), np.hypot(*X).round(3).tolist()))
    [(0, 1.0), (0, 1.0), (0, 1.0), (1, 0.5), (1, 0.5), (1, 0.5)]
    """
    examples, noise = whole_number(examples, "examples"), non_negative_number(noise, "noise")
    inner = positive_number(inner, "inner")
    if examples < 2 or inner >= 1 or noise > 1e36:  # below the range of float32
        raise ValueError(
            "expected examples of 2 or more, inner above 0 and below 1, and noise of at most 1e36, got "
            f"examples={examples}, inner={inner}, noise={noise}."
        )
    rng = generator(rng)
    labels = rng.permutation(np.arange(examples) < examples // 2)
    angle, radius = rng.uniform(0, 2 * np.pi, examples), np.where(labels, inner, 1)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    points += rng.normal(0, noise, points.shape)
    return points.astype(np.float32).T, labels.astype(np.int64)


def step(examples: int = 100, *, rng: _Seed = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw points x of [-1, 1] and the step to learn: +1 where x > 0, -1 elsewhere.

    Parameters
    ----------
    examples : int
        How many points, at least 1.
    rng : generator or seed, optional

    Returns
    -------
    X, Y : float32 (1, examples)

    Raises
    ------
    ValueError
        Fewer than one example.

    Examples
    --------
    >>> X, Y = step(5, rng=0)
    >>> X.round(1)
    array([[ 0.3, -0.5, -0.9, -1. ,  0.6]], dtype=float32)
    >>> Y
    array([[ 1., -1., -1., -1.,  1.]], dtype=float32)
    """
    examples = positive_integer(examples, "examples")
    X = generator(rng).uniform(-1, 1, (1, examples)).astype(np.float32)
    return X, np.where(X > 0, np.float32(1), np.float32(-1))
