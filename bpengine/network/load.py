"""Loading networks from files of bpengine or of other programs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bpengine import validation
from bpengine.backends import Backend
from bpengine.model import files
from bpengine.model.activations import ACTIVATIONS, ActivationLike
from bpengine.model.costs import COSTS, Cost
from bpengine.network.network import Network

__all__ = ["load"]


def load(
    path: str | os.PathLike[str],
    *,
    activations: ActivationLike | Sequence[ActivationLike] | None = None,
    cost: str | Cost | None = None,
    backend: str | Backend | None = None,
) -> Network:
    """Read a network that `Network.save` wrote, or the Linear layers of a PyTorch state_dict.

    Parameters
    ----------
    path : path
        A safetensors file if it ends in ``.safetensors``, else an ``.npz``; a checkpoint too.
    activations, cost : optional
        Required for custom activations or costs, and for files of other programs: a file holds numbers
        and names, never code.
    backend : str or Backend, optional
        As for `Network`.

    Returns
    -------
    Network

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no such network, is damaged, or needs `activations` or `cost`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import bpengine as bp
    >>> net = bp.Network([3, 4, 2], activations=["tanh", "sigmoid"], rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net.save(Path(folder) / "net.npz")
    ...     loaded = bp.load(Path(folder) / "net.npz")
    >>> float(abs(loaded.vector - net.vector).max())
    0.0
    """
    path = validation.file_path(path, "path")
    with files.reading(path) as stored:
        description = stored.description
        try:
            sizes, dtype = validation.layer_sizes(description["sizes"]), description["dtype"]
            P = description.get("stack")
            files.check_shapes(stored.outlines, sizes, dtype, () if P is None else (P,))
            for argument, value in (("activations", activations), ("cost", cost)):
                if value is None and argument not in description:
                    raise ValueError(f"it names no {argument}: pass {argument}= to load")
            if activations is None:
                files.check_names(description["activations"], ACTIVATIONS, "activations")
                activations = description["activations"]
            if cost is None:
                files.check_names([description["cost"]], COSTS, "cost")
                cost = description["cost"]
            options = {key: description[key] for key in files.OPTIONS if key in description}
            net = Network(sizes, activations, cost, backend, dtype, stack=P, **options)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)} can't be made a network: {files.in_short(error)}."
            ) from None
        files.fill(net, stored.arrays(state=False))
    return net
