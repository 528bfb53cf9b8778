"""HTTP/1.1 with server-sent events, as far as the suite speaks it, and the
frames of an `application/vnd.amazon.eventstream`. Standard library only: what
is to judge gateways should run wherever one does."""

import asyncio
import json
import struct
import time
import urllib.parse
import zlib
from dataclasses import dataclass, field
from typing import Optional

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 4 * 1024 * 1024


class Broken(Exception):
    """The other side broke off, or does not speak HTTP."""


async def read_head(reader: asyncio.StreamReader, prefix: bytes = b""):
    """The first line and the headers, their names in lower case."""
    try:
        head = prefix + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise Broken("closed before a head" if error.partial or prefix else "closed") from error
    except (asyncio.LimitOverrunError, OSError) as error:
        raise Broken(str(error) or type(error).__name__) from error
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return first, {name.strip().lower(): value.strip() for name, value in pairs}


async def body_pieces(reader: asyncio.StreamReader, headers: dict):
    """The body as it comes. Ends, or raises `Broken` where it was cut off."""
    try:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            while True:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                piece = await reader.readexactly(size + 2)
                if size == 0:
                    return
                yield piece[:-2]
        elif "content-length" in headers:
            left = int(headers["content-length"])
            while left > 0:
                piece = await reader.read(min(left, 65536))
                if not piece:
                    raise Broken("the body was cut off")
                left -= len(piece)
                yield piece
        else:
            while piece := await reader.read(65536):
                yield piece
    except asyncio.IncompleteReadError as error:
        raise Broken("the body was cut off") from error
    except (ValueError, asyncio.LimitOverrunError, OSError) as error:
        raise Broken(f"the body broke: {error}") from error


async def whole_body(reader: asyncio.StreamReader, headers: dict) -> bytes:
    body = b""
    async for piece in body_pieces(reader, headers):
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise Broken("the body is too long")
    return body


@dataclass
class Heard:
    """What a client heard of one answer. Times in seconds."""

    status: int = 0
    headers: dict = field(default_factory=dict)
    pieces: list = field(default_factory=list)
    # When each piece came, after the request was sent.
    at_s: list = field(default_factory=list)
    # A finish reason came, and the stream ended in order.
    finished: bool = False
    # The server's own words, or how the connection broke.
    error: Optional[str] = None
    cancelled: bool = False
    took_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.finished and self.error is None

    @property
    def retry_after_s(self) -> Optional[float]:
        """The retry hint, if there is one that can be read: a header, or gRPC's
        RetryInfo in the error's details."""
        try:
            return float(self.headers["retry-after"])
        except (KeyError, ValueError):
            return None

    def short(self) -> str:
        if self.ok:
            return "200, whole"
        what = (self.error or "").replace("\n", " ")[:90]
        return f"{self.status or 'no'} answer, {len(self.pieces)} pieces: {what}"


@dataclass
class Cancel:
    """When a client goes away: after so many pieces, or so many seconds."""

    pieces: Optional[int] = None
    after_s: Optional[float] = None


async def ask(url: str, model: str, *, cancel: Optional[Cancel] = None, within_s: float = 15.0,
              idle_s: Optional[float] = None, headers: Optional[dict] = None,
              **fields) -> Heard:
    """One streamed chat completion on a connection of its own, given up when no
    text came for `idle_s`. Never raises: what went wrong is in what was heard."""
    heard, began = Heard(), time.monotonic()
    cancel = cancel or Cancel()
    if cancel.after_s is not None:
        within_s = min(within_s, cancel.after_s)
    try:
        await asyncio.wait_for(_ask(url, model, cancel, idle_s, headers or {}, fields, heard, began), within_s)
    except asyncio.TimeoutError:
        if cancel.after_s is not None:
            heard.cancelled = True
        else:
            heard.error = heard.error or f"nothing ended it in {within_s:g} s"
    except (Broken, OSError, ValueError) as error:
        heard.error = heard.error or str(error) or type(error).__name__
    heard.took_s = time.monotonic() - began
    return heard


async def _ask(url, model, cancel, idle_s, headers, fields, heard, began):
    place = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port or 80, limit=MAX_HEAD_BYTES)
    try:
        content = fields.pop("content", "hello")
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": content}], **fields}
        body = json.dumps(body).encode()
        lines = [f"POST {place.path.rstrip('/')}/v1/chat/completions HTTP/1.1", f"host: {place.netloc}",
                 "content-type: application/json", "connection: close", f"content-length: {len(body)}",
                 *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        first, heard.headers = await _not_idle(read_head(reader), idle_s)
        heard.status = int(first.split()[1])
        if heard.status != 200:
            heard.error = (await whole_body(reader, heard.headers)).decode("utf-8", "replace")
            return
        await _read_events(body_pieces(reader, heard.headers), cancel, idle_s, heard, began)
    finally:
        # A client that goes away goes at once: what is unread is not awaited.
        if heard.finished:
            writer.close()
        else:
            writer.transport.abort()


async def _not_idle(coming, idle_s, left_s=None):
    try:
        return await asyncio.wait_for(coming, idle_s if left_s is None else left_s)
    except asyncio.TimeoutError:
        raise Broken(f"silent for {idle_s:g} s") from None


async def _read_events(pieces, cancel, idle_s, heard, began):
    rest, opened = b"", time.monotonic() - began
    while True:
        # Comments that keep a connection alive are no answer.
        since = heard.at_s[-1] if heard.at_s else opened
        left_s = idle_s and max(idle_s + since - (time.monotonic() - began), 0.0)
        try:
            piece = await _not_idle(anext(pieces), idle_s, left_s)
        except StopAsyncIteration:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            line = line.strip()
            if not line.startswith(b"data:") or line == b"data: [DONE]":
                continue
            _take(json.loads(line[5:]), heard, began)
            if cancel.pieces is not None and len(heard.pieces) >= cancel.pieces:
                heard.cancelled = True
                return
    if not heard.finished and heard.error is None:
        heard.error = "ended without its end"


def _take(event, heard, began):
    if event.get("error"):
        heard.error = json.dumps(event["error"])
        return
    for choice in event.get("choices") or []:
        if text := (choice.get("delta") or {}).get("content"):
            heard.pieces.append(text)
            heard.at_s.append(time.monotonic() - began)
        if choice.get("finish_reason"):
            heard.finished = True


def frame(headers: dict, payload: bytes) -> bytes:
    """A frame of an event stream: lengths, their checksum, headers of type
    string, the payload, and the checksum of all."""
    named = b""
    for name, value in headers.items():
        name, value = name.encode(), value.encode()
        named += struct.pack("!B", len(name)) + name + struct.pack("!BH", 7, len(value)) + value
    prelude = struct.pack("!II", 16 + len(named) + len(payload), len(named))
    start = prelude + struct.pack("!I", zlib.crc32(prelude)) + named + payload
    return start + struct.pack("!I", zlib.crc32(start))
