"""What is written as JSON: strict JSON, that any program can read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

__all__ = ["json_text", "plain"]


def plain(value: Any) -> Any:
    """The same document out of JSON's own kinds: paths as texts, arrays as lists, NaN as null, infinities as "inf"."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def json_text(document: Any) -> str:
    """The document as indented, strict JSON, without a line end."""
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
