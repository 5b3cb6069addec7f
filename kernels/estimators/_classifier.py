"""A classifier."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from array_api_compat import array_namespace
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from .._typing import Array
from ..losses import Loss, logistic_cross_entropy, softmax_cross_entropy
from ._mlp import MultilayerPerceptron, is_stochastic, keep
from ._place import Place, to_numpy
from ._scores import accuracy

__all__ = ["MLPClassifier"]


class MLPClassifier(ClassifierMixin, MultilayerPerceptron):
    """scikit-learn's multi-layer perceptron classifier, on any array library, native or exact.

    Parameters, attributes and methods are those of `sklearn.neural_network.MLPClassifier`, and some
    more. With `sklearn.config_context(array_api_dispatch=True)` input may be arrays of any library.
    Then that library computes, on their device, and results are its arrays. Sparse matrices are
    made dense.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init
        As in scikit-learn, except that alpha is divided by the size of a full batch, also for the
        smaller last batch.
    power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum
        As in scikit-learn, except that momentum is below 1. random_state gives a seed, from which
        weights and orders of samples are drawn in the same way on every library and machine.
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon
        As in scikit-learn. SGD and Adam are those of `kernels`, which follow torch.
    n_iter_no_change, max_fun
        As in scikit-learn.
    numerics
        "native", or "exact" for weights that have the same bits on every library and machine.
    backend
        Where to compute, such as "torch:cuda"; None for where X is.
    dtype
        "float32" or "float64"; None for that of X.
    compile
        Whether to use the library's compiler.
    dual
        Whether `fit` trains in the dual form, where a step costs the same for any number of
        features. True needs solver="sgd" with a constant rate and no early stopping. "auto" decides
        as `kernels.fit` does, with the same needs and only with native numerics.

    Attributes
    ----------
    coefs_, intercepts_, classes_, loss_, loss_curve_, n_iter_, validation_scores_
        And others, as in scikit-learn.
    digest_
        The SHA-256 of weights and biases, as `kernels.digest` of what `to_layers()` returns.

    Raises
    ------
    ValueError
        If X or y holds NaN or infinity or has a wrong shape, y has an unknown label, a parameter is
        out of range, or the weights become infinite or NaN.
    backends.BackendUnavailable
        If the backend cannot run here.

    Examples
    --------
    >>> from kernels.estimators import MLPClassifier
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["low", "low", "high", "high"]
    >>> model = MLPClassifier(4, solver="lbfgs", random_state=0, numerics="exact").fit(X, y)
    >>> model.predict([[0.5], [2.5]]).tolist(), len(model.digest_)
    (['low', 'high'], 64)
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        numerics: str = "native",
        backend: str | None = None,
        dtype: str | None = None,
        compile: bool = False,
        dual: bool | str = "auto",
    ) -> None:
        keep(self, locals())

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train on samples X of shape (n, n_features) with labels y of shape (n,) or (n, n_labels).

        Labels may be numbers or strings. For several labels a sample y is the indicator matrix.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @available_if(is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train for one epoch. The first call needs all `classes`, also those not yet in y."""
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer.fit(to_numpy(y) if multilabel else self.classes_)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Predict the label of each sample, or for several labels the indicator matrix."""
        place, output = self._predicted(X, "predict")
        output = place.host(output)
        if self.n_outputs_ == 1:
            output = output.ravel()
        return place.back(self._label_binarizer.inverse_transform(output))

    def predict_proba(self, X: Any) -> Any:
        """Predict the probability of each class, shape (n, n_classes)."""
        place, output = self._predicted(X, "predict_proba")
        return place.back(self._both(output))

    def predict_log_proba(self, X: Any) -> Any:
        """Compute the logarithm of `predict_proba`."""
        place, output = self._predicted(X, "predict_log_proba")
        return place.back(self._numerics.log(self._both(output)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _both(self, output: Array) -> Array:
        """Make two columns of probabilities of a single output."""
        if self.n_outputs_ > 1:
            return output
        xp = array_namespace(output)
        other = self._numerics.subtract(xp.ones_like(output), output)
        return cast(Array, xp.concat([other, output], axis=1))

    def _encode(self, y: Any, place: Place, incremental: bool) -> Any:  # noqa: ARG002
        y = to_numpy(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
            if self.warm_start and set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {self.classes_}, `y` has {classes}"
                )
            unseen = np.setdiff1d(classes, self.classes_)
            if unseen.size > 0:
                raise ValueError(
                    f"expected y with classes of {self.classes_.tolist()}, as in the first call of "
                    f"partial_fit, got {unseen.tolist()}"
                )
        several = self._label_binarizer.y_type_ == "multiclass"
        self.out_activation_ = "softmax" if several else "logistic"
        return self._label_binarizer.transform(y).astype(bool)

    def _loss(self) -> Loss:
        several = self.out_activation_ == "softmax"
        return softmax_cross_entropy if several else logistic_cross_entropy

    def _strata(self, y: Any) -> Any:
        return y.astype(bool) if self.n_outputs_ == 1 else None

    def _held_out_score(self, y: Any, output: Any, weight: Any) -> float:
        decision = output > 0.5
        if self.out_activation_ == "softmax":
            decision = output.argmax(axis=1)[:, None] == np.arange(output.shape[1])
        return accuracy(y > 0.5, decision, weight)
