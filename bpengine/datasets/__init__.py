"""Datasets with examples as contiguous columns: digits, MNIST, circles, a step."""

from bpengine.datasets.mnist import idx, mnist
from bpengine.datasets.toy import circles, digits, step
from bpengine.model.labels import one_hot

__all__ = ["circles", "digits", "idx", "mnist", "one_hot", "step"]
