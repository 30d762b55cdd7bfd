"""The ONNX project's own node tests: every twelfth or so on each target, and all of them in `make test-full`."""
from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PART: Final = 12

# What every target refuses, and a piece of the reason.
NOWHERE: Final = {
    "test_bernoulli_double": "other numbers in every run",
    "test_cast_FLOAT16_to_INT2": "a type that ONNX has since opset 23 only",
    "test_cast_FLOAT_to_INT2": "a type that ONNX has since opset 23 only",
    "test_cast_e8m0_FLOAT_to_FLOAT8E8M0": "a type that ONNX has since opset 23 only",
    "test_identity_sequence": "a sequence or an optional",
    "test_scan_sum": "the batch axis of Scan was removed in opset 9",
    "test_sequence_map_identity_1_sequence_1_tensor": "a sequence or an optional",
    "test_string_concat_broadcasting": "holds text",
    "test_string_split_basic": "holds text",
}
# What a target refuses besides.
_BY_DATA: Final = {
    "test_melweightmatrix": "onnx does not infer it",  # its size is an input
    "test_range_bfloat16_type_positive_delta": "onnx does not infer it",
}
_NO_OPERATOR: Final = {
    "test_ai_onnx_ml_tree_ensemble_set_membership": "no such operator",
    "test_tfidfvectorizer_tf_onlybigrams_skip5": "no such operator",
}
REFUSED: Final[dict[str, dict[str, str]]] = {
    "onnxruntime": {"test_top_k_uint64": "could not find an implementation for TopK"},
    "tflite": {
        **_BY_DATA, **_NO_OPERATOR,
        "test_top_k_uint64": "",
    },
    "coreml": {
        **_BY_DATA, **_NO_OPERATOR,
        "test_gridsample_volumetric_nearest_align_corners_0": "mode nearest over rank 5",
        "test_reduce_log_sum_empty_set": "Core ML has none",
        "test_top_k_uint64": "",
        "test_triu_zero": "Core ML has none",
    },
}
# The whole of the 1404: at least so many right, none wrong.
LEAST: Final = {"onnxruntime": 1308, "tflite": 1252, "coreml": 1216}


def measured(target: str, folder: Path, *options: str) -> list[dict[str, Any]]:
    """The benchmark, in a process of its own: it forks one for every case."""
    path = folder / "outcomes.json"
    command = [sys.executable, ROOT / "benchmarks/coverage.py", "--target", target, "--json", path, *options]
    done = subprocess.run(command,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(path.read_text())[target]
    return outcomes


@pytest.mark.parametrize("target", REFUSED)
def test_a_part(target: str, tmp_path: Path) -> None:
    outcomes = {outcome["case"]: outcome for outcome in measured(target, tmp_path, "--part", str(PART))}
    assert len(outcomes) > 100
    expected = {**NOWHERE, **REFUSED[target]}
    silent = {name: o["reason"] for name, o in outcomes.items() if o["status"] not in ("match", "refused")}
    assert silent == {}
    refused = {name: o["reason"] for name, o in outcomes.items() if o["status"] == "refused"}
    assert set(refused) == set(expected), "a case that works now loses its row"
    assert [name for name, reason in expected.items() if reason.lower() not in refused[name].lower()] == []


@pytest.mark.full
@pytest.mark.parametrize("target", LEAST)
def test_all(target: str, tmp_path: Path) -> None:
    outcomes = measured(target, tmp_path)
    assert len(outcomes) == 1404
    counts = Counter(outcome["status"] for outcome in outcomes)
    assert counts["match"] >= LEAST[target], counts
    assert [o["case"] for o in outcomes if o["status"] not in ("match", "refused")] == []
