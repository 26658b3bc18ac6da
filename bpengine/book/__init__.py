"""The programs of Nielsen's book, running on the engine.

A script for the book's programs only needs other imports::

    from bpengine.book import mnist_loader, network, network2

The names of `network2` are also available here.

References
----------
M. Nielsen, Neural Networks and Deep Learning, http://neuralnetworksanddeeplearning.com
"""

from bpengine.book import mnist_loader, network, network2
from bpengine.book.network2 import (
    CrossEntropyCost,
    Network,
    QuadraticCost,
    load,
    sigmoid,
    sigmoid_prime,
    vectorized_result,
)

__all__ = [
    "CrossEntropyCost",
    "Network",
    "QuadraticCost",
    "load",
    "mnist_loader",
    "network",
    "network2",
    "sigmoid",
    "sigmoid_prime",
    "vectorized_result",
]
