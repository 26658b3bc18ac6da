"""Compiled kernels of what goes on between steps: gathering a batch, setting numbers, keeping an output.

What the words of a row say is beside each; word 0 is the kernel's own address.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

from numba import carray

from bpengine.backends.numba.elementwise import kernel, view
from bpengine.backends.numba.instruction import WORDS
from bpengine.backends.numba.intrinsics import pointer

__all__ = ["GATHER", "KEEP", "SET"]

GATHER, SET, KEEP = "gather", "set", "keep"


@kernel(GATHER)
def gather(row, like):  # examples, their numbers, length, from, its stride, to, its stride
    r = carray(row, WORDS)
    count, length = r[1], r[3]
    numbers = carray(pointer(r[2], row), count)
    for i in range(count):
        source, target = (
            view(r[4] + numbers[i] * r[5], length, like),
            view(r[6] + i * r[7], length, like),
        )
        for j in range(length):
            target[j] = source[j]
    r[2] += 8 * count  # the next step's


@kernel(SET)
def set_numbers(row, like):  # how many, the numbers, the addresses where they belong, bytes of a step's
    r = carray(row, WORDS)
    count = r[1]
    numbers, places = view(r[2], count, like), carray(pointer(r[3], row), count)
    for i in range(count):
        view(places[i], 1, like)[0] = numbers[i]
    r[2] += r[4]  # the next step's


@kernel(KEEP)
def keep(row, like):  # length, from, to, its stride, where steps are counted
    r = carray(row, WORDS)
    source, target = view(r[2], r[1], like), view(r[3], r[1], like)
    for j in range(r[1]):
        target[j] = source[j]
    r[3] += r[4]
    carray(pointer(r[5], row), 1)[0] += 1
