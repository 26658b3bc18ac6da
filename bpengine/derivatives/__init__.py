"""Further derivatives, and gradient checks."""
