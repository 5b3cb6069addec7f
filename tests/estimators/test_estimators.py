"""The estimators: the same bits everywhere, what goes in and out, and what is refused."""

import importlib
import inspect
import pickle
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn.neural_network
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backends
import kernels
from kernels.estimators import MLPClassifier, MLPRegressor
from kernels.estimators._scores import accuracy, r2
from kernels.estimators._vector import packed, unpacked, value_and_gradient

LIBRARIES = ("array-api-strict", "torch:cpu")
SOLVERS = ("adam", "sgd", "lbfgs")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABELS = (X[:, 0] + X[:, 1] ** 2 > 0.7).astype(int) + (X[:, 2] > 0.5)
COUNTS = np.floor(np.abs(X[:, 0]) * 4.0)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def small(kind=MLPClassifier, **parameters):
    """Make an estimator that trains quickly."""
    common = {"hidden_layer_sizes": 4, "max_iter": 4, "batch_size": 16, "random_state": 3}
    return kind(**(common | {"numerics": "exact"} | parameters))


PROBLEMS = {
    **{solver: (small(solver=solver), LABELS) for solver in SOLVERS},
    "tanh": (small(activation="tanh", learning_rate="invscaling", solver="sgd"), LABELS),
    "early": (small(early_stopping=True, validation_fraction=0.25), LABELS > 0),
    "early numbers": (small(MLPRegressor, early_stopping=True), COUNTS),
    "numbers": (small(MLPRegressor, solver="lbfgs"), X[:, :2] @ np.ones((2, 2))),
    "counts": (small(MLPRegressor, loss="poisson", activation="logistic"), COUNTS),
    "float32": (small(dtype="float32"), LABELS),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_one_digest_on_every_library(problem, library):
    estimator, y = PROBLEMS[problem]
    expected = clone(estimator).fit(X, y)
    backend = backends.get(library)
    placed = backend.asarray(X), backend.asarray(y)
    with config_context(array_api_dispatch=True):
        own = clone(estimator).fit(*placed)
        predicted = own.predict(placed[0])
    lent = clone(estimator).set_params(backend=library).fit(X, y)
    assert own.digest_ == lent.digest_ == expected.digest_
    assert own.loss_ == lent.loss_ == expected.loss_
    assert type(own.coefs_[0]) is type(predicted) is type(placed[0])
    assert type(lent.coefs_[0]) is type(lent.predict(X)) is np.ndarray
    np.testing.assert_array_equal(backend.to_numpy(predicted), expected.predict(X))
    np.testing.assert_array_equal(lent.predict(X), expected.predict(X))


def test_probabilities_of_two_classes():
    """The second probability is the output, and the predicted class has the larger one."""
    model = small().fit(X, LABELS > 0)
    found = model.predict_proba(X)
    np.testing.assert_array_equal(model.classes_[found.argmax(axis=1)], model.predict(X))
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-15)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), found, rtol=1e-12)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_compiled_bits_are_the_same(solver):
    estimator = small(solver=solver, max_iter=2, batch_size=20)
    expected = clone(estimator).fit(X, LABELS)
    compiled = estimator.set_params(backend="jax:cpu", compile=True).fit(X, LABELS)
    assert compiled.digest_ == expected.digest_


def test_arrays_of_jax():
    jax = backends.get("jax:cpu")
    x, y = jax.asarray(X), jax.asarray(LABELS)
    with config_context(array_api_dispatch=True):
        model = small(numerics="native", compile=True).fit(x, y)
        found = model.predict(x), model.predict_proba(x), *model.coefs_
    assert {type(a) for a in found} == {type(x)}
    expected = small(numerics="native").fit(X, LABELS)
    np.testing.assert_allclose(found[1], expected.predict_proba(X), rtol=1e-9)


def test_a_search_in_a_pipeline_finds_one_digest_on_every_library():
    searched = []
    for backend, jobs in ((None, 2), ("torch:cpu", 1)):
        pipeline = make_pipeline(StandardScaler(), small(backend=backend))
        grid = {"mlpclassifier__alpha": [0.1, 1.0]}
        searched.append(GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs).fit(X, LABELS))
    first, second = searched
    assert first.best_estimator_[-1].digest_ == second.best_estimator_[-1].digest_
    np.testing.assert_array_equal(*(s.cv_results_["mean_test_score"] for s in searched))


def test_copies_are_the_same_and_go_on_alike(tmp_path):
    model = small().fit(X, LABELS)
    joblib.dump(model, tmp_path / "model")
    copies = [pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model")]
    digests = {each.partial_fit(X, LABELS).digest_ for each in (model, *copies)}
    assert len(digests) == 1
    assert not hasattr(clone(model), "coefs_")


@pytest.mark.parametrize("solver", SOLVERS)
def test_files_of_skops(solver, tmp_path):
    skops = pytest.importorskip("skops.io")
    model = small(solver=solver).fit(X, LABELS)
    skops.dump(model, tmp_path / "model.skops")
    trusted = skops.get_untrusted_types(file=tmp_path / "model.skops")
    assert {name.partition(".")[0] for name in trusted} == {"kernels"}
    again = skops.load(tmp_path / "model.skops", trusted=trusted)
    assert again.digest_ == model.digest_
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_partial_fits_are_the_epochs_of_one_fit():
    whole = small(tol=0.0).fit(X, LABELS)
    parts = small()
    for _ in range(whole.n_iter_):
        parts.partial_fit(X, LABELS, classes=[0, 1, 2])
    assert parts.digest_ == whole.digest_
    assert parts.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_fit_is_that_of_kernels(solver):
    """With rates that decay, over two fits of which the second starts warm."""
    given = {"solver": solver, "alpha": 0.5, "learning_rate": "invscaling"}
    model = small(**given, max_iter=1, warm_start=True).fit(X, LABELS)
    layers = model.to_layers()
    model.set_params(max_iter=2).fit(X, LABELS)
    rates = [0.001, 0.001 if solver == "adam" else kernels.schedules.inverse(0.001)(80)]
    state = None
    for start, rate in zip((3, 6), rates, strict=True):
        adam = solver == "adam"
        sgd = {"momentum": 0.9, "nesterov": True}
        optimizer = kernels.Adam(rate) if adam else kernels.SGD(rate, **sgd)
        layers, losses, state = kernels.fit(
            layers,
            X,
            np.eye(3)[LABELS],
            optimizer=optimizer,
            state=optimizer.init(layers) if state is None else state,
            epochs=1,
            start=start,
            batch_size=16,
            seed=int(np.random.RandomState(3).randint(2**32, dtype=np.uint32)),
            l2=0.5 / 16,
            loss=kernels.softmax_cross_entropy,
            numerics=kernels.EXACT,
        )
    assert kernels.digest(layers) == model.digest_
    total = sum(map(Fraction, (losses * np.asarray([16.0, 16.0, 8.0])).tolist()))
    assert model.loss_ == float(total) / 40


def test_parameters_attributes_and_methods_are_scikit_learns():
    for ours in (MLPClassifier, MLPRegressor):
        theirs = getattr(sklearn.neural_network, ours.__name__)
        own = ours().get_params()
        assert list(inspect.signature(theirs).parameters) == [
            name for name in inspect.signature(ours).parameters if name in theirs().get_params()
        ]
        assert {name: own[name] for name in theirs().get_params()} == theirs().get_params()
        more = {"numerics", "backend", "dtype", "compile", "dual"}
        assert set(own) - set(theirs().get_params()) == more
        for solver in SOLVERS:
            given = {"solver": solver, "max_iter": 2}
            fitted = [kind(**given).fit(X, LABELS) for kind in (theirs, ours)]
            public = [
                {n for n in dir(each) if not n.startswith("_") and hasattr(each, n)}
                for each in fitted
            ]
            assert public[1] - public[0] >= {"digest_", "to_layers"}
            # Their classifier has an attribute `loss`, which is no parameter, and their regressor a
            # partial_fit that raises for lbfgs.
            others = {"loss"} | ({"partial_fit"} if solver == "lbfgs" else set())
            assert public[0] - others <= public[1]


def test_the_loss_is_scikit_learns():
    """On the weights that they found."""
    for name, y in (("MLPClassifier", LABELS), ("MLPRegressor", COUNTS)):
        for parameters in ({}, {"loss": "poisson"}) if name == "MLPRegressor" else ({},):
            given = {"solver": "lbfgs", "max_iter": 1, "random_state": 0, **parameters}
            theirs = getattr(sklearn.neural_network, name)(**given).fit(X, y)
            ours = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[name](
                **given, warm_start=True
            )
            ours.fit(X, y)
            ours.coefs_, ours.intercepts_ = theirs.coefs_, theirs.intercepts_
            lines = []
            ours.set_params(solver="sgd", batch_size=40, learning_rate_init=1e-300)
            ours._begin((3, 100, ours.n_outputs_))
            ours.partial_fit(X, y)
            lines.append(ours.loss_)
            np.testing.assert_allclose(lines, theirs.loss_, rtol=1e-12)


def test_the_gradient_is_that_of_the_loss():
    layers = small().fit(X, LABELS).to_layers()
    settings = {
        "shapes": tuple(layer.weight.shape for layer in layers),
        "l2": 0.1,
        "loss": kernels.softmax_cross_entropy,
        "activation": kernels.activations.tanh,
        "numerics": kernels.NATIVE,
    }

    def loss(vector):
        return value_and_gradient(vector, X, np.eye(3)[LABELS], (X, X.T), **settings)

    vector = packed(layers)
    for a, b in zip(layers, unpacked(vector, settings["shapes"]), strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)
        np.testing.assert_array_equal(a.bias, b.bias)
    steps = np.eye(vector.shape[0]) * 1e-5
    numeric = [(loss(vector + s)[0] - loss(vector - s)[0]) / 2e-5 for s in steps]
    np.testing.assert_allclose(loss(vector)[1], numeric, atol=1e-9)
    plain, _ = value_and_gradient(vector, X, np.eye(3)[LABELS], (X, X.T), **settings | {"l2": 0.0})
    squares = sum(np.sum(layer.weight**2) for layer in layers)
    np.testing.assert_allclose(loss(vector)[0] - plain, 0.05 * squares, rtol=1e-12)


def test_rates_adapt_until_they_are_too_small(capsys):
    model = MLPClassifier(
        2, solver="sgd", learning_rate="adaptive", tol=0.5, max_iter=300, verbose=True
    )
    model.fit([[3, 2], [1, 6]], [1, 0])
    said = capsys.readouterr().out.splitlines()
    rates = [line.rpartition(" ")[2] for line in said if "Setting learning rate to" in line]
    assert rates == ["0.000200", "0.000040", "0.000008", "0.000002", "0.000000"]
    assert said[-1] == (
        "Training loss did not improve more than tol=0.500000 for 10 consecutive epochs. "
        "Learning rate too small. Stopping."
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_is_shown(solver, capsys):
    model = small(solver=solver, verbose=True, early_stopping=solver == "adam").fit(X, LABELS)
    said = capsys.readouterr().out.splitlines()
    assert said[-1 - (solver == "adam")] == f"Iteration 4, loss = {model.loss_:.8f}"
    if solver == "adam":
        assert said[-1] == f"Validation score: {model.validation_scores_[-1]:f}"


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_it_says_when_it_has_not_converged():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(4\) reached"):
        small().fit(X, LABELS)
    with pytest.warns(ConvergenceWarning, match=r"after 4 iteration\(s\): .*max_iter=4\)"):
        small(solver="lbfgs").fit(X, LABELS)
    with pytest.warns(ConvergenceWarning, match=r"calls was reached \(max_fun=1\)"):
        small(solver="lbfgs", max_fun=1).fit(X, LABELS)


def test_an_interrupt_keeps_what_was_trained(monkeypatch):
    fit, calls = kernels.fit, []

    def interrupted(*arguments, **named):
        calls.append(named)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **named)

    monkeypatch.setattr("kernels.estimators._mlp.fit", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model = small().fit(X, LABELS)
    monkeypatch.undo()
    assert model.n_iter_ == 2
    assert model.digest_ == small(max_iter=2).fit(X, LABELS).digest_


def test_an_interrupt_between_epochs_counts_the_last(monkeypatch):
    compare = MLPClassifier._compare

    def interrupted(self, *arguments, **named):
        compare(self, *arguments, **named)
        if self.n_iter_ == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(MLPClassifier, "_compare", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model = small().fit(X, LABELS)
    monkeypatch.undo()
    assert (model.n_iter_, len(model.loss_curve_), model.t_) == (3, 3, 3 * 40)
    assert model.digest_ == small(max_iter=3).fit(X, LABELS).digest_


@pytest.mark.parametrize("solver", SOLVERS)
def test_integer_weights_are_copies(solver):
    weights = np.asarray([1, 2] * 20)
    given = {"solver": solver, "batch_size": 60, "alpha": 0.1}
    weighted = small(**given, numerics="native").set_params(batch_size=40)
    weighted.fit(X, LABELS, sample_weight=weights)
    copied = small(**given, numerics="native")
    copied.fit(np.repeat(X, weights, axis=0), np.repeat(LABELS, weights))
    for a, b in zip(weighted.coefs_, copied.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_and_words(library):
    frames = importlib.import_module(library)
    columns = ["a", "b", "c"]
    frame = frames.DataFrame(dict(zip(columns, X.T, strict=True)))
    words = np.asarray(["low", "middle", "high"], dtype=object)[LABELS]
    model = small().fit(frame, frames.Series(words))
    assert model.digest_ == small().fit(X, words).digest_
    assert model.feature_names_in_.tolist() == columns
    assert model.classes_.tolist() == ["high", "low", "middle"]
    assert set(model.predict(frame)) <= set(words)


def test_words_predicted_from_arrays_of_another_library():
    words = np.asarray(["low", "middle", "high"])[LABELS]
    torch = backends.get("torch:cpu")
    with config_context(array_api_dispatch=True):
        model = small().fit(torch.asarray(X), words)
        predicted = model.predict(torch.asarray(X))
    assert model.digest_ == small().fit(X, words).digest_
    assert predicted.tolist() == small().fit(X, words).predict(X).tolist()


def test_a_backend_computes_for_arrays_of_another_library():
    torch = backends.get("torch:cpu")
    x, weight = torch.asarray(X), torch.asarray(np.arange(40) % 3)
    expected = small().fit(X, LABELS, sample_weight=np.arange(40) % 3)
    with config_context(array_api_dispatch=True):
        for given in (weight, (np.arange(40) % 3).tolist()):
            model = small(backend="numpy").fit(x, LABELS, sample_weight=given)
            assert model.digest_ == expected.digest_
            assert model.predict(x).tolist() == expected.predict(X).tolist()
        twice = small().fit(x, LABELS, sample_weight=2.0)
    assert twice.digest_ == small().fit(X, LABELS, sample_weight=2.0).digest_


def test_one_class_is_always_predicted():
    model = small().fit(X, np.full(40, 7))
    assert model.classes_.tolist() == [7]
    assert set(model.predict(X)) == {7}


def test_what_is_given_stays_as_it_was():
    x, y, weight = X.copy(), COUNTS.copy(), np.ones(40)
    small(MLPRegressor, early_stopping=True).fit(x, y, sample_weight=weight)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, COUNTS)
    np.testing.assert_array_equal(weight, np.ones(40))


def test_bad_input_is_refused_in_a_sentence():
    model = small().fit(X, LABELS)
    with pytest.raises(ValueError, match="X has 2 features, but MLPClassifier is expecting 3"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match=r"expected y with classes of \[0, 1, 2\].*, got \[5, 6\]"):
        model.partial_fit(X[:4], [0, 5, 6, 1])
    for bad, said in ((np.nan, "Input X contains NaN"), (np.inf, "Input X contains infinity")):
        with pytest.raises(ValueError, match=said):
            small().fit(np.where(X[0, 0] == X, bad, X), LABELS)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        small(MLPRegressor).fit(X, np.where(COUNTS[0] == COUNTS, np.nan, COUNTS))
    for bad in ("datetime64[D]", "timedelta64[D]", "str"):
        with pytest.raises(ValueError, match="expected numbers as y, got "):
            small(MLPRegressor).fit(X, COUNTS.astype(int).astype(bad))
    with pytest.raises(ValueError, match="expected targets of 0 or more, got -1"):
        small(MLPRegressor, loss="poisson").fit(X, COUNTS - 1.0)
    with pytest.raises(
        ValueError, match="expected sample_weight of finite numbers of 0 or more, got -1"
    ):
        small().fit(X, LABELS, sample_weight=-np.ones(40))
    with pytest.raises(ValueError, match=r"expected a backend of .*, got 'numpi'"):
        small(backend="numpi").fit(X, LABELS)
    with pytest.warns(UserWarning, match="batch_size of at most 40, the number of samples, got 41"):
        small(batch_size=41).fit(X, LABELS)


def test_what_goes_on_keeps_the_dtype_of_its_weights():
    float32 = X.astype("float32").astype("float64")
    digests = []
    for second in (float32, float32.astype("float32")):
        model = small(warm_start=True).fit(X, LABELS)
        model.fit(second, LABELS)
        digests.append(model.partial_fit(second, LABELS).digest_)
        assert model.coefs_[0].dtype == np.float64
    assert digests[0] == digests[1]
    model.set_params(dtype="float32")
    with pytest.raises(ValueError, match=r"dtype='float64', as the weights .*, got 'float32'"):
        model.fit(X, LABELS)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"solver": "sgd"}, "solver and momentum as in .*, got solver='sgd'"),
        (
            {"solver": "sgd", "momentum": 0.0},
            {"momentum": 0.9},
            "solver and momentum as in .*, got solver='sgd' and momentum=0.9",
        ),
        (
            {"solver": "lbfgs"},
            {"solver": "adam"},
            "solver='lbfgs', as in the .*, got solver='adam'",
        ),
        ({"early_stopping": True}, {"early_stopping": False}, "early_stopping=True, as in the "),
    ],
)
def test_training_that_cannot_go_on_is_refused(before, after, message):
    model = small(**before).fit(X, LABELS > 0)
    digest = model.digest_
    with pytest.raises(ValueError, match=f"^expected {message}"):
        model.set_params(**after).partial_fit(X, LABELS > 0)
    assert model.digest_ == digest
    if "momentum" not in str(message):
        with pytest.raises(ValueError, match=f"^expected {message}"):
            model.set_params(warm_start=True).fit(X, LABELS > 0)


def test_nothing_stays_of_an_earlier_training():
    model = small().fit(X, LABELS)
    model.set_params(solver="lbfgs").fit(X, LABELS)
    assert not hasattr(model, "loss_curve_")
    with pytest.raises(ValueError, match="expected solver='lbfgs'"):
        model.set_params(solver="adam").partial_fit(X, LABELS)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_weights_of_0_in_a_part_are_refused(kind):
    said = set()
    for row in range(0, 40, 2):
        model = small(kind, early_stopping=True, random_state=row)
        weight = np.zeros(40)
        weight[row] = 1.0
        with pytest.raises(
            ValueError, match=r"^expected a sample_weight above 0 among the"
        ) as told:
            model.fit(X, LABELS > 0, sample_weight=weight)
        said.add(str(told.value).rpartition("leaves to ")[2])
    assert said == {"hold out, got none", "train on, got none"}


def test_scores_are_scikit_learns():
    y, output, weight = X[:, :2], X[:, :2] + 0.1 * X[:, 1:], np.arange(40.0)
    for w in (None, weight):
        expected = sklearn.metrics.r2_score(y, output, sample_weight=w)
        np.testing.assert_allclose(r2(y, output, w), expected, rtol=1e-14)
        a, b = y > 0.0, output > 0.0
        expected = sklearn.metrics.accuracy_score(a, b, sample_weight=w)
        np.testing.assert_allclose(accuracy(a, b, w), expected, rtol=1e-14)
    flat = np.ones((3, 1))
    assert (r2(flat, flat), r2(flat, 2.0 * flat)) == (1.0, 0.0)


@pytest.mark.parametrize("page", ["index", "estimators"])
def test_the_program_of_the_page(tmp_path, thorough, page):
    """One digest on NumPy and torch, and after all steps it is the one that the page shows."""
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    thorough = thorough or page == "index"
    assert thorough or "max_iter=500" in program
    path = tmp_path / "program.py"
    path.write_text(program if thorough else program.replace("max_iter=500", "max_iter=20"))
    allowed = () if thorough else ("-W", "ignore:lbfgs failed to converge after 20 iteration")
    done = subprocess.run(
        [sys.executable, "-W", "error", *allowed, path], capture_output=True, text=True, check=True
    )
    _, first, _, second = done.stdout.split()
    assert first == second
    assert not thorough or program.endswith(f"  # {first}\n")


WIDE = RNG.normal(size=(12, 300)) / 16.0
ABOVE = WIDE[:, :3].sum(axis=1)


def wide(**parameters):
    """Make a regressor for fewer samples than features."""
    common = {
        "solver": "sgd",
        "hidden_layer_sizes": 8,
        "random_state": 1,
        "learning_rate_init": 0.1,
    }
    return MLPRegressor(**(common | {"tol": 0.0, "n_iter_no_change": 1000} | parameters))


@pytest.mark.parametrize("batch_size", ["auto", 5])
def test_the_dual_form_ends_where_the_primal_one_does(batch_size):
    # More than the 256 steps of a period.
    dual, primal = (
        wide(dual=dual, batch_size=batch_size, max_iter=300).fit(WIDE, ABOVE)
        for dual in (True, False)
    )
    for own, expected in zip(dual.coefs_, primal.coefs_, strict=True):
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(dual.loss_curve_, primal.loss_curve_, rtol=1e-10)
    assert dual.n_iter_ == primal.n_iter_ == len(dual.loss_curve_) == 300
    assert dual.digest_ != primal.digest_


def test_the_dual_form_is_taken_where_it_is_cheaper():
    digests = {wide(dual=dual).fit(WIDE, ABOVE).digest_ for dual in ("auto", True)}
    assert len(digests) == 1
    for other in ({"solver": "adam"}, {"early_stopping": True}, {"numerics": "exact"}):
        model, primal = (
            wide(max_iter=2, dual=dual, **other).fit(WIDE, ABOVE) for dual in ("auto", False)
        )
        assert model.digest_ == primal.digest_


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_dual_form_has_one_digest_on_every_library(library):
    model = wide(dual=True, numerics="exact", max_iter=3).fit(WIDE, ABOVE)
    other = clone(model).set_params(backend=library).fit(WIDE, ABOVE)
    assert other.digest_ == model.digest_
    assert other.digest_ != clone(model).set_params(dual=False).fit(WIDE, ABOVE).digest_


def test_the_dual_form_stops_where_the_primal_one_does():
    for max_iter in (200, 600):
        dual, primal = (
            wide(dual=dual, tol=1e-3, n_iter_no_change=3, max_iter=max_iter).fit(WIDE, ABOVE)
            for dual in (True, False)
        )
        assert dual.n_iter_ == primal.n_iter_ < max_iter
        np.testing.assert_allclose(dual.coefs_[0], primal.coefs_[0], rtol=0, atol=1e-12)


def test_ctrl_c_in_the_dual_form_keeps_the_whole_periods(monkeypatch):
    whole = wide(dual=True, max_iter=256).fit(WIDE, ABOVE)
    model = wide(dual=True, max_iter=600)
    compare = MLPRegressor._compare

    def interrupted(self, *arguments, **settings):
        compare(self, *arguments, **settings)
        if self.n_iter_ == 300:
            raise KeyboardInterrupt

    monkeypatch.setattr(MLPRegressor, "_compare", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(WIDE, ABOVE)
    assert model.digest_ == whole.digest_
    assert (model.n_iter_, len(model.loss_curve_), model.t_) == (256, 256, 256 * 12)


@pytest.mark.parametrize(
    "parameters",
    [{"solver": "adam"}, {"solver": "lbfgs"}, {"early_stopping": True}],
    ids=lambda parameters: next(iter(parameters.values())),
)
def test_the_dual_form_is_refused_where_it_cannot_be(parameters):
    expected = "expected solver='sgd', learning_rate='constant' and early_stopping=False for dual"
    with pytest.raises(ValueError, match=expected):
        wide(dual=True, **parameters).fit(WIDE, ABOVE)
