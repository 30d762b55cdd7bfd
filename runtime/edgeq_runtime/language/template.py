"""A chat template of a checkpoint: messages -> the text that the model was trained on.

Templates are Jinja programs out of someone's file. They run in Jinja's sandbox, which keeps them from attributes, and
here with limits: how often loops and macros turn, and how long the texts get that they make. Words that templates
expect: https://huggingface.co/docs/transformers/chat_templating_writing
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from threading import Lock
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Sequence, Tuple

from edgeq_runtime.engines import missing
from edgeq_runtime.errors import BundleError, InputError

MAX_TEMPLATE = 1 << 18  # characters; the longest published ones have some 20,000
MAX_TURNS = 50_000  # of all loops and macros of one conversation
MAX_CHARACTERS = 1 << 24  # of all texts that one conversation's template makes on the way
MAX_NUMBER = 10_000  # of an argument: widths, counts, repetitions
MAX_ARGUMENT = 1 << 16  # characters of a text that a filter or method puts many times into another


class TemplateLimitError(Exception):
    """The template did more than a template has to."""


@dataclass
class _Budget:
    turns: int = MAX_TURNS
    characters: int = MAX_CHARACTERS

    def turn(self) -> str:
        self.turns -= 1
        if self.turns < 0:
            raise TemplateLimitError(f"its loops turn more than {MAX_TURNS} times")
        return ""

    def made(self, value: Any) -> Any:
        """Count a text or list that the template made."""
        if isinstance(value, (str, list, tuple, dict)):
            self.characters -= len(value)
            if self.characters < 0:
                raise TemplateLimitError(f"it makes more than {MAX_CHARACTERS} characters")
        return value

    def arguments(self, values: Sequence[Any], *, repeated: bool) -> None:
        """repeated: a text among them may be put many times into another."""
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise TemplateLimitError(f"it uses the number {value}; {MAX_NUMBER} is the most")
            if repeated and isinstance(value, str) and len(value) > MAX_ARGUMENT:
                raise TemplateLimitError(f"it repeats a text of {len(value)} characters; {MAX_ARGUMENT} are the most")


class ChatTemplate:
    """A compiled template. Safe to use from several threads."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        """special: bos_token, eos_token ... as texts.

        Raises:
            BundleError: it is too long or no template. EngineError: jinja2 is not installed.
        """
        try:
            import jinja2
        except ImportError:
            raise missing("jinja2", "pip install 'edgeq-runtime[language]'") from None
        if len(source) > MAX_TEMPLATE:
            raise BundleError(f"the chat template has {len(source)} characters; {MAX_TEMPLATE} are the most")
        self._special, self._lock = dict(special), Lock()
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise BundleError(f"the chat template is none: {error}") from None

    def __call__(self, messages: List[Dict[str, Any]], **words: Any) -> str:
        """messages: {"role": ..., "content": ...}. words: more for the template.

        Raises:
            InputError: the template refuses the messages, fails, reaches for what it must not, or does too much.
        """
        with self._lock:
            self._environment.budget = _Budget()
            try:
                return str(self._template.render(**{
                    "messages": messages, "add_generation_prompt": True, "tools": None, "documents": None,
                    **self._special, **words}))
            except Exception as error:  # what a template can raise is not limited to Jinja's own classes
                reason = str(error) or type(error).__name__
                raise InputError(f"the chat template of this bundle failed: {reason}; "
                                 "a plain prompt goes without it") from None


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks what a model is trained on: its content, here."""

        tags = {"generation"}  # noqa: RUF012  # jinja2's own form

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Environment(ImmutableSandboxedEnvironment):
        budget = _Budget()
        intercepted_binops = frozenset({"*", "**", "+", "%"})

        def turn(self) -> str:
            return self.budget.turn()

        def made(self, value: Any) -> Any:
            return self.budget.made(value)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator in ("*", "**"):
                self.budget.arguments((left, right), repeated=True)
            elif operator == "%" and isinstance(left, str):
                raise TemplateLimitError("it formats with %")
            return self.budget.made(super().call_binop(context, operator, left, right))

        def call(self, context: Any, function: Any, *given: Any, **named: Any) -> Any:
            if function in (self.turn, self.made):
                return function(*given)
            of_text = isinstance(getattr(function, "__self__", None), str)
            self.budget.arguments((*given, *named.values()), repeated=of_text)
            return self.budget.made(super().call(context, function, *given, **named))

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            template = _limited(super()._parse(source, name, filename), nodes)
            return template.set_environment(self).set_lineno(1)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    environment.finalize = environment.made
    environment.filters.update({name: _filter(environment, function, repeated=name in _REPEATING)
                                for name, function in environment.filters.items()})
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise, strftime_now=_now)
    return environment


def _limited(template: Any, nodes: Any) -> Any:
    """Every loop and macro counts its turns, every `~` what it makes."""
    def call(name: str, *arguments: Any) -> Any:
        return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)

    for kind in (nodes.For, nodes.Macro, nodes.CallBlock):
        for node in template.find_all(kind):
            node.body.insert(0, nodes.ExprStmt(call("turn"), lineno=node.lineno))
    for parent in [template, *template.find_all(nodes.Node)]:
        for field, value in parent.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(parent, field, call("made", value))
            elif isinstance(value, list):
                value[:] = [call("made", one) if isinstance(one, nodes.Concat) else one for one in value]
    return template


_REPEATING = frozenset({"replace", "join", "indent", "format"})  # filters that put a text into another many times


def _filter(environment: Any, function: Callable[..., Any], *, repeated: bool) -> Callable[..., Any]:
    """The same filter with its arguments and its result counted."""
    from functools import wraps

    passed = getattr(function, "jinja_pass_arg", None)

    @wraps(function)  # and with it what Jinja passes first
    def limited(*given: Any, **named: Any) -> Any:
        environment.budget.arguments((*given[2 if passed is not None else 1:], *named.values()), repeated=repeated)
        return environment.made(function(*given, **named))

    return limited


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
            sort_keys: bool = False) -> str:
    """As transformers has it: nothing is escaped for HTML, and letters stay letters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def checked_messages(messages: Any) -> List[Dict[str, Any]]:
    """A conversation in OpenAI's form -> the same with plain texts as contents.

    Raises:
        InputError: no list, empty, or a message without a role or a text.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError("messages are a list of at least one {'role': ..., 'content': ...}")
    return [_message(message, number) for number, message in enumerate(messages)]


def _message(message: Any, number: int) -> Dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError(f"message {number} must be {{'role': ..., 'content': ...}}, got {str(message)[:80]}")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text"
                                         and isinstance(part.get("text"), str) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InputError(f"the content of message {number} must be text, got {type(content).__name__}: images, sound "
                         "and calls of tools are not read")
    return {**message, "content": content}


def named_template(found: Any) -> Tuple[str, Sequence[str]]:
    """`chat_template` of tokenizer_config.json, a text or a list of named ones -> the default one, and all names.

    Raises:
        BundleError: it is neither.
    """
    if found is None or isinstance(found, str):
        return found or "", ()
    if isinstance(found, list) and all(isinstance(one, dict) and isinstance(one.get("name"), str)
                                       and isinstance(one.get("template"), str) for one in found):
        by_name = {one["name"]: one["template"] for one in found}
        return by_name.get("default", ""), tuple(by_name)
    raise BundleError("chat_template of tokenizer_config.json must be a text, or a list of names and templates")
