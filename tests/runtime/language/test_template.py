"""Chat templates: what published ones need, and what hostile ones get."""
from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest

from edgeq_runtime import BundleError, InputError
from edgeq_runtime.language import template
from edgeq_runtime.language.template import ChatTemplate, checked_messages, named_template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
HI = [{"role": "user", "content": "Hi"}]
# Each with a form that published templates use, and by it what transformers gives for HI (test_as_transformers).
FORMS = {
    "tokens": ("{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m.content | trim }}{{ eos_token }}"
               "{% endfor %}", "<s>[user] Hi</s>"),
    "blocks": ("{%- if messages %}\n    {% for m in messages %}\n{{ m.content }}\n    {% endfor %}\n{% endif %}\nend",
               "Hi\nend"),
    "prompt": ("{% if add_generation_prompt %}<|assistant|>{% endif %}", "<|assistant|>"),
    "json": ("{{ {'b': 'é<', 'a': [1]} | tojson }}|{{ [1, 2] | tojson(indent=1) }}",
             '{"b": "é<", "a": [1]}|[\n 1,\n 2\n]'),
    "break": ("{% for k in range(9) %}{% if k == 2 %}{% break %}{% endif %}{{ k }}{% endfor %}", "01"),
    "space": ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
              "1"),
    "macro": ("{% macro f(x) %}<{{ x ~ '!' ~ x }}>{% endmacro %}{{ f('a') + f('b') }}", "<a!a><b!b>"),
    "trained": ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", "Hi"),
    "methods": ("{{ messages[0].content.split('i')[0] }}{{ 'a,b'.replace(',', ';') }}{{ 'x'.upper() }}", "Ha;bX"),
    "filters": ("{{ messages | map(attribute='role') | join(',') }}{{ {'k': 1} | items | list }}", "user[('k', 1)]"),
    "absent": ("{% if tools %}t{% else %}n{% endif %}{{ missing is defined }}", "nFalse"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    source, expected = FORMS[name]
    assert ChatTemplate(source, SPECIAL)(HI) == expected


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMS)
def test_as_transformers(name: str) -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils", reason="installed by `make test-full`")
    found, _ = utilities.render_jinja_template([HI], chat_template=FORMS[name][0], add_generation_prompt=True,
                                               **SPECIAL)
    assert found == [FORMS[name][1]]


def test_today_and_refusals_are_the_templates_own() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}", {})(HI) == str(datetime.now().year)
    with pytest.raises(InputError, match="roles must alternate; a plain prompt goes without it"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}", {})(HI)


DEEP = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "attribute": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "function": ("{{ raise_exception.__globals__.json }}", "unsafe"),
    "format": ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
    "of a filter": ("{{ messages | map(attribute='__class__.__mro__') | list }}", "unsafe"),
    "changes": ("{{ messages.clear() }}", "unsafe"),
    "loops": (DEEP, "turn more than 50000 times"),
    "macros": ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
               "turn more than 50000 times"),
    "endless": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "range": ("{% for a in range(999999999) %}{% endfor %}", "number 999999999"),
    "power": ("{{ 9 ** 99999999 }}", "number 99999999"),
    "times": ("{{ 'x' * 999999999 }}", "number 999999999"),
    "percent": ("{{ '%999999999d' % 1 }}", "formats with %"),
    "width": ("{{ 'x'.center(999999999) }}", "number 999999999"),
    "filter width": ("{{ 'x' | center(999999999) }}", "number 999999999"),
    "sum": ("{% set ns = namespace(x='xxxxxxxx') %}{% for k in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "more than 16777216 characters"),
    "joined": ("{% set ns = namespace(x='xxxxxxxx') %}{% for k in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
               "more than 16777216 characters"),
    "captured": ("{% set ns = namespace(x='xxxxxxxx') %}{% for k in range(60) %}"
                 "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
                 "more than 16777216 characters"),
    "replace": ("{% set ns = namespace(x='xxxxxxxx') %}{% for k in range(60) %}"
                "{% set ns.x = ns.x | replace('x', 'xxxxxx') %}{% endfor %}", "more than 16777216 characters"),
    "long argument": ("{% set ns = namespace(x='xxxxxxxx') %}{% for k in range(14) %}{% set ns.x = ns.x + ns.x %}"
                      "{% endfor %}{{ ns.x.replace('x', ns.x) }}", "repeats a text of 131072 characters"),
    "output": ("{% for k in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "more than 16777216 characters"),
    "file": ("{% include 'x' %}", "no loader"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    source, message = HOSTILE[name]
    start = time.perf_counter()
    with pytest.raises(InputError, match=message):
        ChatTemplate(source, {})(HI)
    assert time.perf_counter() - start < 5


def test_without_the_limits_it_would_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the test above is about the limits: five times as many turns are just slow, and pass."""
    monkeypatch.setattr(template._Budget, "turn", lambda self: "")
    assert ChatTemplate(DEEP.replace("9999", "500"), {})(HI) == ""


def test_a_failed_one_is_used_again() -> None:
    made = ChatTemplate("{% for m in messages %}{{ m.role[0] }}{% endfor %}", {})
    assert [made(HI * 3), made(HI * 2)] == ["uuu", "uu"]
    with pytest.raises(InputError, match="turn more than"):
        made(HI * 60_000)
    assert made(HI) == "u"


@pytest.mark.parametrize(("source", "message"), [
    ("{% for %}", "the chat template is none"), ("{{ x | no_such }}", "No filter named"),
    ("x" * (template.MAX_TEMPLATE + 1), "262145 characters; 262144 are the most")], ids=["syntax", "filter", "long"])
def test_no_templates(source: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        ChatTemplate(source, {})


def test_named_ones() -> None:
    both = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert named_template(both) == ("d", ("tool_use", "default"))
    assert named_template("x") == ("x", ())
    assert named_template(None) == ("", ())
    for broken in (3, [1], [{"name": "default"}]):
        with pytest.raises(BundleError, match="must be a text, or a list of names and templates"):
            named_template(broken)


def test_messages() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert checked_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize(("messages", "message"), [
    ([], "at least one"), ({}, "at least one"), ("Hi", "at least one"), ([3], "message 0 must be"),
    ([{"content": "x"}], "message 0 must be"), ([*HI, {"role": "user"}], "of message 1 must be text, got NoneType"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "images, sound and calls of tools are"),
    ([{"role": 1, "content": "x"}], "message 0 must be"),
], ids=lambda value: json.dumps(value) if isinstance(value, list) else "")
def test_refused_messages(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_messages(messages)
