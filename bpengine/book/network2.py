"""The book's second program, network2.py: a choice of cost, L2 regularization, monitoring, files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bpengine import validation
from bpengine.backends import Array
from bpengine.book.costs import CrossEntropyCost, QuadraticCost, engine_cost, sigmoid, sigmoid_prime
from bpengine.book.examples import Examples
from bpengine.book.program import Program
from bpengine.model import storage

__all__ = [
    "CrossEntropyCost",
    "Network",
    "QuadraticCost",
    "load",
    "sigmoid",
    "sigmoid_prime",
    "vectorized_result",
]

MOST_BYTES = 2**30  # of a file, which has no header that says what it holds
COSTS = {cost.__name__: cost for cost in (QuadraticCost, CrossEntropyCost)}
Monitored = tuple[list[float], list[int], list[float], list[int]]


class Network(Program):
    """A network of sigmoid neurons with a choice of cost and L2 regularization.

    Parameters are drawn by `default_weight_initializer`.

    Parameters
    ----------
    sizes : sequence of int
        Neurons per layer, input first.
    cost : class, optional
        CrossEntropyCost, QuadraticCost, or a custom one with static methods ``fn(a, y)``, the cost
        of one example, and ``delta(z, a, y)``, its output error.

    Attributes
    ----------
    num_layers, sizes, cost
    biases, weights : lists of arrays of shapes (n, 1) and (n, n_prev)
        One for each layer after the input, float64; they may be replaced.

    References
    ----------
    M. Nielsen, Neural Networks and Deep Learning, chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.book import network2
    >>> np.random.seed(0)
    >>> net = network2.Network([2, 3, 1], cost=network2.QuadraticCost)
    >>> net.large_weight_initializer()
    >>> [w.shape for w in net.weights], [b.shape for b in net.biases]
    ([(3, 2), (1, 3)], [(3, 1), (1, 1)])
    """

    def __init__(self, sizes: Sequence[int], cost: Any = CrossEntropyCost) -> None:
        super().__init__(sizes)
        engine_cost(cost)
        self.default_weight_initializer()
        self.cost = cost

    def default_weight_initializer(self) -> None:
        """Draw biases of standard deviation 1, and weights of 1/√n for layers with n inputs."""
        self._draw_parameters()
        self.weights = [w / np.sqrt(w.shape[1]) for w in self.weights]

    def large_weight_initializer(self) -> None:
        """Draw biases and weights of standard deviation 1, as `network.Network`."""
        self._draw_parameters()

    def SGD(  # noqa: N802
        self,
        training_data: Iterable[Any],
        epochs: int,
        mini_batch_size: int,
        eta: float,
        lmbda: float = 0.0,
        evaluation_data: Iterable[Any] | None = None,
        monitor_evaluation_cost: bool = False,
        monitor_evaluation_accuracy: bool = False,
        monitor_training_cost: bool = False,
        monitor_training_accuracy: bool = False,
        early_stopping_n: int = 0,
    ) -> Monitored:
        """Train by mini-batches, and print after each epoch what is monitored.

        Parameters
        ----------
        training_data : list of pairs (x, y)
            Columns of shapes (n_1, 1) and (n_L, 1). A list is shuffled in place by
            ``random.shuffle``; other iterables are copied to a list.
        epochs : int
        mini_batch_size : int
            The last mini-batch of an epoch may be smaller.
        eta : float
            Learning rate.
        lmbda : float, optional
            λ of the L2 regularization: steps multiply the weights by 1 - eta λ / n, for n training
            examples.
        evaluation_data : list of pairs (x, label), optional
        monitor_evaluation_cost, monitor_evaluation_accuracy : bool, optional
        monitor_training_cost, monitor_training_accuracy : bool, optional
        early_stopping_n : int, optional
            Above 0: stop after this number of epochs without a better accuracy, on the evaluation
            data if monitored.

        Returns
        -------
        evaluation_cost, evaluation_accuracy, training_cost, training_accuracy : lists
            One entry per epoch if monitored; accuracies are numbers of examples.

        Raises
        ------
        ValueError, TypeError
            If an example does not fit the network, or monitored data are missing.
        """
        data = Examples(training_data, "training_data")
        held: Examples | None = None
        if evaluation_data is not None:
            held = Examples(evaluation_data, "evaluation_data")
        elif monitor_evaluation_cost or monitor_evaluation_accuracy:
            raise ValueError("there is no evaluation_data to monitor: pass evaluation_data=….")
        if early_stopping_n > 0 and not (monitor_evaluation_accuracy or monitor_training_accuracy):
            raise ValueError(
                "early_stopping_n needs an accuracy: pass monitor_evaluation_accuracy=True with "
                "evaluation_data=…, or monitor_training_accuracy=True."
            )
        evaluation_cost: list[float] = []
        evaluation_accuracy: list[int] = []
        training_cost: list[float] = []
        training_accuracy: list[int] = []
        accuracies = evaluation_accuracy if monitor_evaluation_accuracy else training_accuracy

        def update(mini_batch: list[Any]) -> None:
            self.update_mini_batch(mini_batch, eta, lmbda, len(data))

        for j in self._epochs(training_data, data, epochs, mini_batch_size, eta, lmbda, update):
            print(f"Epoch {j} training complete")
            if monitor_training_cost:
                training_cost.append(self.total_cost(data, lmbda))
                print(f"Cost on training data: {training_cost[-1]}")
            if monitor_training_accuracy:
                training_accuracy.append(self.accuracy(data, convert=True))
                print(f"Accuracy on training data: {training_accuracy[-1]} / {len(data)}")
            if held is not None and monitor_evaluation_cost:
                evaluation_cost.append(self.total_cost(held, lmbda, convert=True))
                print(f"Cost on evaluation data: {evaluation_cost[-1]}")
            if held is not None and monitor_evaluation_accuracy:
                evaluation_accuracy.append(self.accuracy(held))
                print(f"Accuracy on evaluation data: {evaluation_accuracy[-1]} / {len(held)}")
            print()
            if early_stopping_n > 0 and _since_best(accuracies) >= early_stopping_n:
                break
        return evaluation_cost, evaluation_accuracy, training_cost, training_accuracy

    def update_mini_batch(self, mini_batch: Iterable[Any], eta: float, lmbda: float, n: int) -> None:
        """One step of gradient descent.

        Parameters
        ----------
        mini_batch : list of pairs (x, y)
        eta : float
            Learning rate.
        lmbda : float
            λ of the L2 regularization.
        n : int
            The number of all training examples.
        """
        self._take_step(mini_batch, eta, lmbda, n)

    def accuracy(self, data: Iterable[Any], convert: bool = False) -> int:
        """The number of correctly classified examples.

        Parameters
        ----------
        data : list of pairs (x, y)
        convert : bool, optional
            Whether y is a column, as in the training data, not a label.
        """
        examples = Examples.of(data, "data")
        if convert:
            labels = examples.targets(self.sizes[-1], "With labels, pass convert=False").argmax(axis=1)
        else:
            labels = examples.labels("With columns, pass convert=True")
        return self._hits(examples, labels)

    def total_cost(self, data: Iterable[Any], lmbda: float, convert: bool = False) -> float:
        """The average cost of n examples plus λ/(2n) Σ w².

        Parameters
        ----------
        data : list of pairs (x, y)
        lmbda : float
            λ of the L2 regularization.
        convert : bool, optional
            Whether y is a label, as in the evaluation data, not a column.
        """
        examples, outputs = Examples.of(data, "data"), self.sizes[-1]
        if convert:
            targets = examples.targets_of_labels(outputs, "With columns, pass convert=False")
        else:
            targets = examples.targets(outputs, "With labels, pass convert=True")
        squares = sum(float(np.sum(np.square(w))) for w in self.weights)
        return self._average_cost(examples, targets) + 0.5 * lmbda / len(examples) * squares

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write sizes, weights, biases and the cost's name as JSON, in the book's form."""
        text = json.dumps(
            {
                "sizes": [int(n) for n in self.sizes],
                "weights": [np.asarray(w).tolist() for w in self.weights],
                "biases": [np.asarray(b).tolist() for b in self.biases],
                "cost": getattr(self.cost, "__name__", type(self.cost).__name__),
            }
        )
        with storage.replacing(validation.file_path(filename, "filename")) as file:
            file.write(text.encode())

    def _cost(self) -> Any:
        return self.cost


def load(filename: str | os.PathLike[str], cost: Any = None) -> Network:
    """Read a network from a file that `Network.save`, or the book's program, wrote.

    Parameters
    ----------
    filename : path
    cost : class, optional
        The cost, where the file's is a custom one.

    Raises
    ------
    OSError
        If the file can't be read.
    ValueError
        If it holds no such network, or a cost that is not known here.

    Examples
    --------
    >>> import os, tempfile
    >>> from bpengine.book import network2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.json")
    ...     network2.Network([2, 3, 1]).save(path)
    ...     network2.load(path).sizes
    [2, 3, 1]
    """
    path = validation.file_path(filename, "filename")
    storage.check_regular(path)
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{os.fspath(filename)} is no network of the book's form: it is too large")
    text = path.read_bytes()
    try:
        found = json.loads(text.decode())
        name = found["cost"]
        if cost is None and name not in COSTS:
            raise ValueError(f"its cost {name!r} is none of {', '.join(COSTS)}: pass cost= to load")
        sizes = found["sizes"]
        weights, biases = (
            [np.array(array, "float64") for array in found[kind]] for kind in ("weights", "biases")
        )
        shapes = [(n, fan_in) for fan_in, n in pairwise(sizes)], [(n, 1) for n in sizes[1:]]
        if ([w.shape for w in weights], [b.shape for b in biases]) != shapes:
            raise ValueError(f"its weights and biases do not fit a network of sizes {sizes}")
        net = Network(sizes, COSTS[name] if cost is None else cost)
        net.weights, net.biases = weights, biases
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{os.fspath(filename)} is no network of the book's form: {what}") from None
    return net


def vectorized_result(j: int) -> Array:
    """The column of 10 numbers that stands for the digit j: 1 at j, else 0.

    Examples
    --------
    >>> vectorized_result(2).ravel().tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    column = np.zeros((10, 1))
    digit = validation.whole_number(j, "j")
    if not 0 <= digit < 10:
        raise ValueError(f"j must be a digit, from 0 to 9, got {digit}.")
    column[digit] = 1.0
    return column


def _since_best(values: list[int]) -> int:
    """The number of values after the first maximum; 0 does not count as a maximum."""
    best = max(values, default=0)
    return len(values) - (values.index(best) + 1 if best > 0 else 0)
