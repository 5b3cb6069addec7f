"""scikit-learn's own tests of its perceptrons, on these."""

import importlib
from unittest import mock

import pytest
import sklearn.neural_network
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernels.estimators import MLPClassifier, MLPRegressor

# Those of scikit-learn itself: too few iterations, and the logarithm of a probability of 0.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning"),
]

OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
# Each has a test of the same behavior in test_estimators.py.
PRIVATE = {
    "test_gradient": "calls the private _loss_grad_lbfgs",
    "test_learning_rate_warmstart": "reads the rate of the private _optimizer",
    "test_adaptive_learning_rate": "reads the rate of the private _optimizer",
}

with mock.patch.multiple(sklearn.neural_network, **OURS):
    test_mlp = importlib.import_module("sklearn.neural_network.tests.test_mlp")

for name, function in vars(test_mlp).items():
    if name.startswith("test_"):
        expected = name in PRIVATE
        mark = pytest.mark.xfail(reason=PRIVATE[name], strict=True) if expected else lambda f: f
        globals()[name] = mark(function)


@pytest.fixture
def global_random_seed():
    """Give the seed that scikit-learn's tests take unless told otherwise."""
    return 42


@parametrize_with_checks([MLPClassifier(solver="lbfgs", max_iter=20), MLPRegressor(max_iter=20)])
def test_checks_of_estimators(estimator, check):
    check(estimator)


def test_their_tests_run_on_ours():
    assert test_mlp.MLPClassifier is MLPClassifier
    assert sum(name.startswith("test_") for name in vars(test_mlp)) > 40
