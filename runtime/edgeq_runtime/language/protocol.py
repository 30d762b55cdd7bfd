"""OpenAI's chat-completions protocol: what a request says, and the form of answers and errors.

https://platform.openai.com/docs/api-reference/chat and /completions
"""
from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional

from edgeq_runtime.errors import InputError

from .generation import Generation

_SAMPLING = ("temperature", "top_p", "min_p", "top_k", "repetition_penalty", "seed", "stop")
# What changes nothing in the text, and what the values are under which the rest changes nothing.
_IGNORED = frozenset({"model", "messages", "prompt", "stream", "stream_options", "user", "metadata", "store",
                      "service_tier", "safety_identifier", "prompt_cache_key", "max_tokens", "max_completion_tokens",
                      "response_format", *_SAMPLING})
_NEUTRAL: Dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "echo": (False,), "logprobs": (False, 0), "top_logprobs": (0,), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False), "suffix": ("",),
    "modalities": (["text"],), "verbosity": ("medium",),
}


class ProtocolError(InputError):
    """A request that is refused. status: of HTTP. parameter: what it is about."""

    def __init__(self, message: str, status: int = 400, parameter: Optional[str] = None,
                 code: Optional[str] = None) -> None:
        super().__init__(message)
        self.status, self.parameter, self.code = status, parameter, code

    def body(self) -> Dict[str, Any]:
        return error_body(str(self), self.status, self.parameter, self.code)


def error_body(message: str, status: int, parameter: Optional[str] = None, code: Optional[str] = None,
               ) -> Dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


@dataclass(frozen=True)
class Call:
    """prompt: text or messages. words: of `LanguageModel.generate`. usage: send the counts at the end of a stream."""

    prompt: Any
    words: Mapping[str, Any]
    stream: bool
    usage: bool
    chat: bool


def parsed(body: bytes, model: str, *, chat: bool) -> Call:
    """A request's body. model: the name that this server answers to.

    Raises:
        ProtocolError: no JSON object, another model, or a parameter that would change the text and is not known.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the body is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise ProtocolError("the body must be a JSON object")
    if said.get("model", model) != model:
        raise ProtocolError(f"there is no model {said['model']!r} here; this server has '{model}'", 404, "model",
                            "model_not_found")
    for name, value in said.items():
        if name not in _IGNORED and value is not None and value not in _NEUTRAL.get(name, ()):
            raise ProtocolError(f"'{name}' is not supported by this server", parameter=name)
    prompt = "messages" if chat else "prompt"
    if prompt not in said:
        raise ProtocolError(f"'{prompt}' is missing", parameter=prompt)
    if not isinstance(said[prompt], list if chat else str):
        raise ProtocolError(f"'{prompt}' must be {'a list' if chat else 'one text'}", parameter=prompt)
    return Call(said[prompt], _words(said), _flag(said, "stream"),
                _flag(_object(said, "stream_options"), "include_usage"), chat)


def _words(said: Mapping[str, Any]) -> Dict[str, Any]:
    words = {name: said[name] for name in _SAMPLING if said.get(name) is not None}
    most = said.get("max_completion_tokens") or said.get("max_tokens")
    if most is not None:
        words["max_tokens"] = most
    form = _object(said, "response_format")
    kind = form.get("type", "text")
    if kind == "json_schema":
        schema = _object(form, "json_schema").get("schema")
        if not isinstance(schema, dict):
            raise ProtocolError("response_format needs json_schema.schema, an object", parameter="response_format")
        words["json_schema"] = schema
    elif kind == "json_object":
        words["json_schema"] = {"type": "object"}
    elif kind != "text":
        raise ProtocolError(f"response_format has no type {kind!r}; there are text, json_object and json_schema",
                            parameter="response_format")
    return words


def _flag(said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name)
    if value is not None and not isinstance(value, bool):
        raise ProtocolError(f"'{name}' must be true or false", parameter=name)
    return bool(value)


def _object(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = said.get(name)
    if value is not None and not isinstance(value, dict):
        raise ProtocolError(f"'{name}' must be an object", parameter=name)
    return value or {}


class Answer:
    """The objects that answer one call."""

    def __init__(self, call: Call, model: str, number: str) -> None:
        """number: tells answers apart."""
        self._call = call
        kind = "chat.completion" if call.chat else "text_completion"
        self._id, self._kind = f"{'chatcmpl' if call.chat else 'cmpl'}-{number}", kind
        self._rest = {"created": int(time.time()), "model": model}

    def whole(self, result: Generation) -> Dict[str, Any]:
        text = ({"message": {"role": "assistant", "content": result.text, "refusal": None}} if self._call.chat
                else {"text": result.text})
        return {**self._made([{"index": 0, **text, "logprobs": None, "finish_reason": result.finish_reason}]),
                "usage": usage(result)}

    def first(self) -> List[Dict[str, Any]]:
        """A chat's stream begins with who speaks."""
        return [self._piece({"role": "assistant", "content": ""})] if self._call.chat else []

    def piece(self, text: str) -> Dict[str, Any]:
        return self._piece({"content": text} if self._call.chat else text)

    def last(self, result: Generation) -> List[Dict[str, Any]]:
        """The reason of the end, and the counts where they were asked for."""
        end = self._piece({} if self._call.chat else "", result.finish_reason)
        return [end, {**self._made([], ".chunk"), "usage": usage(result)}] if self._call.usage else [end]

    def _piece(self, content: Any, reason: Optional[str] = None) -> Dict[str, Any]:
        return self._made([{"index": 0, "delta" if self._call.chat else "text": content, "logprobs": None,
                            "finish_reason": reason}], ".chunk")

    def _made(self, choices: List[Dict[str, Any]], kind: str = "") -> Dict[str, Any]:
        suffix = kind if self._call.chat else ""
        return {"id": self._id, "object": self._kind + suffix, **self._rest, "choices": choices}


def usage(result: Generation) -> Dict[str, Any]:
    made = len(result.tokens)
    return {"prompt_tokens": result.prompt_tokens, "completion_tokens": made,
            "total_tokens": result.prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": result.cached_tokens}}


def model_list(model: str, created: int) -> Dict[str, Any]:
    return {"object": "list", "data": [model_entry(model, created)]}


def model_entry(model: str, created: int) -> Dict[str, Any]:
    return {"id": model, "object": "model", "created": created, "owned_by": "edgeq"}


