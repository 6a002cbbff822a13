"""An HTTP proxy that makes a given share of requests fail on their way to a server, and counts what it did.

Alone: `python tests/faults/proxy.py --help`. `GET /-/faults` on its port answers with the counts; `POST /-/faults`
with a JSON object of rates changes them.
"""

import argparse
import asyncio
import json
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from types import TracebackType

CONTROL_PATH = "/-/faults"
_MAX_HEAD_BYTES = 64 * 2**10
_SLOW_DOWN = (503, "Slow Down", "SlowDown", "Please reduce your request rate.")
_INTERNAL_ERROR = (500, "Internal Server Error", "InternalError", "We encountered an internal error.")


@dataclass(frozen=True)
class FaultRates:
    """The share of requests, 0..1 each and at most 1 together, that meets each fault.

    slow_down       503 SlowDown; the server never sees the request
    internal_error  500 InternalError; the server never sees the request
    reset           the connection breaks before the server sees the request
    lost_reply      the server does what was asked, then the connection breaks
    truncated       the server does what was asked, half of its answer arrives
    slow            the answer comes whole, `slow_s` seconds late
    """

    slow_down: float = 0.0
    internal_error: float = 0.0
    reset: float = 0.0
    lost_reply: float = 0.0
    truncated: float = 0.0
    slow: float = 0.0
    slow_s: float = 2.0

    def draw(self, number: float) -> str | None:
        """Return the fault that a number in [0, 1) stands for, None for no fault."""
        for kind in FAULTS:
            number -= getattr(self, kind)
            if number < 0:
                return kind
        return None

    @classmethod
    def evenly(cls, share: float, slow_s: float = 2.0) -> "FaultRates":
        """Return rates that add up to `share`, the same for every fault."""
        return cls(**dict.fromkeys(FAULTS, share / len(FAULTS)), slow_s=slow_s)


FAULTS = tuple(field.name for field in fields(FaultRates) if field.name != "slow_s")


class FaultProxy:
    """The proxy of 127.0.0.1:`upstream_port`, in a thread of its own; a context manager.

    Faults are drawn from `seed` in the order in which requests arrive.
    """

    def __init__(self, upstream_port: int, rates: FaultRates, seed: int = 0, port: int = 0) -> None:
        self.port = port
        self.rates = rates
        self._upstream_port = upstream_port
        self._random = random.Random(seed)
        self._counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def counts(self) -> dict[str, int]:
        """Return how many requests came, how many met each fault, and how many found no server."""
        return {kind: self._counts[kind] for kind in ("requests", *FAULTS, "server_down")}

    def num_injected(self) -> int:
        """Return how many requests met a fault."""
        return sum(self._counts[kind] for kind in FAULTS)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        # A boundary: the thread that enters raises it.
        except BaseException as error:
            self._failure = error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=_MAX_HEAD_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._ended.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a connection; the answer ends it, so that no two requests share a fault."""
        try:
            request = await _read_request(reader, writer)
            if request is not None:
                await self._answer(request, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            _reset(writer)
        finally:
            writer.close()

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        method, path = request.split(b" ", 2)[:2]
        if path.decode() == CONTROL_PATH:
            await _send(writer, self._control(method, request))
            return
        self._counts["requests"] += 1
        kind = self.rates.draw(self._random.random())
        if kind is not None:
            self._counts[kind] += 1
        if kind in ("slow_down", "internal_error"):
            await _send(writer, _s3_error(*(_SLOW_DOWN if kind == "slow_down" else _INTERNAL_ERROR), method))
            return
        if kind == "reset":
            _reset(writer)
            return
        try:
            answer = await self._ask_server(request)
        except OSError:
            self._counts["server_down"] += 1
            _reset(writer)
            return
        if kind == "lost_reply":
            _reset(writer)
            return
        if kind == "slow":
            await asyncio.sleep(self.rates.slow_s)
        if kind == "truncated":
            # An answer without a body breaks within its head.
            head_size = answer.index(b"\r\n\r\n") + 4
            answer = answer[: (head_size + len(answer)) // 2 if len(answer) > head_size + 1 else head_size // 2]
        await _send(writer, answer)

    async def _ask_server(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            writer.write(request)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        if b"\r\n\r\n" not in answer:
            raise ConnectionResetError("the server gave no answer")
        return answer

    def _control(self, method: bytes, request: bytes) -> bytes:
        if method == b"POST":
            try:
                self.rates = replace(self.rates, **json.loads(request.partition(b"\r\n\r\n")[2]))
            except (ValueError, TypeError) as error:
                return _response(400, "Bad Request", "text/plain", str(error).encode())
        document = {"counts": self.counts(), "rates": asdict(self.rates)}
        return _response(200, "OK", "application/json", json.dumps(document).encode())


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """Return a whole request, told to end its connection; None where the client ended the connection first."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].split(b"\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if headers.get(b"expect", b"").lower() == b"100-continue":
        await _send(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    # Neither header is signed. Everything else, `Host` above all, has to stay as the client signed it.
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in (b"expect", b"connection")]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""]) + body


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """Return a chunked body as it came."""
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection so that the client sees a reset and not an end."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _s3_error(status: int, reason: str, code: str, message: str, method: bytes) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return _response(status, reason, "application/xml", body, with_body=method != b"HEAD")


def _response(status: int, reason: str, kind: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (body if with_body else b"")


def main() -> None:
    """Run the proxy until Ctrl-C, then print the counts as JSON."""
    parser = argparse.ArgumentParser(description="Make a share of the requests to a local server fail.")
    parser.add_argument("upstream_port", type=int, help="where the server listens on 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="where to listen; a free one by default")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--share", type=float, default=0.0, metavar="0..1", help="of all faults together, evenly")
    for kind in FAULTS:
        parser.add_argument(f"--{kind.replace('_', '-')}", type=float, metavar="0..1", help=f"share of {kind}")
    parser.add_argument("--slow-s", type=float, default=2.0, metavar="SECONDS", help="how late a slow answer comes")
    options = vars(parser.parse_args())
    rates = replace(
        FaultRates.evenly(options["share"], options["slow_s"]),
        **{kind: options[kind] for kind in FAULTS if options[kind] is not None},
    )
    with FaultProxy(options["upstream_port"], rates, options["seed"], options["port"]) as proxy:
        print(f"listening on port {proxy.port}; counts: http://127.0.0.1:{proxy.port}{CONTROL_PATH}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(json.dumps(proxy.counts()))


if __name__ == "__main__":
    main()
