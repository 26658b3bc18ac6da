"""The equations, and the steps made of them."""
