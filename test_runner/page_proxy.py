"""A wire between a compute and its pageserver that can be slow, cut, silent or wrong, and that counts what passes."""

from __future__ import annotations

import asyncio
import struct
import threading
from pathlib import Path
from typing import Callable

from cluster import Cluster, wait_until

Corrupt = Callable[[bytes], bytes]


class Cut(bytes):
    """What is still sent of a frame before the connection ends."""


def error_response(code: str, text: str) -> bytes:
    body = b"SFATAL\0VFATAL\0C" + code.encode() + b"\0M" + text.encode() + b"\0\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


class PageProxy:
    """Use as a context manager; `divert` sends a running compute through it.

    delay_s: added to each direction, without limiting the bandwidth.
    silent: "all": bytes are taken in and nothing goes out; "stream": so for requests and answers, while connections are made.
    corrupt: changes an answer's frame (tag, length, payload) of the page stream on its way to the compute.
    refusal: (SQLSTATE, text) with which connections are refused, as a server would.
    piece: largest number of bytes that is sent at a time, 0 = whole frames.
    """

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.target = cluster.config()["pageserver"]["pg_port"]
        self.delay_s = 0.0
        self.silent = ""
        self.corrupt: Corrupt | None = None
        self.refusal: tuple[str, str] | None = None
        self.piece = 0
        self.connections = self.requests = self.pages = self.corrupted = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "PageProxy":
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop).result(10)
        self._server, self.port = server, server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def divert(self, back: bool = False) -> None:
        """Tells Postgres that the pageserver is here (or where it was)."""
        port = self.target if back else self.port
        conf: Path = next((self.cluster.dir / "compute-main").rglob("postgresql.conf"))
        lines = [line for line in conf.read_text().splitlines() if not line.startswith("ogel.page_server =")]
        conf.write_text("\n".join([*lines, f"ogel.page_server = '127.0.0.1:{port}'", ""]))
        with self.cluster.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")
            wait_until(lambda: connection.execute("SHOW ogel.page_server").fetchone()[0].endswith(f":{port}"), "the setting is read")

    def cut(self) -> None:
        """Resets all connections."""
        def close() -> None:
            for writer in list(self._writers):
                writer.transport.abort()
        self._loop.call_soon_threadsafe(close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.refusal:
                return await self._refuse(reader, writer)
            there = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 24)
            self._writers.add(there[1])
            try:
                await asyncio.gather(self._pump(reader, there[1], False), self._pump(there[0], writer, True))
            finally:
                self._writers.discard(there[1])
                there[1].transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        code, text = self.refusal
        (size,) = struct.unpack("!I", await reader.readexactly(4))
        await reader.readexactly(size - 4)
        writer.write(error_response(code, text))
        await writer.drain()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        """Frame by frame; the start packet has no tag."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send(queue, sink))
        try:
            if not answers:
                head = await source.readexactly(4)
                queue.put_nowait((0.0, head + await source.readexactly(struct.unpack("!I", head)[0] - 4)))
            while True:
                head = await source.readexactly(5)
                frame = head + await source.readexactly(struct.unpack("!I", head[1:])[0] - 4)
                if head[:1] == b"d":
                    frame = self._see(frame, answers)
                queue.put_nowait((self._loop.time() + self.delay_s, frame))
        finally:
            sender.cancel()

    def _see(self, frame: bytes, answer: bool) -> bytes:
        if not answer:
            self.requests += 1
            if frame[5] == 3:
                self.pages += struct.unpack("!H", frame[5 + 25 + 13:5 + 25 + 15])[0]
        elif self.corrupt:
            changed = self.corrupt(frame)
            self.corrupted += changed != frame
            return changed
        return frame

    async def _send(self, queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due, frame = await queue.get()
            wait = due - self._loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            while self.silent == "all" or self.silent == "stream" and frame[:1] == b"d":
                await asyncio.sleep(0.01)
            for begin in range(0, len(frame), self.piece or len(frame)):
                sink.write(frame[begin:begin + (self.piece or len(frame))])
                await sink.drain()
                if self.piece:
                    await asyncio.sleep(0)
            if isinstance(frame, Cut):
                sink.close()
                return
