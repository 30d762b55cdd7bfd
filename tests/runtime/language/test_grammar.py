"""JSON by a schema: what comes out is judged by jsonschema, and what cannot be followed is refused."""
from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq_runtime import InputError, Model
from edgeq_runtime.language.grammar import Grammars

pytest.importorskip("llguidance", reason="part of edgeq[json]")
jsonschema = pytest.importorskip("jsonschema", reason="part of edgeq[decoder]")
PERSON: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "tags"],
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
                   "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}}}


def test_random_weights_write_valid_json(model: Model) -> None:
    """Each with another seed at a high temperature, so that hardly a token is what a schema would like."""
    for seed in range(12):
        result = model.generate("Hi", json_schema=PERSON, temperature=2.0, seed=seed, stream=False)
        assert result.finish_reason == "stop"
        jsonschema.validate(json.loads(result.text), PERSON)
    free = [model.generate("Hi", max_tokens=40, temperature=2.0, seed=seed, stream=False).text for seed in range(12)]
    assert not any(text.startswith("{") for text in free), "it would write JSON without a grammar"


def test_greedy_and_short(model: Model) -> None:
    text = json.dumps(PERSON)
    result = model.generate([{"role": "user", "content": "Hi"}], json_schema=text, stream=False)
    jsonschema.validate(json.loads(result.text), PERSON)
    cut = model.generate("Hi", json_schema=PERSON, max_tokens=3, stream=False)
    assert cut.finish_reason == "length"
    assert not cut.text.endswith("}")


@pytest.mark.parametrize(("schema", "message"), [
    ("{", "cannot be followed"), ("[]", "must be an object"), ({"type": "elephant"}, "elephant"),
    ({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}, "nowhere"), ({"pattern": 3}, "pattern"),
    ({"type": "string", "pattern": "("}, "cannot be followed"), ({1, 2}, "cannot be followed"),
    ("x" * (1 << 20 | 1), "1048576"), ({"type": "array", "uniqueItems": True}, "uniqueItems"),
], ids=lambda value: str(value)[:30])
def test_refused(schema: Any, message: str, model: Model) -> None:
    with pytest.raises(InputError, match=message):
        model.generate("Hi", json_schema=schema)


def test_the_end_is_allowed_when_the_text_is_complete(model: Model) -> None:
    tokenizer = model.language.tokenizer
    grammar = Grammars(tokenizer.path, 582, (2,)).of_schema({"type": "integer"})
    assert not grammar.allowed()[2]
    grammar.add(tokenizer.encode("7")[0])
    allowed = grammar.allowed()
    assert allowed[2]
    assert not allowed[tokenizer.encode("x")[0]]
