"""What a measurement was made on: hardware, versions and threads."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

__all__ = ["describe", "memory_bytes"]

# The module that each distribution brings; its version counts where it was used.
_DISTRIBUTIONS = {
    "array-api-kernels": "kernels",
    "array-api-compat": "array_api_compat",
    "array-api-strict": "array_api_strict",
    "cupy": "cupy",
    "dask": "dask",
    "dpctl": "dpctl",
    "dpnp": "dpnp",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "keras": "keras",
    "marray": "marray",
    "ndonnx": "ndonnx",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "paddlepaddle": "paddle",
    "pint": "pint",
    "quantity-array": "quantity_array",
    "scikit-learn": "sklearn",
    "tensorflow": "tensorflow",
    "thinc": "thinc",
    "torch": "torch",
}


def describe() -> dict[str, Any]:
    """Describe this machine, the libraries that were imported, and the threads they use."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "system": " ".join(
            filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))
        ),
        "versions": {"python": platform.python_version()} | _versions(),
        "threads": _threads(),
    }


def memory_bytes() -> int | None:
    """Count the bytes of the machine's memory, or return None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for distribution, module in _DISTRIBUTIONS.items():
        if module in sys.modules:
            try:
                versions[distribution] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                # Some come under other names, such as cupy-cuda12x.
                versions[distribution] = getattr(sys.modules[module], "__version__", "unknown")
    return versions


def _threads() -> dict[str, int]:
    """Count the threads of every pool that says: BLAS, OpenMP, torch."""
    import threadpoolctl

    threads = {
        " ".join(filter(None, (pool["internal_api"], pool["version"]))): pool["num_threads"]
        for pool in threadpoolctl.threadpool_info()
    }
    if "torch" in sys.modules:
        threads["torch"] = sys.modules["torch"].get_num_threads()
    return threads
