"""CuPy on a GPU."""
