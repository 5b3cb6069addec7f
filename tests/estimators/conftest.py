"""scikit-learn dispatches on arrays of any library if SciPy was told to before its import."""

import os

os.environ["SCIPY_ARRAY_API"] = "1"
