"""The programs of Nielsen's book with its own names, running on the engine.

A script made for the book's programs changes its imports and nothing else::

    from bpengine.book import mnist_loader, network, network2

`network` and `network2` are two programs whose networks begin differently. The names of the second,
which has everything, are here too.

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
