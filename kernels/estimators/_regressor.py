"""A regressor."""

from __future__ import annotations

from typing import Any, ClassVar

from array_api_compat import array_namespace
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from ..losses import Loss, half_squared_error, poisson
from ..numerics import Numerics
from ._mlp import Data, MultilayerPerceptron, is_stochastic, keep
from ._place import Place
from ._scores import r2

__all__ = ["MLPRegressor"]


class MLPRegressor(RegressorMixin, MultilayerPerceptron):
    """scikit-learn's multi-layer perceptron regressor, on any array library, native or exact.

    Parameters, attributes and methods are those of `sklearn.neural_network.MLPRegressor`, and some
    more. With `sklearn.config_context(array_api_dispatch=True)` input may be arrays of any library.
    Then that library computes, on their device, and results are its arrays. Sparse matrices are
    made dense.

    Parameters
    ----------
    loss
        "squared_error" or "poisson", as in scikit-learn.
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
    coefs_, intercepts_, loss_, loss_curve_, n_iter_, validation_scores_
        And others, as in scikit-learn, except that the loss is summed over several outputs, as its
        gradient is, where scikit-learn reports the mean.
    digest_
        The SHA-256 of weights and biases, as `kernels.digest` of what `to_layers()` returns.

    Raises
    ------
    ValueError
        If X or y holds NaN or infinity or has a wrong shape, a parameter is out of range, or the
        weights become infinite or NaN.
    backends.BackendUnavailable
        If the backend cannot run here.

    Examples
    --------
    >>> from kernels.estimators import MLPRegressor
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 2.0, 4.0, 6.0]
    >>> model = MLPRegressor(hidden_layer_sizes=4, solver="lbfgs", random_state=0).fit(X, y)
    >>> model.predict([[1.5]]).round(2).tolist()
    [3.0]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MultilayerPerceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
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
        """Train on samples X of shape (n, n_features) and numbers y, shape (n,) or (n, n_out)."""
        return self._fit(X, y, sample_weight, incremental=False)

    @available_if(is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train for one epoch."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Predict numbers, of shape (n,) or (n, n_out)."""
        place, output = self._predicted(X, "predict")
        if self.n_outputs_ == 1:
            output = array_namespace(output).reshape(output, (-1,))
        return place.back(output)

    def _encode(self, y: Any, place: Place, incremental: bool) -> Any:  # noqa: ARG002
        # NumPy would convert text and dates, and NaT to a number.
        if getattr(y.dtype, "kind", "f") in "SUMm":
            raise ValueError(f"expected numbers as y, got {y.dtype}")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return y if y.ndim == 2 else array_namespace(y).reshape(y, (-1, 1))

    def _loss(self) -> Loss:
        return poisson if self.loss == "poisson" else half_squared_error

    def _least_loss(self, data: Data, numerics: Numerics) -> float:
        if self.loss != "poisson":
            return 0.0
        # A perfect prediction's loss. What is above it is half the deviance, as in scikit-learn.
        xp = array_namespace(data.y)
        perfect = numerics.log(xp.where(data.y > 0.0, data.y, xp.full_like(data.y, 1e-30)))
        value, _ = poisson(perfect, data.y, sample_weight=data.weight, numerics=numerics)
        return float(value)

    def _held_out_score(self, y: Any, output: Any, weight: Any) -> float:
        return r2(y, output, weight)
