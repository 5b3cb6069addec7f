"""Tests that cannot pass on a library, since it lacks something or does it differently.

Each is run and expected to fail, so that we notice when it passes.
"""

# By library: pairs of a regular expression for the names of tests, without the backend in their
# brackets, and the reason.
_EXP = "exp of float64 has float32's accuracy: https://github.com/ml-explore/mlx/issues/3047"
FAILURES: dict[str, tuple[tuple[str, str], ...]] = {
    "mlx": (
        (
            r"test_there_and_back\[.*bool\]",
            "bool is called bool_: https://github.com/data-apis/array-api-compat/issues/451",
        ),
        (r"test_cross_entropy_of_(labels|probabilities)\[float64-.*\]", _EXP),
        (r"test_cross_entropy_at_the_extremes\[float64-.*-(ties|a class excluded)\]", _EXP),
        (r"test_cross_entropy_by_hand\[float64\]", _EXP),
        (r"test_labels_of_any_integer_dtype\[float64-.*\]", _EXP),
        (r"test_a_sample_without_weight_counts_nothing\[float64\]", _EXP),
        (r"test_central_differences\[.*\]", _EXP),
        # The exponential of 0, alone in "one of everything", is right.
        (r"test_central_differences_at_the_edges\[(?!one of every).*-(labels|prob.*)\]", _EXP),
        (r"test_mistake\[init, like complex numbers\]", "there is no complex128"),
        (r"test_dtype_that_is_not_real_floating\[complex128\]", "there is no complex128"),
    ),
}
