"""MLPClassifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted

from bpengine.estimators.base import ENGINE_NAMES
from bpengine.estimators.class_weight import class_weights
from bpengine.estimators.data import Host
from bpengine.estimators.fit import MLP, stochastic_only
from bpengine.model.costs import Cost, resolve

__all__ = ["CLASS_WEIGHT", "MLPClassifier", "MultilabelMixin"]

CLASS_WEIGHT = {"class_weight": [dict, list, StrOptions({"balanced"}), None]}


class MultilabelMixin(ClassifierMixin):  # type: ignore[misc]
    """What classifiers and ensembles of them share."""

    def predict_log_proba(self, X: Any) -> Host:
        """Logarithms of `predict_proba`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        logarithms: Host = np.log(self.predict_proba(X))
        return logarithms

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class MLPClassifier(MultilabelMixin, MLP):
    """Multilayer perceptron classifier, with the interface of scikit-learn's.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int, default=(100,)
        Neurons of each hidden layer.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Activation of the hidden layers; 'linear' and 'sigmoid' are the first two.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        L-BFGS works on all examples at once, the others on mini-batches.
    alpha : float, default=0.0001
        Strength of the L2 penalty, α/2 Σ w², divided by the sum of the weights of a batch's examples.
    batch_size : int, default='auto'
        Examples per step; 'auto' is 200, or all if they are fewer.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        With solver='sgd': constant; divided by (t + 1) ** power_t, where t is the number of examples
        seen; or divided by 5 whenever training stalls.
    learning_rate_init : float, default=0.001
    power_t : float, default=0.5
    max_iter : int, default=200
        Maximum number of epochs, or of iterations of L-BFGS.
    shuffle : bool, default=True
        Whether to shuffle the examples before each epoch.
    random_state : int, RandomState instance, default=None
        For initial parameters, the split of `early_stopping`, shuffling and dropout.
    tol : float, default=1e-4
        Minimum improvement of the loss or score; for L-BFGS, tolerance of the gradient.
    verbose : bool, default=False
        Whether to print the loss of each iteration.
    warm_start : bool, default=False
        Whether `fit` continues from the fitted parameters.
    momentum : float, default=0.9
        With solver='sgd'.
    nesterovs_momentum : bool, default=True
        With solver='sgd' and momentum above 0.
    early_stopping : bool, default=False
        Whether to stop by the validation score, and restore the best parameters.
    validation_fraction : float, default=0.1
        Fraction of the data that `early_stopping` validates on.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Parameters of Adam.
    n_iter_no_change : int, default=10
        Training ends after more than this number of epochs without an improvement.
    max_fun : int, default=15000
        Maximum number of evaluations of L-BFGS.
    backend : str or Backend, default=None
        Array library; None: NumPy.
    device : object, default=None
        A device of that library.
    dtype : {'float32', 'float64'}, default=None
        None: float32 for X in float32, otherwise float64.
    dropout : float or list of float, default=0.0
        Dropout rate of the hidden layers, or one for each layer before the output, input first. With
        solver='sgd' or 'adam'.
    activations : str, Activation or list of them, default=None
        One for each hidden layer, and optionally the output layer, by bpengine's or scikit-learn's
        names; they override `activation`.
    cost : str or Cost, default=None
        Replaces the log-loss; see `bpengine.Network`.
    class_weight : dict, list of dict or 'balanced', default=None
        Factors of the example weights by class, 1 for others; for multilabel y a list with a dict for
        each label. 'balanced' gives all classes the same total weight, including `sample_weight`.
    validation : tuple, default=None
        (X, y) or (X, y, sample_weight) to score after each epoch; with `early_stopping`, it replaces
        the split of the training data.
    callbacks : list, default=None
        `bpengine.Callback` objects, or functions called after each epoch. Pass callbacks of
        scikit-learn's protocol to `set_callbacks`.
    max_norm : float, default=None
        Maximum norm of the weights into one neuron. With solver='sgd' or 'adam'.

    Attributes
    ----------
    classes_ : ndarray or list of ndarray of shape (n_classes,)
    network_ : bpengine.Network
        The network, which takes examples as columns.
    coefs_, intercepts_ : list of ndarray
        Its weights (n_in, n_out) and biases (n_out,), per layer. On NumPy they are views; setting an
        entry writes it into the network.
    loss_, best_loss_ : float
        The last and the lowest loss of an epoch; the lowest is None with `early_stopping`.
    loss_curve_ : list of float
        The loss of each epoch; not with ``solver="lbfgs"``.
    validation_scores_ : list of float, or None
        Accuracy after each epoch.
    best_validation_score_ : float or None
    t_ : int
        Examples seen in training.
    n_iter_, n_layers_, n_outputs_, n_features_in_ : int
    feature_names_in_ : ndarray of str
        For X with column names.
    out_activation_ : str
        Looking it up in a dict fails where `activations` gives hidden layers other functions than
        `activation`, so that converters don't export another network.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from bpengine.estimators import MLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MLPClassifier(early_stopping=True, learning_rate_init=0.01, random_state=0)
    >>> round(model.fit(X[:1500] / 16, y[:1500]).score(X[1500:] / 16, y[1500:]), 2)
    0.91
    """

    class_weight: Any = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {**MLP._parameter_constraints, **CLASS_WEIGHT}

    @stochastic_only  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one more epoch.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All classes; required in the first call.

        Returns
        -------
        self : MLPClassifier
        """
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer.fit(y if multilabel else classes)
        self._train(X, y, sample_weight, incremental=True)
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """The class of each example.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        check_is_fitted(self)
        return self._labels(self._outputs(self._checked(X)))

    def _labels(self, outputs: Host) -> Host:
        """The classes that outputs of shape (n_samples, n_outputs) stand for."""
        binarizer, single = self._label_binarizer, outputs.shape[1] == 1
        found: Host
        # as the binarizer, which takes longer than a small network
        if binarizer.y_type_ == "multiclass":
            found = self.classes_[outputs.argmax(axis=1)]
        elif binarizer.y_type_ == "binary" and len(self.classes_) == 2:
            found = self.classes_[(outputs[:, 0] > 0.5).astype(int)]
        else:
            found = binarizer.inverse_transform(outputs.ravel() if single else outputs)
        return found

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        outputs = self._outputs(self._checked(X))
        if self.n_outputs_ == 1:
            return np.hstack([1 - outputs, outputs])
        if (
            self._label_binarizer.y_type_ == "multiclass"
            and self.network_.activations[-1].name != "softmax"
        ):
            # independent outputs, one class against the rest
            outputs = outputs / outputs.sum(axis=1, keepdims=True)
        return outputs

    def _check_targets(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        X, y = self._checked_pair(X, y, reset=reset)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(y)
        return X, self._targets(y, "y")

    def _targets(self, y: Any, name: str) -> Host:
        """The network's targets of labels y."""
        many = self._label_binarizer.y_type_.startswith("multilabel")
        if many != (y.ndim > 1 and type_of_target(y).startswith("multilabel")):
            what = (
                "an indicator matrix, with a column for each label" if many else "one class per example"
            )
            raise ValueError(f"{name} must be {what}, as in the first fit.")
        found: Host
        if self._label_binarizer.y_type_ == "multiclass" and y.ndim == 1:
            found = y[:, None] == self.classes_  # as the binarizer, which takes longer than some epochs
        else:
            found = self._label_binarizer.transform(y).astype(bool)
        return found

    def _check_classes(self, y: Any) -> None:
        """Raise ValueError if y has other classes than `classes_`."""
        found = unique_labels(y)
        if self.warm_start:
            if set(found) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {self.classes_}, `y` has {found}"
                )
        elif len(np.setdiff1d(found, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {found}."
            )

    def _check_held_out(self, X: Any, y: Any) -> tuple[Any, Any]:
        X, y = self._checked_pair(X, y, reset=False)
        unseen = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unseen):
            raise ValueError(f"validation has classes {unseen} that y has not.")
        return X, self._targets(y, "y of validation")

    def _weights(self, Y: Host, sample_weight: Any, incremental: bool = False) -> Any:
        return class_weights(self.class_weight, self._label_binarizer, Y, sample_weight, incremental)

    def _output(self, hidden: int) -> tuple[str, str | Cost, str | None]:
        multiclass = self._label_binarizer.y_type_ == "multiclass"
        out = "softmax" if multiclass else "logistic"
        if self.cost is not None:
            canonical = resolve(self.cost).canonical
            return canonical if canonical in ("softmax", "sigmoid") else out, self.cost, None
        chosen = self._layer_activations(hidden, out)[-1]
        cost = "softmax_cross_entropy" if chosen == "softmax" else "binary_cross_entropy"
        return out, cost, "log_loss" if chosen == ENGINE_NAMES.get(out, out) else None

    def _score(self, X: Any, Y: Any, sample_weight: Any) -> float:
        outputs = self._outputs(X)
        if not np.isfinite(outputs).all():
            return float("nan")
        if self._label_binarizer.y_type_ == "multiclass":
            hits = outputs.argmax(axis=1) == Y.argmax(axis=1)
        else:
            hits = ((outputs > 0.5) == Y).all(axis=1)
        return float(np.average(hits, weights=sample_weight))
