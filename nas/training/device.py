"""What this process computes on: the device, its precision and its memory."""

import ctypes
from typing import Final

import torch

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
M_TRIM_THRESHOLD: Final = -1  # as glibc's malloc.h has them
M_MMAP_THRESHOLD: Final = -3


def pick_device() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The device's model, as results report it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu: {torch.cpu.get_capabilities().get('cpu_name', 'unknown')}, {torch.get_num_threads()} thread(s)"


def pick_precision(wanted: str, device: torch.device) -> str:
    """The precision to compute in: `wanted`, or for `auto` what the device is fast at.

    A GPU is fast at bfloat16 from compute capability 8.0 on, at float16 before. A CPU is fast at bfloat16 only with AMX tiles:
    with AVX512-BF16 alone, MobileNetV3-Small trained 2.2 times slower than in float32 (AMD EPYC, one thread, 32 and 128 px).
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16", False) else "float32"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's allocator, the CPU's, or oneDNN, which says so in its own way, had no more memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error)
        for sign in ("can't allocate memory", "bad_alloc", "could not create a primitive", "out of memory", "ALLOC_FAILED")
    )


def keep_freed_memory() -> None:
    """Have the C library keep freed memory, instead of giving it back to the kernel and asking for it anew at every step.

    It gives back blocks beyond 32 MB, which the maps of one batch are; to have the kernel zero them again and again cost a
    seventh of the time of training MobileNetV3-Small at 128 px. Does nothing where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and library.mallopt(M_MMAP_THRESHOLD, 2**30):  # an older glibc refuses, and adjusts itself
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Give back what was kept, once a network is trained: the process goes on to another, and others share the memory."""
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
