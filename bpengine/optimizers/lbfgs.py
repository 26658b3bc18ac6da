"""L-BFGS: its options, and SciPy's minimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bpengine.model.suggestions import known_keywords
from bpengine.validation import convert_fields, non_negative_number, positive_integer

__all__ = ["LBFGS"]


@known_keywords
@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS on all examples, by SciPy, for small data; for `fit` only.

    Each iteration counts as an epoch; the batch size is not used. A checkpoint has the parameters but
    not the method's memory.

    Parameters
    ----------
    memory : int, optional
        Pairs of steps and gradients remembered.
    tolerance : float, optional
        Training ends when no entry of the gradient is larger.
    max_evaluations : int, optional
        Of the gradient over all examples.

    References
    ----------
    R. Byrd, P. Lu, J. Nocedal and C. Zhu, SIAM Journal on Scientific Computing 16, 1995.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.LBFGS(tolerance=1e-6)
    LBFGS(memory=10, tolerance=1e-06, max_evaluations=15000)
    """

    memory: int = 10
    tolerance: float = 1e-5
    max_evaluations: int = 15000

    def __post_init__(self) -> None:
        convert_fields(
            self,
            memory=positive_integer,
            tolerance=non_negative_number,
            max_evaluations=positive_integer,
        )


def scipy_optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError:
        raise ImportError('bp.LBFGS needs SciPy. Install it: pip install "bpengine[scipy]"') from None
    return optimize
