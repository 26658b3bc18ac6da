"""Random cases against the whole package: wrong calls, damaged files, kills, random networks.

A module for each kind has a function ``one(rng)``, which makes one case and raises `Finding` if its
result is wrong. ``python -m fuzz`` runs them.
"""


class Finding(Exception):  # noqa: N818
    """A case with a wrong result."""
