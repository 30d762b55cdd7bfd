"""ONNX Runtime GenAI on the very folder that the runtime's decoder runs: the same logits, token by token."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from converters.test_onnxruntime_decoder import TOKENS, checkpoint, opened, stored

from edgeq.backend import DecoderWords

pytestmark = pytest.mark.full
# In an environment of its own: its releases and onnxruntime's do not keep step.
PACKAGES = ("onnxruntime-genai==0.18.0", f"onnxruntime=={onnxruntime.__version__}", "numpy")
STEPS = 8
SCRIPT = f"""
import json, sys
import numpy as np
import onnxruntime_genai as genai
model = genai.Model(sys.argv[1])
parameters = genai.GeneratorParams(model)
parameters.set_search_options(max_length=64, do_sample=False)
generator = genai.Generator(model, parameters)
generator.append_tokens(np.asarray(json.loads(sys.argv[2]), np.int32))
steps = []
for _ in range({STEPS}):
    logits = generator.get_logits()[0, -1].tolist()
    generator.generate_next_token()
    steps.append((int(generator.get_next_tokens()[0]), logits))
print(json.dumps(steps))
"""


@pytest.fixture(scope="module")
def genai(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with GenAI, kept for the next time."""
    folder = Path(request.config.cache.mkdir("genai-" + "-".join(PACKAGES).replace("=", "")))  # type: ignore[union-attr]
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        made = subprocess.run([python, "-m", "pip", "-q", "install", *PACKAGES], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"onnxruntime-genai cannot be installed here: {made.stderr[-300:]}")
        (folder / "ready").touch()
    return python


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt2"])
def test_genai_runs_the_folder(name: str, genai: Path, tmp_path: Path) -> None:
    source = checkpoint(name, **({"n_embd": 64, "n_head": 8} if name == "gpt2" else {}))
    decoder = opened(tmp_path, source, stored(source, DecoderWords(4)), exact=False)
    prompt = TOKENS[:12].tolist()
    done = subprocess.run([genai, "-c", SCRIPT, tmp_path, json.dumps(prompt)], capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    fed = prompt
    for token, logits in json.loads(done.stdout):
        ours = decoder.logits(fed)[-1]
        np.testing.assert_allclose(logits, ours, rtol=0, atol=1e-5 * np.abs(ours).max())
        assert token == ours.argmax()
        fed = [token]
