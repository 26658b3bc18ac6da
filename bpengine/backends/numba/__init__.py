"""Steps compiled by Numba."""
