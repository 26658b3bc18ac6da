"""The book's mnist_loader, also for the packaged digits: lists of pairs of columns."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bpengine import datasets
from bpengine.backends import Array
from bpengine.book.network2 import vectorized_result

__all__ = ["load_data", "load_data_wrapper", "load_digits_wrapper", "vectorized_result"]

Pairs = list[tuple[Array, Any]]
Part = tuple[Array, Array]
Wrapped = tuple[Pairs, Pairs, Pairs]
VALIDATION = 10_000  # last images of MNIST's training part
DIGITS = 300  # packaged digits each for validation and testing


def load_data(folder: str | os.PathLike[str] | None = None) -> tuple[Part, Part, Part]:
    """MNIST as three pairs of arrays: training, validation and test data.

    Parameters
    ----------
    folder : path, optional
        Of MNIST's four IDX files. None: the user's cache, downloaded on first use.

    Returns
    -------
    training_data, validation_data, test_data : pairs (images, labels)
        Of 50,000, 10,000 and 10,000 images: float32 (m, 784), labels int64 (m,). As in the book,
        pixels are multiples of 1/256.

    Raises
    ------
    FileNotFoundError, ValueError, ConnectionError, ImportError
        As for `bpengine.datasets.mnist`.
    """
    (X, labels), test = (_pixels(*datasets.mnist(folder, part)) for part in ("train", "test"))
    return (X[:-VALIDATION], labels[:-VALIDATION]), (X[-VALIDATION:], labels[-VALIDATION:]), test


def load_data_wrapper(folder: str | os.PathLike[str] | None = None) -> Wrapped:
    """MNIST as three lists of pairs (x, y): training, validation and test data.

    Parameters
    ----------
    folder : path, optional
        As for `load_data`.

    Returns
    -------
    training_data, validation_data, test_data : lists of pairs
        x is a column of shape (784, 1). y is a column of shape (10, 1) in the training data, and the
        digit itself in the others.

    Raises
    ------
    FileNotFoundError, ValueError, ConnectionError, ImportError
        As for `bpengine.datasets.mnist`.
    """
    return _wrapped(*load_data(folder))


def load_digits_wrapper() -> Wrapped:
    """The 1,797 packaged digits of 8 × 8 pixels, in the form of `load_data_wrapper`.

    Returns
    -------
    training_data, validation_data, test_data : lists of pairs
        Of 1,197, 300 and 300 digits, in the original order; x has shape (64, 1).

    Examples
    --------
    >>> training_data, validation_data, test_data = load_digits_wrapper()
    >>> x, y = training_data[0]
    >>> x.shape, y.shape, test_data[0][1]
    ((64, 1), (10, 1), 6)
    """
    X, labels = datasets.digits()
    parts = [slice(-2 * DIGITS), slice(-2 * DIGITS, -DIGITS), slice(-DIGITS, None)]
    training, validation, test = [(X.T[part], labels[part]) for part in parts]
    return _wrapped(training, validation, test)


def _pixels(X: Array, labels: Array) -> Part:
    return np.rint(X.T * 255) / np.float32(256), labels


def _wrapped(training: Part, validation: Part, test: Part) -> Wrapped:
    targets = np.eye(10)[training[1]][..., None], validation[1].tolist(), test[1].tolist()
    parts = zip((training, validation, test), targets, strict=True)
    first, second, third = (list(zip(X[..., None], Y, strict=True)) for (X, _), Y in parts)
    return first, second, third
