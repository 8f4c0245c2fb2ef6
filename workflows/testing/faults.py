"""A proxy on loopback between a store and its S3 server that breaks chosen requests in chosen ways."""

import http.client
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

DROP = "drop"  # hang up before the server hears of it
DROP_ANSWER = "drop answer"  # the server does it, the client never hears
FAIL_ANSWER = "fail answer"  # the server does it, the client hears of an internal error
HANG_ANSWER = "hang answer"  # the server does it, the client hears nothing for 5 seconds
TWICE = "twice"  # a proxy repeats the request: the client hears the second answer
SILENT = "silent"  # nothing is heard, and the connection stays
CUT = "cut"  # the answer ends in the middle
TRICKLE = "trickle"  # the answer comes byte by byte, 20 bytes a second


@dataclass(frozen=True)
class Answer:
    """An answer in the server's place; the server does not hear of the request."""

    status: int
    code: str
    date: str = "Mon, 23 Nov 2026 12:00:00 GMT"


@dataclass
class Proxy:
    """What to do with the next requests (then they pass), and which requests came."""

    target: str
    url: str = ""
    keeps_metadata: bool = True
    lost_header: str = ""  # a condition that the service ignores, in small letters
    faults: list[str | Answer | None] = field(default_factory=list)
    choose: Callable[[], str | Answer | None] = lambda: None  # behind the list, for every request
    methods: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def run_proxy(target: str) -> Iterator[Proxy]:
    """Run a proxy in front of an S3 server."""
    proxy = Proxy(target=urlsplit(target).netloc)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """A server that says nothing when a client hangs up, as clients do here on purpose."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy = self.proxy
        proxy.methods.append(self.command)
        fault = proxy.faults.pop(0) if proxy.faults else proxy.choose()
        if fault == DROP:
            self._hang_up()
        elif fault == SILENT:
            proxy.is_over.wait(60)
            self._hang_up()
        elif isinstance(fault, Answer):
            self._answer(fault)
        else:
            status, headers, answer = self._forward(body)
            if fault == TWICE:
                status, headers, answer = self._forward(body)
            if fault == HANG_ANSWER:
                time.sleep(5)
            if fault in (DROP_ANSWER, HANG_ANSWER):
                self._hang_up()
            elif fault == FAIL_ANSWER:
                self._answer(Answer(500, "InternalError"))
            else:
                self._pass_on(status, headers, answer, fault)

    do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = _serve

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.target, timeout=30)
        left_out = ("expect", self.proxy.lost_header)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        try:
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _pass_on(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str | None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            is_lost = name.lower().startswith("x-amz-meta-") and not self.proxy.keeps_metadata
            if name.lower() not in ("content-length", "transfer-encoding", "connection") and not is_lost:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == CUT:
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
        elif fault == TRICKLE:
            self._trickle(body)
        else:
            self.wfile.write(body)

    def _trickle(self, body: bytes) -> None:
        try:
            for position in range(len(body)):
                self.wfile.write(body[position : position + 1])
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:  # the client has given up, as it should
            self.close_connection = True

    def _answer(self, fault: Answer) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>planned</Message></Error>".encode()
        self.send_response_only(fault.status)
        self.send_header("Date", fault.date)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""
