"""What is computed, as data: sizes, activations, cost, parameters, examples and files."""
