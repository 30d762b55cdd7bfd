"""One model over HTTP on this machine, in OpenAI's protocol: `edgeq serve BUNDLE`.

There is one decoder with one cache. Requests queue: each is answered as a whole, and the next one goes on behind the
beginning that it shares with the one before. Who hangs up is not answered further, also while waiting.
"""
from __future__ import annotations

import json
import select
import socket
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Tuple

from edgeq_runtime.errors import EdgeqError, InputError

from .model import LanguageModel
from .protocol import Answer, Call, ProtocolError, error_body, model_entry, model_list, parsed

if TYPE_CHECKING:
    from email.message import Message

MAX_BODY = 1 << 20  # bytes of a request
MAX_CONNECTIONS = 32  # at once; each is a thread
READ_SECONDS = 30.0  # for a request to arrive
WAIT_SECONDS = .1  # between two looks at whether a waiting client is still there


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`. address: (host, port), port 0 for any free one; `server_address` has the real one."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: Tuple[str, int], model: LanguageModel, name: str) -> None:
        """name: what the model is called in requests.

        Raises:
            InputError: the port is taken, or the address is not of this machine.
        """
        self.model, self.name, self.created = model, name, int(time.time())
        self.turn = Lock()
        self.answers = 0
        self._places = BoundedSemaphore(MAX_CONNECTIONS)
        self.loopback = _is_loopback(address[0])
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on {address[0]} port {address[1]}: {error}") from None

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error of the server; anything else was answered with 500 already."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edgeq", ""
    timeout = READ_SECONDS
    server: Server
    headers: Message

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Prompts are nobody's business, and neither is who asks."""

    def send_error(self, code: int, message: Optional[str] = None, explain: Optional[str] = None) -> None:
        """What the standard library refuses, in the same form as everything else."""
        self.close_connection = True
        self._send(code, error_body(message or "the request cannot be read", code))

    def _answered(self, action: Callable[[], None]) -> None:
        self._begun = False
        try:
            self._check_host()
            action()
        except ProtocolError as error:
            self._refuse(error.status, error.body())
        except InputError as error:
            self._refuse(400, error_body(str(error), 400))
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self.close_connection = True
        except EdgeqError as error:
            self._refuse(500, error_body(str(error), 500))
        except Exception as error:
            self._refuse(500, error_body(f"{type(error).__name__}: this is a bug in edgeq", 500))
            raise

    def _check_host(self) -> None:
        """A page of a browser can name this machine anything; under another name than its own it is not meant."""
        host = self.headers.get("Host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.server.loopback and name and not _is_loopback(name.strip("[]")):
            raise ProtocolError(f"this server is not '{name}'", 403)

    def _get(self) -> None:
        name, created = self.server.name, self.server.created
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/v1/models":
            self._send(200, model_list(name, created))
        elif path == f"/v1/models/{name}":
            self._send(200, model_entry(name, created))
        elif path == "/health":
            self._send(200, {"status": "ok"})
        else:
            raise ProtocolError(f"there is no {path}", 404)

    def _post(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path not in ("/v1/chat/completions", "/v1/completions"):
            raise ProtocolError(f"there is no {path}", 404)
        call = parsed(self._body(), self.server.name, chat=path.startswith("/v1/chat"))
        with self._turn():
            self._generate(call)

    def _body(self) -> bytes:
        self.close_connection = True  # until the body is read, what follows is no request
        if self.headers.get_content_type() != "application/json":
            raise ProtocolError("the content type must be application/json", 415)
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise ProtocolError("a request needs its Content-Length", 411)
        if int(length) > MAX_BODY:
            raise ProtocolError(f"a request holds at most {MAX_BODY} bytes", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the client hung up")
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        return body

    @contextmanager
    def _turn(self) -> Iterator[None]:
        while not self.server.turn.acquire(timeout=WAIT_SECONDS):
            if self._gone():
                raise ConnectionError("the client hung up")
        try:
            yield
        finally:
            self.server.turn.release()

    def _gone(self) -> bool:
        """Has the client closed its side? It says nothing while it waits for an answer."""
        try:
            ready, _, _ = select.select([self.connection], [], [], 0)
            return bool(ready) and not self.connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    def _generate(self, call: Call) -> None:
        self.server.answers += 1
        answer = Answer(call, self.server.name, f"{self.server.created}-{self.server.answers}")
        stream = self.server.model.generate(call.prompt, **call.words, unwanted=self._gone)
        if not call.stream:
            result = stream.result
            if result.finish_reason == "cancelled":
                raise ConnectionError("the client hung up")
            self._send(200, answer.whole(result))
            return
        self._begin()
        for event in answer.first():
            self._event(event)
        for piece in stream:
            self._event(answer.piece(piece))
        for event in answer.last(stream.result):
            self._event(event)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _begin(self) -> None:
        self._begun = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _event(self, data: Dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _send(self, status: int, data: Dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self._begun = True
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, data: Dict[str, Any]) -> None:
        """An error, as an answer or, amid a stream, as its last event."""
        with suppress(OSError):
            if self._begun:
                self.close_connection = True
                self._event(data)
                self._chunk(b"")
            else:
                self._send(status, data)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
