"""A proxy before Postgres that frames both directions of the protocol: it counts, records, delays and breaks messages.

A message is a request of the client that awaits an answer, after the connection is established: a simple query, or the
statements of the extended protocol up to Sync or Flush. Terminate awaits none.
"""

from __future__ import annotations

import queue
import random
import re
import selectors
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias, cast

import psycopg

UNTYPED = {80877103: "SSLRequest", 80877104: "GSSENCRequest", 80877102: "CancelRequest"}
# Query, FunctionCall and Sync are answered up to ReadyForQuery; Flush is answered without it.
ASKING, FLUSH, READY = b"QFS", b"H", b"Z"
EXTENDED = b"PBDEC"
# What the server does at the end of a statement; after Flush, the end of its answer.
ENDINGS = b"CIEs"
# The server never sees the request.
BEFORE = ("request lost", "cut before", "unknown error")
# The server carries the request out, and the client does not get its answer.
AFTER = (
    *("answer lost", "cut after", "random bytes", "half an answer", "short length", "long length"),
    "endless notices",
)
LATE = "late answer"
FAULTS = (*BEFORE, *AFTER, LATE)
# An answer of another protocol, or of none.
RANDOM_BYTES = random.Random(1).randbytes(400)
BURST = 100
PAUSE_S = 0.005
COMMITS = re.compile(r"(?:^|;)\s*COMMIT\b", re.IGNORECASE | re.MULTILINE)
BEGINS = re.compile(r"(?:^|;)\s*BEGIN\b", re.IGNORECASE | re.MULTILINE)
Address: TypeAlias = "str | tuple[Any, ...]"


@dataclass
class Message:
    """A request and its statements, after a number of others; `status` is that of the transaction after its answer."""

    number: int
    connection: int
    kinds: str
    statements: list[str]
    status: str = ""

    @property
    def commits(self) -> bool:
        """Whether a statement of it is a COMMIT."""
        return any(COMMITS.search(statement) for statement in self.statements)

    def __str__(self) -> str:
        texts = [re.sub(r"--.*", "", statement) for statement in self.statements]
        return f"{self.kinds} {' | '.join(' '.join(text.split()) for text in texts)}"


@dataclass
class Fault:
    """A fault, one of FAULTS, at the n-th message since `arm`. `seconds` is how late an answer is."""

    kind: str
    message: int
    seconds: float = 0.5
    # Set once the fault has come, and the server has carried out what it saw of the request.
    came: threading.Event = field(default_factory=threading.Event)
    at: float = 0.0

    def __post_init__(self) -> None:
        assert self.kind in FAULTS, self.kind

    def note(self) -> None:
        """Record that it has come, and when by the monotonic clock."""
        self.at = time.monotonic()
        self.came.set()


class Wire:
    """Listens on a Unix socket and on TCP, and forwards to the server that a DSN names.

    TLS and GSSAPI are refused, so that everything can be read. `observe` is called with each message once its answer is
    here, and before the client gets it.
    """

    def __init__(self, dsn: str, delay_ms: float = 0.0, observe: Callable[[Message], None] | None = None) -> None:
        with psycopg.connect(dsn) as connection:
            host, port = connection.info.host, connection.info.port
        self.family, self.server = socket.AF_UNIX, cast("Address", f"{host}/.s.PGSQL.{port}")
        if not host.startswith("/"):
            self.family, _, _, _, self.server = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.delay_s = delay_ms / 1000
        self.observe = observe
        self.lock = threading.Lock()
        # The requests by which connections are established, and the messages after that.
        self.connecting: list[tuple[int, str]] = []
        self.messages: list[Message] = []
        self.fault: Fault | None = None
        self._left = 0
        self._links: list[_Link] = []
        self._threads: list[threading.Thread] = []
        self._directory = tempfile.mkdtemp(prefix="cs-wire-", dir="/tmp")
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(f"{self._directory}/.s.PGSQL.5432")
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._unix.listen(100)
        given = {name: value for name, value in psycopg.conninfo.conninfo_to_dict(dsn).items() if name != "hostaddr"}
        places = ((self._directory, 5432), self._tcp.getsockname())
        self.dsn, self.tcp_dsn = (
            psycopg.conninfo.make_conninfo("", **{**given, "host": host, "port": port}) for host, port in places
        )
        self._wake, self._woken = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def reset(self) -> None:
        """Forget what was counted, and the fault."""
        with self.lock:
            self.connecting, self.messages, self.fault = [], [], None

    def arm(self, fault: Fault) -> Fault:
        """Count anew, and let a fault come."""
        self.reset()
        with self.lock:
            self.fault, self._left = fault, fault.message
        return fault

    def close(self) -> None:
        """Close every connection and end."""
        self._wake.close()
        self._acceptor.join()
        for link in self._links:
            link.close()
        for thread in self._threads:
            thread.join()
        for each in (self._unix, self._tcp, self._woken):
            each.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def note(self, connection: int, request: str) -> None:
        """Record a request by which a connection is established."""
        with self.lock:
            self.connecting.append((connection, request))

    def count(self, connection: int, kinds: bytes, statements: list[str]) -> tuple[Message, Fault | None]:
        """Record a message; return it with the fault that comes now."""
        with self.lock:
            message = Message(len(self.messages) + 1, connection, kinds.decode(), statements)
            self.messages.append(message)
            self._left -= 1
            return message, self.fault if self._left == 0 else None

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (self._unix, self._tcp, self._woken):
                selector.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    client, _ = key.fileobj.accept()
                    link = _Link(self, client, len(self._links))
                    self._links.append(link)
                    self._threads.append(threading.Thread(target=link.serve, daemon=True))
                    self._threads[-1].start()


class _Reader:
    """Reads whole messages from a socket; raises EOFError at its end."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._buffer = bytearray()

    def take(self, number: int) -> bytes:
        while len(self._buffer) < number:
            data = self._source.recv(1 << 16)
            if not data:
                raise EOFError
            self._buffer += data
        taken = bytes(self._buffer[:number])
        del self._buffer[:number]
        return taken

    def untyped(self) -> tuple[str, bytes]:
        """Return one of the messages before the start-up is done, which have no type."""
        head = self.take(8)
        length, code = struct.unpack("!ii", head)
        return UNTYPED.get(code, "startup"), head + self.take(length - 8)

    def typed(self) -> tuple[bytes, bytes]:
        """Return the type of a message, and the message."""
        head = self.take(5)
        return head[:1], head + self.take(struct.unpack("!i", head[1:])[0] - 4)


class _Way:
    """One direction: what is sent arrives after the delay, in order."""

    def __init__(self, target: socket.socket, delay_s: float) -> None:
        self._target, self._delay_s = target, delay_s
        self._queue: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, daemon=True) if delay_s else None
        if self._thread:
            self._thread.start()

    def send(self, data: bytes) -> None:
        if self._thread:
            self._queue.put((time.monotonic() + self._delay_s, data))
        else:
            self._target.sendall(data)

    def end(self) -> None:
        """Close this direction, after what was sent."""
        if self._thread:
            self._queue.put((time.monotonic() + self._delay_s, b""))
            self._thread.join()
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)

    def _deliver(self) -> None:
        with suppress(OSError):
            while True:
                due, data = self._queue.get()
                if not data:
                    return
                time.sleep(max(0.0, due - time.monotonic()))
                self._target.sendall(data)


class _Link:
    """One client's connection. Its requests and the server's answers each have a thread."""

    def __init__(self, wire: Wire, client: socket.socket, number: int) -> None:
        self._wire, self._client, self._number = wire, client, number
        self._server = socket.socket(wire.family)
        self._closing = threading.Event()
        self._ready = False
        # The messages that end with ReadyForQuery, and how many of their answers have arrived.
        self._asked: list[Message] = []
        self._answered = 0
        self._fault: Fault | None = None
        # The number of the answer that the fault concerns, if one does, and whether it ends without ReadyForQuery.
        self._broken, self._flushed = 0, False
        self._deaf = False

    def serve(self) -> None:
        """Forward until one side closes."""
        with self._client, self._server:
            try:
                self._server.connect(self._wire.server)
            except OSError:
                return
            self._to_server = _Way(self._server, self._wire.delay_s)
            self._to_client = _Way(self._client, self._wire.delay_s)
            answers = threading.Thread(target=self._forward_answers, daemon=True)
            answers.start()
            with suppress(EOFError, OSError):
                self._forward_requests()
            self._closing.set()
            self._to_server.end()
            answers.join()
            self.close()

    def close(self) -> None:
        """Close both sides at once."""
        self._closing.set()
        for each in (self._server, self._client):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _forward_requests(self) -> None:
        reader = _Reader(self._client)
        while True:
            name, data = reader.untyped()
            self._wire.note(self._number, name)
            if name not in ("SSLRequest", "GSSENCRequest"):
                break
            self._to_client.send(b"N")
        self._to_server.send(data)
        request, kinds, statements = b"", b"", list[str]()
        while True:
            kind, data = reader.typed()
            if kind == b"p" and not self._ready:
                self._wire.note(self._number, "password")
            if kind in (b"Q", b"P"):
                statements.append(data[5:].split(b"\0")[kind == b"P"].decode(errors="replace"))
            kinds += kind
            # The server gets a request whole, or not at all.
            request += data
            if kind in EXTENDED:
                continue
            if kind in ASKING or (kind == FLUSH and len(kinds) > 1):
                self._ask(request, kinds, statements)
            elif not self._deaf:
                self._to_server.send(request)
            request, kinds, statements = b"", b"", []

    def _ask(self, request: bytes, kinds: bytes, statements: list[str]) -> None:
        message, fault = self._wire.count(self._number, kinds, statements)
        flushed = kinds.endswith(FLUSH)
        if not flushed:
            self._asked.append(message)
        if self._deaf:
            return
        if fault:
            self._deaf = fault.kind not in (LATE, "unknown error")
            if fault.kind == "unknown error":
                self._refuse(message, flushed)
                fault.note()
                return
            self._broken, self._flushed = len(self._asked) + flushed, flushed
            if fault.kind in BEFORE:
                if fault.kind == "cut before":
                    self.close()
                fault.note()
                return
            self._fault = fault
        self._to_server.send(request)

    def _refuse(self, message: Message, flushed: bool) -> None:
        """Answer with an error in place of the server, which then answers later requests only."""
        fields = (b"SERROR", b"VERROR", b"CZZ999", b"Mnobody knows this error")
        answer = _message(b"E", b"\0".join(fields) + b"\0\0")
        if not flushed:
            self._asked.pop()
            before = self._asked[-1].status if self._asked else "I"
            begins = any(BEGINS.search(statement) for statement in message.statements)
            message.status = "E" if begins or (before == "T" and not message.commits) else "I"
            answer += _message(READY, message.status.encode())
        self._to_client.send(answer)

    def _forward_answers(self) -> None:
        reader = _Reader(self._server)
        held: list[bytes] = []
        with suppress(EOFError, OSError):
            while True:
                kind, data = reader.typed()
                reached = 0 < self._broken <= self._answered + 1
                if kind == READY:
                    self._note_answer(data[5:6].decode())
                if not reached or not (self._fault or self._deaf):
                    self._to_client.send(data)
                    continue
                if not self._fault:
                    continue
                held.append(data)
                if kind == READY or (self._flushed and kind in ENDINGS):
                    fault, self._fault = self._fault, None
                    fault.note()
                    self._spoil(fault, held)
                    held = []
        self._to_client.end()

    def _note_answer(self, status: str) -> None:
        if not self._ready:
            self._ready = True
            return
        message = self._asked[self._answered]
        self._answered += 1
        message.status = status
        if self._wire.observe:
            self._wire.observe(message)

    def _spoil(self, fault: Fault, answer: list[bytes]) -> None:
        """Do something else with a complete answer than to forward it."""
        first = answer[0]
        if fault.kind == LATE:
            self._closing.wait(fault.seconds)
            self._to_client.send(b"".join(answer))
        elif fault.kind == "cut after":
            self.close()
        elif fault.kind == "random bytes":
            self._to_client.send(RANDOM_BYTES)
        elif fault.kind == "half an answer":
            # In the middle of the first row, if there is one.
            whole = next((number for number, data in enumerate(answer) if data[:1] == b"D"), 0)
            self._to_client.send(b"".join(answer[:whole]) + answer[whole][: len(answer[whole]) // 2])
            self._to_client.end()
            self.close()
        elif fault.kind == "short length":
            self._to_client.send(first[:1] + struct.pack("!i", 3) + first[5:])
        elif fault.kind == "long length":
            self._to_client.send(first[:1] + struct.pack("!i", len(first) + 20_000) + first[5:] + b"".join(answer[1:]))
        elif fault.kind == "endless notices":
            notice = _message(b"N", b"\0".join((b"SNOTICE", b"VNOTICE", b"C00000", b"Mnothing")) + b"\0\0")
            while not self._closing.wait(PAUSE_S):
                self._to_client.send(notice * BURST)
        # An answer that is lost needs nothing.


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def report(wire: Wire) -> str:
    """Return what was counted, in lines."""
    lines = [f"connection {number}: {request}" for number, request in wire.connecting]
    return "\n".join([*lines, *(f"{message.number}: {message}"[:160] for message in wire.messages)])
