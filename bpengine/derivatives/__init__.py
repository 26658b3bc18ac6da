"""Derivatives beyond the gradient of a step, and checks of it."""
