"""JSON as RFC 8259 has it, for files and for `--json`: any language's parser reads it. Standard library only."""
from __future__ import annotations

import json
import math
from typing import Any


def json_text(data: Any) -> str:
    """Plain data as indented JSON. NaN and infinities become null, as JSON.stringify of JavaScript writes them."""
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data
