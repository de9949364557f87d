"""What a latency is of: a runtime, a device, threads, a batch and a precision. Read `runtimes.py` next."""

from dataclasses import dataclass
from typing import Final

from nas.errors import NasError, unknown

RUNTIMES: Final = ("onnxruntime", "torch")
DEVICES: Final = ("cpu", "cuda")
DTYPES: Final = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a network is run in.

    Raises: NasError for what does not exist.
    """

    runtime: str = "onnxruntime"
    """onnxruntime, with norms folded; or torch, timm's network as it is, channels_last."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """Of the CPU."""
    batch: int = 1
    """Images at a time."""
    dtype: str = "float32"
    """float32, float16 or bfloat16; onnxruntime runs float32."""

    def __post_init__(self) -> None:
        for field, known in (("runtime", RUNTIMES), ("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, field) not in known:
                raise unknown(field, getattr(self, field), known)
        for field in ("threads", "batch"):
            if getattr(self, field) < 1:
                raise NasError(f"{field}: {getattr(self, field)} is not 1 or more")
        if self.runtime == "onnxruntime" and self.dtype != "float32":
            raise NasError(f"dtype: {self.dtype} is not run in onnxruntime here; give float32, or --runtime torch")
