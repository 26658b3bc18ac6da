"""What a network computed with last, to be used again by the next call of the same sizes."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Recent"]

COUNT = 8
BYTES = 2**26


class Recent(threading.local):
    """Values by key, of each thread; the oldest are dropped where they are too many or too large.

    A value is taken out while it is in use: a call within a call, as by a cost function that uses the
    network, makes another, and a call that fails leaves none that is half written.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Any, Any, int]] = []  # the latest last
        self._bytes = 0

    def take(self, key: Any) -> Any:
        """The value of a key, or None."""
        for i, (known, value, size) in enumerate(self._entries):
            if known == key:
                del self._entries[i]
                self._bytes -= size
                return value
        return None

    def keep(self, key: Any, value: Any, size: int) -> None:
        """Keep a value of `size` bytes for the next call."""
        self._entries.append((key, value, size))
        self._bytes += size
        while len(self._entries) > COUNT or self._bytes > BYTES:
            self._bytes -= self._entries.pop(0)[2]
