"""The device that this process computes on: its name, precision and memory."""

import ctypes
from typing import Final

import torch

from nas.machine import has_amx_bfloat16, processor_name

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
M_TRIM_THRESHOLD: Final = -1  # from glibc's malloc.h
M_MMAP_THRESHOLD: Final = -3


def pick_device() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The device's model name, as in the results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu: {processor_name()}, {torch.get_num_threads()} thread(s)"


def pick_precision(precision: str, device: torch.device) -> str:
    """The precision to compute in: `precision` itself, or for `auto` the fastest for the device.

    A GPU is fast at bfloat16 from compute capability 8.0 on, at float16 before. A CPU is fast at bfloat16 only with AMX tiles:
    with AVX512-BF16 alone, MobileNetV3-Small trained 2.2 times slower than in float32 (AMD EPYC, one thread, 32 and 128 px).
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if has_amx_bfloat16() else "float32"


def is_out_of_memory(error: BaseException) -> bool:
    """True if a GPU, the CPU or oneDNN ran out of memory; some of them raise a RuntimeError, known by its text."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error)
        for text in ("can't allocate memory", "bad_alloc", "could not create a primitive", "out of memory", "ALLOC_FAILED")
    )


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel; does nothing with another C library.

    glibc returns blocks above 32 MB, such as the feature maps of a batch, and the kernel zeroes them again at every step. That
    took a seventh of the training time of MobileNetV3-Small at 128 px.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and library.mallopt(M_MMAP_THRESHOLD, 2**30):  # an old glibc refuses it
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return freed memory to the kernel after a training: this process stays alive, and other processes need the memory."""
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
