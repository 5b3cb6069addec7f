"""
The same fit on another processor
=================================

On another machine scikit-learn's perceptrons end with other weights, whatever ``random_state`` is:
between Linux and Windows (`scikit-learn #20516
<https://github.com/scikit-learn/scikit-learn/issues/20516>`_), between a laptop and a cloud
function (`#13108 <https://github.com/scikit-learn/scikit-learn/issues/13108>`_).

One reason can be shown on one machine. NumPy multiplies matrices with OpenBLAS, which has different
code, with a different order of sums, for each kind of processor. The environment variable
``OPENBLAS_CORETYPE`` selects it. Sums differ in their last bits, and L-BFGS amplifies that.
"""

import json
import os
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np

PROGRAM = """
import json, warnings
import sklearn.neural_network
from sklearn.datasets import load_diabetes
import kernels.estimators

warnings.simplefilter("ignore")
X, y = load_diabetes(return_X_y=True)
settings = {"hidden_layer_sizes": 20, "solver": "lbfgs", "max_iter": 300, "random_state": 0}
theirs = sklearn.neural_network.MLPRegressor(**settings).fit(X, y / 64)
ours = kernels.estimators.MLPRegressor(**settings, numerics="exact").fit(X, y / 64)
print(json.dumps([(64 * model.predict(X[:100])).tolist() for model in (theirs, ours)]))
"""


def predictions(processor):
    """Run the program as on a processor, or as on this one."""
    environment = os.environ | ({"OPENBLAS_CORETYPE": processor} if processor else {})
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return np.asarray(json.loads(done.stdout))


found = {name: predictions(name) for name in ("Prescott", "Nehalem", "Haswell")}

# %%
# The predictions for the first hundred patients, minus those of the same program on the first
# processor. The targets go from 25 to 346.

first, *others = found
figure, grid = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
titles = ("scikit-learn's MLPRegressor", "kernels.estimators, exact")
for i, (axes, title) in enumerate(zip(grid, titles, strict=True)):
    for name in others:
        difference = found[name][i] - found[first][i]
        axes.plot(difference, ".", label=f"{name} - {first}")
        print(f"{title}, {name}: at most {np.abs(difference).max():.3g} from {first}")
    axes.set(title=title, xlabel="patient")
grid[0].set_ylabel("difference of the prediction")
grid[0].legend()
plt.show()
