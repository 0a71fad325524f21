"""Device and precision arguments, checked before a model is read."""

from __future__ import annotations

import platform

import torch

from binderclip.errors import NotSupported, UsageError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def resolve_device(device: str | torch.device) -> torch.device:
    """The device, known to exist here.

    Raises:
        UsageError: not the name of a device.
        NotSupported: a device that this machine or this PyTorch does not have.
    """
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device {device!r} is unknown: 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    if resolved.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise NotSupported(
                f"device {str(device)!r}: PyTorch {torch.__version__} sees no CUDA device here; use 'cpu'"
            )
        if resolved.index is not None and resolved.index >= count:
            raise NotSupported(f"device {str(device)!r}: there are {count} CUDA devices, 0 to {count - 1}")
    elif resolved.type == "mps":
        if not torch.backends.mps.is_available():
            raise NotSupported("device 'mps' is not available here; use 'cpu'")
    elif resolved.type != "cpu":
        raise UsageError(f"device {str(device)!r} is not one of 'cpu', 'cuda', 'cuda:1', 'mps'")
    return resolved


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The precision of the towers.

    Raises:
        UsageError: not one of float32, bfloat16, float16, float64.
    """
    if isinstance(dtype, torch.dtype):
        if dtype in DTYPES.values():
            return dtype
    elif dtype in DTYPES:
        return DTYPES[dtype]
    raise UsageError(f"dtype {str(dtype)!r} is unknown: one of {', '.join(DTYPES)}")


def emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device has no instructions for a precision and computes it by way of float32, which takes longer.

    Known of bfloat16 on x86 processors, where AVX512-BF16 or AMX is what it takes; False for all else.
    """
    if dtype != torch.bfloat16 or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    tests = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return all(test is not None and not test() for test in tests)


SLOW_HERE = "this processor has no instructions for it (AVX512-BF16 or AMX) and is about half as fast as in float32"
"""What is said of a precision that is `emulated`."""
