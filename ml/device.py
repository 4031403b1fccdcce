"""The one choice of device and compute precision."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import sys
import time
from collections.abc import Iterator
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
_log = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the kernel at every step.

    Training on a CPU frees and takes gigabytes a second in blocks of tens of megabytes; without
    this each comes back as page faults (5 to 10 % of a step, most of it on a busy machine).
    Elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one core inside; operations as small as a probe's only wait for more.

    On a busy machine the threads of a small operation spin for each other: training beat probes
    took ten times the CPU time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(name: str = "auto") -> torch.device:
    """Choose the device to compute on: ``auto`` is the first GPU if there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(
    device: torch.device, precision: Precision
) -> contextlib.AbstractContextManager[object]:
    """Autocast to ``precision``; fp32 where bf16 would be emulated (CPUs without AVX512-bf16)."""
    if precision == "fp32":
        return contextlib.nullcontext()
    if device.type == "cpu" and not has_native_bf16():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@functools.cache
def has_native_bf16() -> bool:
    """Tell whether the CPU computes in bf16; say it once where it does not."""
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return True
    _log.info("this CPU has no native bf16: computing in fp32")
    return False


def measure_matmul_rate(device: torch.device, *, seconds: float = 0.3) -> float:
    """Measure the floating-point operations per second of large bf16 matrix products.

    What training can at best reach there; the share of it that a run reaches is comparable between
    devices, steps per second are not.

    Args:
        device: where to compute.
        seconds: about how long to time.
    """
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def products(n: int) -> float:
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(n):
            torch.mm(a, b, out=out)
        _synchronize(device)
        return time.perf_counter() - started

    products(3)
    n = max(3, round(3 * seconds / max(products(3), 1e-6)))
    return n * 2 * size**3 / products(n)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
