"""What the classifier and the regressor share: training, and scikit-learn's conventions."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import fsum, gcd, inf, isfinite, nan, sqrt
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._array_api import check_same_namespace, move_to
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import activations
from .._checks import check_sample_weight
from .._compiled import compiled, try_compiler
from .._host import dtype_name, placement
from .._typing import Array
from ..activations import Activation
from ..digest import digest
from ..dual import PERIOD, use_dual
from ..layer import Layer
from ..lbfgs import minimize
from ..losses import Loss, check_targets, expectation, unchecked, weighted
from ..minibatches import batches_of
from ..network import forward
from ..numerics import EXACT, NATIVE, Exact, Numerics
from ..optimizers import SGD, Adam
from ..random import uniform
from ..schedules import inverse
from ..training import fit
from ._place import Place, place_of
from ._vector import packed, unpacked, value_and_gradient

__all__ = ["Data", "MultilayerPerceptron", "is_stochastic", "keep"]

_NUMERICS = {"native": NATIVE, "exact": EXACT}
_ACTIVATIONS = {
    "identity": activations.identity,
    "logistic": activations.logistic,
    "tanh": activations.tanh,
    "relu": activations.relu,
}
_OF_ONE_TRAINING = (
    "_state",
    "loss_curve_",
    "validation_scores_",
    "best_validation_score_",
    "best_loss_",
)
# At this rate learning_rate="adaptive" ends the training.
_SMALLEST_RATE = 1e-6


class Data(NamedTuple):
    """Samples on the device; weights are None if all are 1."""

    x: Array
    y: Array
    weight: Array | None


def keep(estimator: Any, parameters: dict[str, Any]) -> None:
    """Set an attribute for each parameter of a constructor, as scikit-learn requires."""
    for name, value in parameters.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


def is_stochastic(estimator: Any) -> bool:
    """Return True if there is a `partial_fit`; raise AttributeError if not."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers, and lbfgs is not stochastic"
        )
    return True


class MultilayerPerceptron(BaseEstimator):
    """What the classifier and the regressor share."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(_ACTIVATIONS))],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "numerics": [StrOptions(set(_NUMERICS))],
        "backend": [str, None],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "compile": ["boolean"],
        "dual": [StrOptions({"auto"}), "boolean"],
    }

    # Epochs trained so far, which decide the order of the samples in the next.
    _epochs = 0
    _rate: float
    _state: Any
    loss_curve_: list[float]
    validation_scores_: Any
    best_validation_score_: Any
    best_loss_: Any

    def to_layers(self) -> tuple[Layer, ...]:
        """Return the network as `kernels.forward` takes it."""
        check_is_fitted(self, "coefs_")
        return tuple(map(Layer, self.coefs_, self.intercepts_))

    @property
    def digest_(self) -> str:
        """The SHA-256 of weights and biases, `kernels.digest`: equal digests mean equal bits."""
        return digest(self.to_layers())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    # What the classifier and the regressor define.

    def _encode(self, y: Any, place: Place, incremental: bool) -> Any:
        """Check targets, and return them in shape (n, n_out), of NumPy or X's library."""
        raise NotImplementedError

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _held_out_score(self, y: Any, output: Any, weight: Any) -> float:
        raise NotImplementedError

    def _least_loss(self, data: Data, numerics: Numerics) -> float:  # noqa: ARG002
        """Compute the loss of a perfect prediction, which reported losses leave out."""
        return 0.0

    @property
    def _numerics(self) -> Numerics:
        return _NUMERICS[self.numerics]

    @property
    def _activation(self) -> Activation:
        return _ACTIVATIONS[self.activation]

    @property
    def _may_be_dual(self) -> bool:
        """Whether nothing needs the weights between epochs, and no rate changes."""
        alike = self.solver == "sgd" and self.learning_rate == "constant"
        return alike and not self.early_stopping

    def _output(self, layers: tuple[Layer, ...], x: Array) -> Array:
        """Predict with the activation of the last layer."""
        n = self._numerics
        a = forward(layers, x, activation=self._activation, numerics=n)[-1]
        return expectation(self._loss(), a, numerics=n)

    def _predicted(self, X: Any, method: str) -> tuple[Place, Array]:
        check_is_fitted(self, "coefs_")
        check_same_namespace(X, self, attribute="_first_weight", method=method)
        place = place_of(X, self.backend)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=place.dtypes, reset=False)
        layers = place.take_layers(self.to_layers())
        return place, self._output(layers, place.take(X, dtype_name(layers[0].weight)))

    @property
    def _first_weight(self) -> Any:
        return self.coefs_[0]

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if any(size <= 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        if self.dual is True and not self._may_be_dual:
            raise ValueError(
                "expected solver='sgd', learning_rate='constant' and early_stopping=False for "
                f"dual=True, got solver={self.solver!r}, learning_rate={self.learning_rate!r} and "
                f"early_stopping={self.early_stopping}"
            )
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        place = place_of(X, self.backend)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=place.dtypes,
            reset=first,
        )
        if sample_weight is not None:
            if place.device is not None and not isinstance(sample_weight, Real):
                if not is_array_api_obj(sample_weight):
                    sample_weight = np.asarray(sample_weight)
                # Beside X, wherever it is computed with.
                sample_weight = move_to(sample_weight, xp=place.xp, device=place.device)
            sample_weight = _check_sample_weight(sample_weight, X)
        target = self._encode(y, place, incremental)
        kind = self.dtype or ("float32" if X.dtype == place.xp.float32 else "float64")
        if not first:
            kind = dtype_name(self.to_layers()[0].weight)
            if self.dtype not in (None, kind):
                raise ValueError(
                    f"expected dtype={kind!r}, as the weights to go on from, got {self.dtype!r}"
                )
        weight = None if sample_weight is None else place.take(sample_weight, kind)
        data = Data(place.take(X, kind), place.take(target, kind), weight)
        check_targets(self._loss(), data.y, data.y.shape[1])
        if data.weight is not None:
            check_sample_weight(data.weight, data.x, self._numerics)
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**32, dtype=np.uint32))
        if first:
            sizes = (X.shape[1], *hidden, target.shape[1])
            layers = self._initial(sizes, seed, data.x)
            self._begin(sizes)
        else:
            layers = place.take_layers(self.to_layers())
        if self.solver == "lbfgs":
            layers = self._fit_lbfgs(place, layers, data)
        else:
            layers = self._fit_stochastic(place, layers, data, seed, random, incremental)
        new = place.back_layers(layers)
        self.coefs_ = [layer.weight for layer in new]
        self.intercepts_ = [layer.bias for layer in new]
        if not all(
            bool(array_namespace(a).all(array_namespace(a).isfinite(a)))
            for layer in layers
            for a in layer
        ):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large"
                " values and need to be preprocessed."
            )
        return self

    def _initial(self, sizes: tuple[int, ...], seed: int, like: Array) -> tuple[Layer, ...]:
        """Draw Glorot-uniform weights and biases, the same on every library."""
        layers = []
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            bound = sqrt((2.0 if self.activation == "logistic" else 6.0) / (n_in + n_out))
            draw = partial(uniform, seed=seed, like=like)
            weight, bias = draw((n_in, n_out), stream=2 * i), draw((n_out,), stream=2 * i + 1)
            layers.append(Layer((2.0 * weight - 1.0) * bound, (2.0 * bias - 1.0) * bound))
        return tuple(layers)

    def _begin(self, sizes: tuple[int, ...]) -> None:
        """Reset the attributes that training updates, besides the weights."""
        self.n_layers_, self.n_outputs_ = len(sizes), sizes[-1]
        self.n_iter_ = self.t_ = self._epochs = 0
        # Another training's, if there was one.
        for name in _OF_ONE_TRAINING:
            self.__dict__.pop(name, None)
        if self.solver != "lbfgs":
            self.loss_curve_ = []
            self._no_improvement_count = 0
            self.validation_scores_ = [] if self.early_stopping else None
            self.best_validation_score_ = -inf if self.early_stopping else None
            self.best_loss_ = None if self.early_stopping else inf

    def _fit_lbfgs(self, place: Place, layers: tuple[Layer, ...], data: Data) -> tuple[Layer, ...]:
        n = self._numerics
        total = data.x.shape[0] if data.weight is None else fsum(place.host(data.weight))
        target: Any = data.y if data.weight is None else (data.y, data.weight)
        loss = unchecked(self._loss())
        settings: dict[str, Any] = {
            "shapes": tuple(tuple(layer.weight.shape) for layer in layers),
            "l2": self.alpha / total,
            "loss": loss if data.weight is None else weighted(loss),
            "activation": self._activation,
            "numerics": n,
        }
        function: Any = partial(value_and_gradient, **settings)
        if self.compile:
            compiler = place.compiler(data.x)
            if isinstance(n, Exact):
                try_compiler(compiler, array_namespace(data.x), placement(data.x).get("device"))
            function = compiled(compiler, value_and_gradient, **settings)
        operands = n.prepare(data.x), n.prepare(data.x.T)
        least = self._least_loss(data, n)

        def progress(step: int, value: float) -> None:
            if self.verbose:
                print(f"Iteration {step}, loss = {value - least:.8f}")

        found = minimize(
            lambda vector: function(vector, data.x, target, operands),
            packed(layers),
            max_steps=self.max_iter,
            max_calls=self.max_fun,
            gradient_tolerance=float(self.tol),
            numerics=n,
            progress=progress,
        )
        self.n_iter_, self.loss_ = found.steps, found.value - least
        if found.reason not in ("gradient", "value"):
            said = {
                "steps": f"the limit of iterations was reached (max_iter={self.max_iter})",
                "calls": f"the limit of calls was reached (max_fun={self.max_fun})",
                "line": "no lower loss was found along the last direction",
            }
            warnings.warn(
                f"lbfgs failed to converge after {found.steps} iteration(s): {said[found.reason]}; "
                "scaling the data may help.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return unpacked(found.x, settings["shapes"])

    def _fit_stochastic(
        self,
        place: Place,
        layers: tuple[Layer, ...],
        data: Data,
        seed: int,
        random: Any,
        incremental: bool,
    ) -> tuple[Layer, ...]:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._check_goes_on()
        held = None
        if self.early_stopping:
            data, held = self._split(place, data, random)
        n = data.x.shape[0]
        size = min(200, n) if self.batch_size == "auto" else self.batch_size
        if size > n:
            warnings.warn(
                f"expected batch_size of at most {n}, the number of samples, got {size}; it is "
                "clipped",
                stacklevel=4,
            )
            size = n
        batches = -(-n // size)
        # The sum of sample weights in an average batch.
        counted = size if data.weight is None else size * fsum(place.host(data.weight)) / n
        settings: dict[str, Any] = {
            "loss": self._loss(),
            "activation": self._activation,
            "l2": self.alpha / counted,
            "sample_weight": data.weight,
            "numerics": self._numerics,
            "compile": place.compiler(data.x) if self.compile else None,
            # A batch of all samples needs no order.
            "batch_size": size if size < n else None,
            "seed": seed,
            "shuffle": self.shuffle,
        }
        optimizer = self._optimizer()
        state: Any = optimizer.init(layers)
        if incremental and hasattr(self, "_state"):
            if _form_of(self._state) != _form_of(state):
                raise ValueError(
                    "expected solver and momentum as in the call that partial_fit goes on from, "
                    f"got solver={self.solver!r} and momentum={self.momentum}"
                )
            state = _mapped(self._state, place.take_layers)
        else:
            self._rate = float(self.learning_rate_init)
        least, best = self._least_loss(data, self._numerics), layers
        last = [size] * (n // size) + [n % size] * (n % size > 0)
        # One epoch is too short for the dual form to pay, so a run ends with a period.
        run = min(PERIOD // gcd(PERIOD, batches), self.max_iter)
        settings["dual"] = not incremental and self._takes_dual(layers, n, run, settings)
        run = run if settings["dual"] else 1
        ended, of_epoch = False, list[Array]()

        def end_epoch(values: Any) -> None:
            nonlocal best, ended
            losses = zip(place.host(values).tolist(), last, strict=True)
            self._epochs, self.n_iter_, self.t_ = self._epochs + 1, self.n_iter_ + 1, self.t_ + n
            self.loss_ = _sum(value * count for value, count in losses) / n - least
            self.loss_curve_.append(self.loss_)
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
            if held is not None:
                best = self._look_at(place, layers, held, best)
            else:
                self._compare(self.loss_, self.best_loss_ - self.tol, above=True)
                self.best_loss_ = min(self.best_loss_, self.loss_)
            if self.solver == "sgd" and self.learning_rate == "invscaling":
                self._rate = inverse(self.learning_rate_init, self.power_t)(self.t_)
            ended = self._no_improvement_count > self.n_iter_no_change and self._stops()

        def progress(_: int, value: Array) -> None:
            of_epoch.append(value)
            if len(of_epoch) == batches:
                end_epoch(array_namespace(value).stack(of_epoch))
                of_epoch.clear()
            if ended:
                raise StopIteration

        self.n_iter_, epochs, kept = 0, 1 if incremental else self.max_iter, self._epochs
        try:
            while not ended and self.n_iter_ < epochs:
                if self._rate != optimizer.learning_rate:
                    optimizer = replace(optimizer, learning_rate=self._rate)
                layers, values, state = fit(
                    layers,
                    data.x,
                    data.y,
                    optimizer=optimizer,
                    epochs=min(run, epochs - self.n_iter_),
                    start=self._epochs * batches,
                    state=state,
                    progress=progress if run > 1 else None,
                    **settings,
                )
                # Epochs that are in the weights; `progress` has counted those of a run already.
                kept = self._epochs + (run == 1)
                if run == 1:
                    end_epoch(values)
            if not ended and not incremental:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and "
                    "the optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        except KeyboardInterrupt:
            lost = self._epochs - kept
            self._epochs, self.n_iter_, self.t_ = kept, self.n_iter_ - lost, self.t_ - lost * n
            del self.loss_curve_[len(self.loss_curve_) - lost :]
            warnings.warn("Training interrupted by user.", stacklevel=4)
        self._state = _mapped(state, place.back_layers)
        return layers if held is None else best

    def _check_goes_on(self) -> None:
        """Raise ValueError if training goes on from one that watched something else."""
        watched = None if not hasattr(self, "loss_curve_") else self.best_loss_ is None
        if watched != self.early_stopping:
            before = "solver='lbfgs'" if watched is None else f"early_stopping={watched}"
            raise ValueError(
                f"expected {before}, as in the training to go on from, got solver={self.solver!r} "
                f"and early_stopping={self.early_stopping}"
            )

    def _takes_dual(
        self, layers: tuple[Layer, ...], n: int, epochs: int, settings: dict[str, Any]
    ) -> bool:
        """Say whether to train in dual form, in runs of some epochs over n samples."""
        if not self._may_be_dual:
            return False
        size, optimizer = settings["batch_size"], self._optimizer()
        batches = batches_of(n, epochs=epochs, batch_size=size, seed=settings["seed"])
        numerics, compile = settings["numerics"], settings["compile"]
        return use_dual(self.dual, optimizer, numerics, layers, batches, compile)

    def _optimizer(self) -> SGD | Adam:
        """Make the optimizer, but for its rate."""
        if self.solver == "adam":
            return Adam(beta1=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon)
        nesterov = bool(self.nesterovs_momentum) and self.momentum > 0.0
        return SGD(0.0, momentum=self.momentum, nesterov=nesterov)

    def _split(self, place: Place, data: Data, random: Any) -> tuple[Data, Data]:
        """Hold some samples out."""
        y = place.host(data.y)
        n = y.shape[0]
        train, held = train_test_split(
            np.arange(n),
            random_state=random,
            test_size=self.validation_fraction,
            stratify=self._strata(y),
        )
        if held.shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        xp = array_namespace(data.x)

        def chosen(rows: Any) -> Data:
            index = xp.asarray(rows.tolist(), dtype=xp.int64, **placement(data.x))
            weight = None if data.weight is None else xp.take(data.weight, index, axis=0)
            return Data(xp.take(data.x, index, axis=0), xp.take(data.y, index, axis=0), weight)

        parts = chosen(train), chosen(held)
        for what, part in zip(("train on", "hold out"), parts, strict=True):
            if part.weight is not None and not place.host(part.weight).any():
                raise ValueError(
                    f"expected a sample_weight above 0 among the {part.x.shape[0]} samples that "
                    f"early_stopping leaves to {what}, got none"
                )
        return parts

    def _strata(self, y: Any) -> Any:  # noqa: ARG002
        return None

    def _look_at(
        self, place: Place, layers: tuple[Layer, ...], held: Data, best: tuple[Layer, ...]
    ) -> tuple[Layer, ...]:
        """Score the held-out samples, and return the best weights so far."""
        output, y = place.host(self._output(layers, held.x)), place.host(held.y)
        weight = None if held.weight is None else place.host(held.weight)
        finite = bool(np.isfinite(output).all())
        score = self._held_out_score(y, output, weight) if finite else nan
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        self._compare(score, self.best_validation_score_ + self.tol, above=False)
        if score > self.best_validation_score_:
            self.best_validation_score_ = score
            return layers
        return best

    def _compare(self, value: float, bound: float, *, above: bool) -> None:
        """Count successive epochs that are worse than a bound."""
        worse = value > bound if above else value < bound
        self._no_improvement_count = self._no_improvement_count + 1 if worse else 0

    def _stops(self) -> bool:
        """Return True to stop for lack of progress, or reduce the rate to go on."""
        what = "Validation score" if self.early_stopping else "Training loss"
        said = (
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
            "consecutive epochs."
        )
        adapts = self.solver == "sgd" and self.learning_rate == "adaptive"
        stops = not adapts or self._rate <= _SMALLEST_RATE
        if not stops:
            self._rate /= 5.0
            self._no_improvement_count = 0
        if self.verbose:
            then = f"Setting learning rate to {self._rate:f}"
            if stops:
                then = "Learning rate too small. Stopping." if adapts else "Stopping."
            print(f"{said} {then}")
        return stops


def _mapped(state: Any, function: Any) -> Any:
    """Move the arrays of an optimizer's state."""
    return type(state)(state.steps, *map(function, state[1:]))


def _form_of(state: Any) -> Any:
    """Say which optimizer a state is of, and which of its fields it has."""
    return type(state), tuple(map(bool, state[1:]))


def _sum(numbers: Any) -> float:
    """Sum, rounded correctly; NaN if a number is not finite."""
    numbers = list(numbers)
    return fsum(numbers) if all(map(isfinite, numbers)) else nan
