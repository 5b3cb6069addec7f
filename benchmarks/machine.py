"""What a measurement was made on: hardware, versions and threads."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
from typing import Any

import backends

__all__ = ["describe", "memory_bytes"]

# What the kernel, backends and peers import; the version counts where it was.
_MODULES = sorted(
    {each.module for each in backends.known()}
    | {"array_api_compat", "dpctl", "jaxlib", "keras", "onnxruntime", "pint", "sklearn", "thinc"}
)


def describe() -> dict[str, Any]:
    """Describe this machine, the libraries that were imported, and the threads they use."""
    import cpuinfo
    import psutil

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpuinfo.get_cpu_info().get("brand_raw") or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_bytes": memory_bytes(),
        "system": " ".join(
            filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))
        ),
        "versions": {"python": platform.python_version()} | _versions(),
        "threads": _threads(),
    }


def memory_bytes() -> int:
    """Count the bytes of the machine's memory."""
    import psutil

    total: int = psutil.virtual_memory().total
    return total


def _versions() -> dict[str, str]:
    found = importlib.metadata.packages_distributions()
    imported = (module for module in _MODULES if module in sys.modules)
    # An editable installation does not say which modules it has.
    names = ["array-api-kernels", *(name for module in imported for name in found.get(module, ()))]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
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
