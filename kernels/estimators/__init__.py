"""scikit-learn's multi-layer perceptrons on any array library, with the same bits everywhere.

`MLPClassifier` and `MLPRegressor` have the parameters, attributes and methods of those of
`sklearn.neural_network`, and train with `kernels.fit`. This package needs scikit-learn, and
`import kernels` does not import it.
"""

from ._classifier import MLPClassifier
from ._regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
