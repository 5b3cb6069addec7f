"""dpnp: NumPy's functions on SYCL, by Intel, here on CPUs.

Its arrays wrap those of `dpnp.tensor`, which was `dpctl.tensor` before dpctl 0.22
(https://github.com/IntelPython/dpnp/pull/2856).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from kernels import Array

from ._backend import Backend, BackendUnavailable, no_devices


def get(device: str | None) -> Backend:
    no_devices("dpnp", device)
    # pip installs an OpenCL driver for CPUs where nothing looks for it.
    driver = Path(sys.prefix) / "lib" / "libintelocl.so"
    if driver.exists():
        os.environ.setdefault("OCL_ICD_FILENAMES", str(driver))
    try:
        import dpnp as xp
        import numpy
        from dpctl import SyclDeviceCreationError
    except ImportError as error:
        reason = "not installed" if error.name == "dpnp" else f"not importable ({error})"
        raise BackendUnavailable(
            f'dpnp is {reason}: pip install "array-api-kernels[dpnp]"'
        ) from None
    try:
        place = xp.empty(0, device="cpu").device
    except SyclDeviceCreationError:
        raise BackendUnavailable(
            f"dpnp {xp.__version__} is installed but finds no CPU with an OpenCL driver."
        ) from None

    def asarray(host: Any, dtype: str | None = None) -> Array:
        a: Array = xp.asarray(numpy.asarray(host, dtype=dtype), device=place)
        return a

    return Backend(
        name="dpnp",
        version=xp.__version__,
        xp=xp,
        device=place,
        devices=(f"cpu {place.sycl_device.name}",),
        asarray=asarray,
        to_numpy=xp.asnumpy,
        synchronize=lambda *_: place.wait(),
        compile=lambda function: function,
        slow=True,
    )
