"""Device and precision arguments, checked before a model is read."""

from __future__ import annotations

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
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device {device!r} is unknown: 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise NotSupported(
                f"device {str(device)!r}: PyTorch {torch.__version__} sees no CUDA device here; use 'cpu'"
            )
        if found.index is not None and found.index >= count:
            raise NotSupported(f"device {str(device)!r}: there are {count} CUDA devices, 0 to {count - 1}")
    elif found.type == "mps":
        if not torch.backends.mps.is_available():
            raise NotSupported("device 'mps' is not available here; use 'cpu'")
    elif found.type != "cpu":
        raise UsageError(f"device {str(device)!r} is not one of 'cpu', 'cuda', 'cuda:1', 'mps'")
    return found


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
