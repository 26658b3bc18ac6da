"""Compiled kernels between steps: gather a batch, set a step's settings, store an output.

The comment at each kernel lists the fields of its instruction from 1 on; field 0 is its address.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import numpy as np
from numba import carray

from bpengine.backends.numba.elementwise import kernel, view
from bpengine.backends.numba.intrinsics import pointer

__all__ = ["GATHER", "SET", "STORE"]

GATHER, SET, STORE = "gather", "set", "store"


@kernel(GATHER)
def gather(r, like):
    # number of examples, their indices, length, source, its stride, target, its stride
    count, length = r[1], r[3]
    numbers = carray(pointer(r[2], np.int64), count)
    for i in range(count):
        source = view(r[4] + numbers[i] * r[5], length, like)
        target = view(r[6] + i * r[7], length, like)
        for j in range(length):
            target[j] = source[j]
    r[2] += 8 * count  # the next step's


@kernel(SET)
def set_numbers(r, like):
    # number of settings, their values, addresses of their targets, bytes of a step's values
    count = r[1]
    numbers, places = view(r[2], count, like), carray(pointer(r[3], np.int64), count)
    for i in range(count):
        view(places[i], 1, like)[0] = numbers[i]
    r[2] += r[4]  # the next step's


@kernel(STORE)
def store(r, like):
    # length, source, target, its stride, address of the count of steps
    source, target = view(r[2], r[1], like), view(r[3], r[1], like)
    for j in range(r[1]):
        target[j] = source[j]
    r[3] += r[4]
    pointer(r[5], np.int64)[0] += 1
