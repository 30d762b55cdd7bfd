"""Every family against transformers, whose code shares nothing with ours: a prefill and eight single steps."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from frontends.decoder.families import FAMILIES
from numpy.typing import NDArray

from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint

pytestmark = pytest.mark.full
RELATIVE = 1e-4  # of the largest logit


def made(name: str, folder: Path) -> Any:
    """A model of random weights, saved as its users save theirs."""
    transformers = pytest.importorskip("transformers", reason="installed by `make test-full`")
    words = dict(FAMILIES[name])
    config = transformers.AutoConfig.for_model(words.pop("model_type"), **words)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            is_norm = weight.ndim == 1 and "norm" in key and "gemma" not in name
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.2) + float(is_norm))
    model.save_pretrained(folder)
    return model


def stepped(session: Any, checkpoint: Checkpoint, tokens: NDArray[np.int64], first: int) -> NDArray[Any]:
    """Logits of a prefill of `first` tokens and of single steps behind it."""
    spec = checkpoint.spec
    past = {value.name: np.zeros((len(tokens), spec.kv_heads, 0, spec.head_size), np.float32)
            for value in session.get_inputs()[1:]}
    found = []
    for part in np.split(tokens, range(first, tokens.shape[1]), axis=1):
        logits, *present = session.run(None, {"input_ids": part, **past})
        found.append(logits)
        past = dict(zip(past, present, strict=True))
    return np.concatenate(found, axis=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "length"), [*((name, 12) for name in FAMILIES), ("phi4-longrope", 40)],
                         ids=lambda value: str(value))
def test_logits(name: str, length: int, tmp_path: Path) -> None:
    model = made(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    context = 32 if "longrope" in name and length <= 32 else None  # within its trained context
    ir.save(checkpoint.float_graph(context=context), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    tokens = np.random.default_rng(0).integers(3, 101, (2, length))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    got = stepped(session, checkpoint, tokens, length - 8)
    np.testing.assert_allclose(got, expected, rtol=0, atol=RELATIVE * np.abs(expected).max())
