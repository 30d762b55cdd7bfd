"""Where the tests find the real models: the folder named by EDGEQ_MODELS, or ../shared/models beside the checkout."""
from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[1]

MODELS = ("imagenet_squeezenet11", "cifar10_resnet20", "kws_dscnn_mlperf", "kwt1_transformer", "coco_fastestdet",
          "lm_stories260k", "g2pm_bilstm", "silero_vad_16k", "fsrcnn_x2", "basic_pitch")


@cache
def zoo() -> Any:
    """The Zoo of the models' own `tools/zoo.py` (paths, feeds, scores), or None on a machine without the models."""
    folder = Path(os.environ.get("EDGEQ_MODELS") or _ROOT.parent / "shared" / "models")
    script = folder.parent / "tools" / "zoo.py"
    if not (folder / "manifest.json").is_file() or not script.is_file():
        return None
    spec = importlib.util.spec_from_file_location("edgeq_zoo", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Zoo(folder)


needs_zoo = pytest.mark.skipif(zoo() is None, reason="the real models are not on this machine (set EDGEQ_MODELS)")
