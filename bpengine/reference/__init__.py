"""Backpropagation written in other ways, in NumPy alone: what the engine is checked and timed by."""
