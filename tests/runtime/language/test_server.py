"""OpenAI's protocol over real sockets, with the standard library's client and with the package openai."""
from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_bundles import ScriptedDecoder
from numpy.typing import NDArray

from edgeq_runtime import InputError, Manifest, Model
from edgeq_runtime.language.cache import TokenCache
from edgeq_runtime.language.model import LanguageModel
from edgeq_runtime.language.server import MAX_BODY, MAX_CONNECTIONS, Server

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"], "additionalProperties": False}


def started(model: LanguageModel) -> Server:
    server = Server(("127.0.0.1", 0), model, "tiny")
    threading.Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
    return server


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[Server]:
    opened = started(model.language)
    yield opened
    opened.shutdown()
    opened.server_close()


@pytest.fixture
def slow(language_bundle: Path) -> Iterator[tuple[Server, ScriptedDecoder]]:
    """A server whose model takes 20 ms a token and never ends by itself."""
    language = Manifest.read(language_bundle).language
    assert language is not None

    def function(text: Sequence[int]) -> NDArray[Any]:
        time.sleep(.02)
        return np.eye(language.vocabulary)[70 + len(text) % 9]

    decoder = ScriptedDecoder(function, language.vocabulary)
    opened = started(LanguageModel(str(language_bundle), language, TokenCache(decoder)))
    yield opened, decoder
    opened.shutdown()
    opened.server_close()


def ask(server: Server, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, Any]:
    """Status and body, as JSON where it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    connection.request(method or ("GET" if body is None else "POST"), path, data,
                       {"Content-Type": "application/json", **{key.replace("_", "-"): value
                                                               for key, value in headers.items()}})
    response = connection.getresponse()
    text = response.read()
    kind = response.getheader("Content-Type") or ""
    connection.close()
    return response.status, json.loads(text) if "json" in kind else text.decode()


def events(text: str) -> list[Any]:
    """The objects of a stream, which ends with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def chat(**words: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HI, "max_tokens": 8, **words}


def test_models(server: Server) -> None:
    status, found = ask(server, "/v1/models")
    assert (status, [one["id"] for one in found["data"]]) == (200, ["tiny"])
    assert ask(server, "/v1/models/tiny")[1]["object"] == "model"
    assert ask(server, "/health") == (200, {"status": "ok"})


def test_an_answer_is_what_generate_gives(server: Server, model: Model) -> None:
    expected = model.generate(HI, max_tokens=8, stream=False)
    status, found = ask(server, "/v1/chat/completions", chat())
    assert status == 200
    assert found["object"] == "chat.completion"
    assert found["choices"][0] == {"index": 0, "logprobs": None, "finish_reason": "length", "message": {
        "role": "assistant", "content": expected.text, "refusal": None}}
    assert found["usage"] == {"prompt_tokens": expected.prompt_tokens, "completion_tokens": 8,
                              "total_tokens": expected.prompt_tokens + 8,
                              "prompt_tokens_details": {"cached_tokens": expected.prompt_tokens - 1}}
    status, plain = ask(server, "/v1/completions", {"model": "tiny", "prompt": "Hi", "max_tokens": 5})
    assert plain["choices"][0]["text"] == model.generate("Hi", max_tokens=5, stream=False).text


def test_a_stream_is_the_same_text_in_pieces(server: Server, model: Model) -> None:
    whole = model.generate(HI, max_tokens=8, stream=False)
    status, text = ask(server, "/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}))
    first, *pieces, end, counts = events(text)
    assert status == 200
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == whole.text
    assert len(pieces) > 2
    assert end["choices"][0]["finish_reason"] == "length"
    assert (counts["choices"], counts["usage"]["completion_tokens"]) == ([], 8)
    assert len({event["id"] for event in (first, *pieces, end, counts)}) == 1
    _, text = ask(server, "/v1/completions", {"model": "tiny", "prompt": "Hi", "max_tokens": 5, "stream": True})
    assert "".join(event["choices"][0]["text"] for event in events(text)) == model.generate(
        "Hi", max_tokens=5, stream=False).text


def test_words(server: Server) -> None:
    def text(**words: Any) -> str:
        return str(ask(server, "/v1/chat/completions", chat(**words))[1]["choices"][0]["message"]["content"])

    assert text(temperature=2, seed=1) == text(temperature=2, seed=1) != text(temperature=2, seed=2)
    assert text(max_tokens=None, max_completion_tokens=3) == text(max_tokens=3)
    assert text(top_k=1, temperature=2, n=1, tools=[], frequency_penalty=0, user="me") == text()
    whole = text()
    assert text(stop=[whole[3:5]]) == whole[:whole.index(whole[3:5])]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    pytest.importorskip("llguidance", reason="part of edgeq[json]")
    assert set(json.loads(text(response_format=form, max_tokens=30))) == {"b"}


BAD = {
    "no JSON": (b"{", 400, None, "the body is not JSON"), "a list": ([], 400, None, "must be a JSON object"),
    "deep": (b"[" * 100_000, 400, None, "not JSON"),
    "model": (chat(model="gpt"), 404, "model", "no model 'gpt' here; this server has 'tiny'"),
    "no messages": ({"model": "tiny"}, 400, "messages", "'messages' is missing"),
    "empty": (chat(messages=[]), 400, None, "at least one"),
    "no list": (chat(messages="Hi"), 400, "messages", "must be a list"),
    "image": (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400, None, "images, sound"),
    "two": (chat(n=2), 400, "n", "'n' is not supported"), "tools": (chat(tools=[{}]), 400, "tools", "not supported"),
    "typo": (chat(temprature=1), 400, "temprature", "'temprature' is not supported"),
    "logprobs": (chat(logprobs=True), 400, "logprobs", "not supported"),
    "long": (chat(messages=[{"role": "user", "content": "word " * 300}]), 400, None, "the context holds 96"),
    "range": (chat(temperature=-1), 400, None, "temperature must be"),
    "room": (chat(max_tokens=900), 400, None, "room"),
    "stop": (chat(stop=[""]), 400, None, "none empty"), "stream": (chat(stream=1), 400, "stream", "true or false"),
    "form": (chat(response_format={"type": "xml"}), 400, "response_format", "no type 'xml'"),
    "form without": (chat(response_format={"type": "json_schema"}), 400, "response_format", "json_schema.schema"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str, server: Server) -> None:
    body, status, parameter, message = BAD[name]
    found = ask(server, "/v1/chat/completions", body)
    assert found[0] == status
    assert found[1]["error"]["type"] == "invalid_request_error"
    assert found[1]["error"]["param"] == parameter
    assert message in found[1]["error"]["message"]


@pytest.mark.parametrize(("path", "words", "status", "message"), [
    ("/v1/embeddings", {}, 404, "there is no /v1/embeddings"),
    ("/v1/chat/completions", {"Content_Type": "text/plain"}, 415, "must be application/json"),
    ("/v1/chat/completions", {"Content_Length": "many"}, 411, "Content-Length"),
    ("/v1/chat/completions", {"Content_Length": str(MAX_BODY + 1)}, 413, f"at most {MAX_BODY} bytes"),
    ("/v1/chat/completions", {"Host": "evil.example:80"}, 403, "this server is not 'evil.example'"),
    ("/v1/chat/completions", {"method": "PUT"}, 501, "PUT"),
], ids=str)
def test_refused_before_the_body(path: str, words: dict[str, str], status: int, message: str, server: Server) -> None:
    found = ask(server, path, chat(), **words)
    assert found[0] == status
    assert message in found[1]["error"]["message"]


def test_hosts_that_are_this_machine(server: Server) -> None:
    for host in ("localhost:80", "127.0.0.1", "[::1]:80"):
        assert ask(server, "/health", Host=host)[0] == 200


def test_no_template_leaves_plain_prompts(language_bundle: Path, model: Model) -> None:
    from dataclasses import replace

    assert model.manifest.language is not None
    plain = LanguageModel(str(language_bundle), replace(model.manifest.language, template=""), model.language._cache)
    opened = started(plain)
    status, found = ask(opened, "/v1/chat/completions", chat())
    assert (status, "has no chat template" in found["error"]["message"]) == (400, True)
    assert ask(opened, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})[0] == 200
    opened.shutdown()
    opened.server_close()


def test_two_clients_at_once(slow: tuple[Server, ScriptedDecoder]) -> None:
    found: dict[int, Any] = {}
    clients = [threading.Thread(target=lambda k=k: found.update({k: ask(slow[0], "/v1/completions", {
        "prompt": f"Hello {k}", "max_tokens": 5})})) for k in range(3)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    counts = {k: (status, body["usage"]["completion_tokens"]) for k, (status, body) in found.items()}
    assert counts == dict.fromkeys(range(3), (200, 5))


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_answered_further(stream: bool, slow: tuple[Server, ScriptedDecoder]) -> None:
    server, decoder = slow
    waiting = socket.create_connection(server.server_address[:2])
    gone = socket.create_connection(server.server_address[:2])
    body = json.dumps({"prompt": "Hello", "max_tokens": 80, "stream": stream}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d"
    for client in (gone, waiting):
        client.sendall(head % len(body) + b"\r\n\r\n" + body)
        time.sleep(.15)
    fed = decoder.fed
    assert fed, "nothing was begun"
    waiting.close()
    gone.close()
    time.sleep(.2)
    after = decoder.fed
    assert after < 40
    status, found = ask(server, "/v1/completions", {"prompt": "Hello", "max_tokens": 2})
    assert (status, found["usage"]["completion_tokens"]) == (200, 2)
    assert decoder.fed <= after + 3, "the one that waited was answered although it is gone"


def test_a_request_that_does_not_come(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq_runtime.language.server.Handler.timeout", .1)
    with socket.create_connection(server.server_address[:2]) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        client.settimeout(5)
        assert client.recv(100) == b"", "the connection is kept for a client that says nothing"
    assert ask(server, "/health")[0] == 200


def test_too_many_connections(server: Server) -> None:
    clients = [socket.create_connection(server.server_address[:2]) for _ in range(MAX_CONNECTIONS)]
    time.sleep(.3)
    with socket.create_connection(server.server_address[:2]) as late:
        late.settimeout(5)
        assert late.recv(100).startswith(b"HTTP/1.1 503")
    for client in clients:
        client.close()
    time.sleep(.3)
    assert ask(server, "/health")[0] == 200


def test_a_port_that_is_taken(server: Server, model: Model) -> None:
    with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1 port"):
        Server(("127.0.0.1", server.server_address[1]), model.language, "tiny")


@pytest.mark.full
def test_the_package_openai(server: Server, model: Model) -> None:
    openai = pytest.importorskip("openai", reason="installed by `make test-full`")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_address[1]}/v1", api_key="none",
                       max_retries=0) as client:
        assert [one.id for one in client.models.list()] == ["tiny"]
        whole = client.chat.completions.create(model="tiny", messages=HI, max_tokens=8)
        assert whole.choices[0].message.content == model.generate(HI, max_tokens=8, stream=False).text
        assert whole.usage.completion_tokens == 8
        stream = client.chat.completions.create(model="tiny", messages=HI, max_tokens=8, stream=True,
                                                stream_options={"include_usage": True})
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[
            0].message.content
        assert chunks[-1].usage.completion_tokens == 8
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        text = client.chat.completions.create(model="tiny", messages=HI, response_format=form).choices[0].message
        assert set(json.loads(text.content)) == {"b"}
        with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
            client.chat.completions.create(model="gpt", messages=HI)
        with pytest.raises(openai.BadRequestError, match="'n' is not supported"):
            client.chat.completions.create(model="tiny", messages=HI, n=2)
