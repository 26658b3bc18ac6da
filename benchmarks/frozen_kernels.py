"""The yardstick of single operations. NEVER EDIT what is here: stored ratios are relative to it.

Each function computes an operation of a step in plain NumPy, as one writes it first and well. What is
timed are its ufuncs, which write to the same arrays each time. A new operation is added at the end.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def sigmoid_slope(g, a):
    return g * a * (1 - a)


def tanh(z):
    return np.tanh(z)


def tanh_slope(g, a):
    return g * (1 - a * a)


def relu(z):
    return np.maximum(z, 0)


def relu_slope(g, a):
    return g * (a > 0)


def leaky_relu(z):
    return np.maximum(z, np.float32(0.01) * z)


def leaky_relu_slope(g, a):
    return g * np.maximum(np.sign(a), np.float32(0.01))


def copy(z):
    return np.positive(z)


def copy_slope(g, a):
    return np.positive(g)


def softmax(z):
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def softmax_slope(g, a):
    return a * (g - (g * a).sum(axis=0))


def softplus(z):
    return np.logaddexp(z, np.float32(0))


def softplus_slope(g, a):
    return g * -np.expm1(-a)


def exponential(z):
    return np.exp(z)


def multiply(x, y):
    return x * y


def swish(z):
    return z / (1 + np.exp(-z))


def swish_slope(g, z):
    s = 1 / (1 + np.exp(-z))
    return g * (s * (1 + z * (1 - s)))


def gelu(z):
    t = np.tanh(np.float32(0.7978845608) * (z + np.float32(0.044715) * z * z * z))
    return np.float32(0.5) * z * (1 + t)


def gelu_slope(g, z):
    square = z * z
    t = np.tanh(np.float32(0.7978845608) * z * (1 + np.float32(0.044715) * square))
    inner = np.float32(0.7978845608) * (1 + np.float32(0.134145) * square)
    return g * (np.float32(0.5) * (1 + t) + np.float32(0.5) * z * (1 - t * t) * inner)


def difference(a, y, scale):
    return (a - y) * scale


def absolute_error_slope(a, y, scale):
    return np.sign(a - y) * scale


def huber_slope(a, y, scale):
    return np.clip(a - y, -1, 1) * scale


def poisson_slope(a, y, scale):
    return (a - y) * scale / np.maximum(a, np.float32(1e-19))


def binary_cross_entropy_slope(a, y, scale):
    return (a - y) * scale / np.maximum(a * (1 - a), np.float32(1e-19))


def subtract(x, y):
    return x - y


def momentum(x, g, v, mu):
    v = mu * v - g
    return x + v, v


def nesterov(x, g, v, mu):
    v = mu * v - g
    return x + mu * v - g, v


def adam(x, g, sums, squares, weights, betas, epsilon, rate):
    sums = betas[0] * sums + g
    squares = betas[1] * squares + g * g
    weights = betas * weights + 1
    mean, mean_square = sums / weights[0], squares / weights[1]
    return x - rate * mean / (np.sqrt(mean_square) + epsilon), sums, squares, weights


def rmsprop(x, g, v, rho, rest, epsilon, rate):
    v = rho * v + rest * g * g
    return x - rate * g / (np.sqrt(v) + epsilon), v


def adagrad(x, g, squares, epsilon, rate):
    squares = squares + g * g
    return x - rate * g / (np.sqrt(squares) + epsilon), squares


def average(mean, x, count, least):
    count = count + 1
    return mean + np.maximum(1 / count, least) * (x - mean), count


def clip_factor(g, bound):
    return bound / np.maximum(np.sqrt((g * g).sum()), bound)


def max_norm(w, bound):
    norms = np.sqrt((w * w).sum(axis=1, keepdims=True))
    return w * (bound / np.maximum(norms, bound))


def l2(g, w, strength):
    return g + strength * w


def l1(g, w, strength):
    return g + strength * np.sign(w)


def dropout_mask(uniform, keep):
    return (uniform < keep) / keep


def product_norms(delta, x):
    return np.sqrt((delta * delta).sum(axis=0) * (x * x).sum(axis=0))


def total_norms(layers):
    return np.sqrt((layers * layers).sum(axis=0))


def clip_factors(total, bound, scale):
    return scale * (bound / np.maximum(total, bound))


def column_products(delta, x):
    return delta.T[:, :, None] * x.T[:, None, :]


def gather(rows, indices):
    return rows[indices]


def uniform(shape, generator):
    return generator.random(shape, dtype="float32")


def gaussian_noise(x, scale, generator):
    return x + scale * generator.standard_normal(x.shape, dtype="float32")


TWINS = {
    "sigmoid": sigmoid,
    "sigmoid slope": sigmoid_slope,
    "tanh": tanh,
    "tanh slope": tanh_slope,
    "relu": relu,
    "relu slope": relu_slope,
    "leaky_relu": leaky_relu,
    "leaky_relu slope": leaky_relu_slope,
    "linear": copy,
    "linear slope": copy_slope,
    "softmax": softmax,
    "softmax slope": softmax_slope,
    "softplus": softplus,
    "softplus slope": softplus_slope,
    "exponential": exponential,
    "exponential slope": multiply,
    "swish": swish,
    "swish slope": swish_slope,
    "gelu": gelu,
    "gelu slope": gelu_slope,
    "difference": difference,
    "absolute_error slope": absolute_error_slope,
    "huber slope": huber_slope,
    "poisson slope": poisson_slope,
    "binary_cross_entropy slope": binary_cross_entropy_slope,
    "descend": subtract,
    "momentum": momentum,
    "nesterov": nesterov,
    "adam": adam,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "average": average,
    "clip factor": clip_factor,
    "clip": multiply,
    "decay": multiply,
    "max norm": max_norm,
    "l2": l2,
    "l1": l1,
    "dropout mask": dropout_mask,
    "dropout": multiply,
    "weigh": multiply,
    "product norms": product_norms,
    "total norms": total_norms,
    "clip factors": clip_factors,
    "scale columns": multiply,
    "column products": column_products,
    "uniform": uniform,
    "gaussian noise": gaussian_noise,
}
