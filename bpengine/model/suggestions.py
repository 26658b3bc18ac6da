"""Suggestions for arguments and methods that other libraries name otherwise, in error messages."""

from __future__ import annotations

import difflib
import functools
import inspect
from typing import Any, TypeVar

__all__ = ["ATTRIBUTES", "known_keywords"]

T = TypeVar("T")

PLACES: dict[str, list[str]] = {}  # arguments of Network and fit, once they are decorated
OF_OPTIMIZER = ", of the optimizer"
KEYWORDS = {
    "activation": "activations='tanh', or a list with one for each layer",
    "alpha": "l2=",
    "batch": "batch_size=",
    "betas": "beta_1=0.9, beta_2=0.999",
    "eps": "epsilon=",
    "eta": "learning_rate=, of the optimizer: optimizer=bp.SGD(0.1)",
    "hidden_layer_sizes": "sizes=[64, 100, 10], with the input's and the output's",
    "init": "initializer=",
    "kernel_initializer": "initializer=",
    "layers": "sizes=[64, 100, 10]",
    "learning_rate": "learning_rate=, of the optimizer: optimizer=bp.SGD(0.1)",
    "loss": "cost=",
    "lr": "learning_rate=, of the optimizer: optimizer=bp.SGD(0.1)",
    "max_iter": "epochs=",
    "metrics": "validation=(X, Y), for cost and accuracy",
    "momentum": "momentum=, of the optimizer: optimizer=bp.SGD(0.1, momentum=0.9)",
    "n_epochs": "epochs=",
    "patience": "callbacks=[bp.EarlyStopping(patience=5)]",
    "random_state": "rng=",
    "seed": "rng=",
    "solver": "optimizer=",
    "validation_data": "validation=(X, Y)",
    "validation_fraction": "validation=0.1, a share of the examples",
    "validation_split": "validation=0.1, a share of the examples",
    "verbose": "progress=",
    "weight_decay": "weight_decay=, of the optimizer: optimizer=bp.AdamW(weight_decay=0.01)",
}

ATTRIBUTES = {
    "SGD": "fit(X, Y, optimizer=bp.SGD(0.1)); the book's class is bpengine.book.network.Network",
    "add": "bp.Network([64, 100, 10]), with all layers",
    "backward": "backprop(X, Y)",
    "b": "biases",
    "bias": "biases[l]",
    "coefs_": "weights",
    "clone": "copy.deepcopy(net)",
    "compile": "the arguments of Network, and of fit",
    "copy": "copy.deepcopy(net)",
    "cpu": "to(backend='numpy')",
    "cuda": "to(backend), or the argument backend",
    "eval": "nothing: feedforward has no dropout, fit has",
    "forward": "feedforward(X)",
    "get_weights": "weights and biases",
    "gradient": "backprop(X, Y)",
    "intercepts_": "biases",
    "layers": "sizes, activations, weights and biases",
    "load": "bp.load(path)",
    "load_state_dict": "bp.load(path)",
    "loss": "cost",
    "loss_curve_": "history.cost",
    "predict_proba": "feedforward(X)",
    "score": "evaluate(X, Y)['accuracy']",
    "set_weights": "weights[l] = w and biases[l] = b",
    "shape": "sizes",
    "state_dict": "weights and biases, or save(path)",
    "summary": "print(net)",
    "train": "fit(X, Y)",
    "update_mini_batch": "partial_fit(X, Y)",
    "w": "weights",
    "weight": "weights[l]",
    "zero_grad": "nothing: backprop returns a new gradient",
}


def known_keywords(target: T) -> T:
    """Decorate a function or class: the error for an unknown keyword says what it is called here."""
    if isinstance(target, type):
        target.__init__ = known_keywords(target.__init__)  # type: ignore[misc]
        return target
    function: Any = target
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name != "self"]
    place = {"Model.__init__": "Network", "Network.fit": "fit"}.get(function.__qualname__)
    if place:
        PLACES[place] = names

    @functools.wraps(function)
    def checked(*args: Any, **keywords: Any) -> Any:
        what = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
        for name in keywords:
            if name not in names:
                raise TypeError(f"{what}() has no argument {name!r}. {_hint(name, names)}")
        try:
            return function(*args, **keywords)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # within the function
            try:
                signature.bind(*args, **keywords)
            except TypeError as wrong:  # missing arguments, or too many
                raise TypeError(f"{what}(): {wrong}. Arguments: {', '.join(names)}.") from None
            raise

    return checked  # type: ignore[return-value]


def _hint(name: str, names: list[str]) -> str:
    here = KEYWORDS.get(name, "")
    keyword = here.partition("=")[0]
    if keyword in names:
        return f"Here it is {here.partition(OF_OPTIMIZER)[0]}."
    if OF_OPTIMIZER in here:
        return f"Here it is {here}."
    for place, arguments in PLACES.items():
        if (keyword or name) in arguments:
            return f"{here or f'{name}='} is an argument of {place}."
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]}=?" if near else f"Known: {', '.join(names)}."
