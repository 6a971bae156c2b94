"""The NVIDIA driver, asked through libcuda itself: torch's answer to every fault is the same, "no CUDA"."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

OLDEST_CUDA = (12, 0)
"""The driver's own CUDA version must be of this major one: minor versions are compatible with each other, and 12.0 came
with driver 525.60.13 (CUDA Compatibility, table 1)."""

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR
_RESULTS = {
    3: "the driver is being unloaded",
    100: "the driver sees no GPU",
    101: "the driver does not know this GPU",
    803: "the driver's library and its kernel module are of different versions",
    804: "this GPU does not allow the forward compatibility package that was loaded",
    999: "an unknown error",
}


class Fault(Enum):
    """Why a GPU cannot be used, as far as the driver knows."""

    NO_DRIVER = "no driver"
    NOT_PASSED = "not passed into the container"
    TOO_OLD = "driver too old"
    NO_DEVICE = "no device"
    FAILED = "driver failed"


@dataclass(frozen=True)
class Driver:
    """What the driver says.

    Attributes:
        fault: None where there is a GPU to use.
        detail: a sentence on the fault and what to do about it; empty without one.
        cuda: CUDA version that the driver was made for, (major, minor); None without a driver.
        name, capability: of the first GPU, for example "NVIDIA H100" and (9, 0); None where there is none.
    """

    fault: Fault | None
    detail: str = ""
    cuda: tuple[int, int] | None = None
    name: str | None = None
    capability: tuple[int, int] | None = None


def query(root: Path = Path("/"), library: str = "libcuda.so.1") -> Driver:
    """Return what the driver says of the first GPU.

    Args:
        root: where /proc, /dev and the marks of a container are looked for.
        library: the driver's library, as the dynamic loader finds it.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return _missing(root)
    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return Driver(Fault.FAILED, f"The driver's library {library} does not tell its version; install it anew.")
    version = (number.value // 1000, number.value % 1000 // 10)
    if version < OLDEST_CUDA:
        return Driver(
            Fault.TOO_OLD,
            f"The NVIDIA driver is too old: it is made for CUDA {version[0]}.{version[1]}. Install driver 525.60.13 or "
            "newer on the host (550.54.14 or newer for everything in CUDA 12.4), then start again.",
            version,
        )
    status = cuda.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status == 100 or (status == 0 and count.value == 0):
        return Driver(Fault.NO_DEVICE, _no_device(root), version)
    if status != 0:
        why = _RESULTS.get(status, "an error")
        return Driver(
            Fault.FAILED,
            f"The NVIDIA driver does not start: {why} (CUresult {status}). Run nvidia-smi on the host; after an update "
            "of the driver the host must be restarted.",
            version,
        )
    return Driver(None, "", version, *_first(cuda))


def _first(cuda: ctypes.CDLL) -> tuple[str, tuple[int, int]]:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return name.value.decode(errors="replace"), (major.value, minor.value)


def _missing(root: Path) -> Driver:
    """Tell a host without a driver from a container that was started without its GPU."""
    # A container sees the host's /proc/driver, but gets libcuda and the devices only with --gpus.
    if (root / "proc/driver/nvidia/version").exists():
        if _in_container(root):
            return Driver(
                Fault.NOT_PASSED,
                "The host has an NVIDIA driver, but this container was started without its GPU: add --gpus all to "
                "docker run, or the device reservation of docker-compose.ml.yml (the host needs the NVIDIA Container "
                "Toolkit).",
            )
        return Driver(
            Fault.NO_DRIVER,
            "The NVIDIA kernel module is loaded, but the driver's library libcuda.so.1 is not found: install the "
            "driver's libraries (Ubuntu: libnvidia-compute), or put their folder on LD_LIBRARY_PATH.",
        )
    where = "the host of this container" if _in_container(root) else "this machine"
    return Driver(
        Fault.NO_DRIVER,
        f"There is no NVIDIA driver on {where}: install driver 550.54.14 or newer (525.60.13 at the least) and start "
        "again, or set CUDA_CHECK=warn to serve on the CPU.",
    )


def _no_device(root: Path) -> str:
    if _in_container(root) and not list((root / "dev").glob("nvidia[0-9]*")):
        return (
            "The driver's library is in this container, but no GPU is: start it with --gpus all, or with the device "
            "reservation of docker-compose.ml.yml."
        )
    return "The NVIDIA driver sees no GPU: look at nvidia-smi, and at CUDA_VISIBLE_DEVICES, which may hide them all."


def _in_container(root: Path) -> bool:
    return any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv"))
