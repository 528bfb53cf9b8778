"""An upstream that does as it is told. One port speaks OpenAI's chat
completions and Bedrock's ConverseStream, told apart by the path."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Optional

from wire import Broken, frame, read_head, whole_body

WORDS = ["one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ", "nine ", "ten "]


@dataclass(frozen=True)
class Play:
    """How a request is answered."""

    status: int = 200
    # Sent with a refusal.
    retry_after_s: Optional[int] = None
    pieces: int = 5
    first_s: float = 0.0
    pace_s: float = 0.0
    # After `after` pieces: "error" tells of one in the stream, "cut" breaks the
    # connection, "early" ends the body in order without the answer's end.
    fault: Optional[str] = None
    after: int = 3
    # Waits for `release` before it answers at all, or after so many pieces.
    hold: bool = False
    hold_after: Optional[int] = None


OK = Play()


class Worker:
    """The upstream, and what it saw."""

    def __init__(self, port: int):
        self.port, self.play = port, OK
        self.seen = self.active = self.cancelled = 0
        # (began, ended) of answers that ended whole, and how many ran at each start.
        self.whole, self.starts = [], []
        self._released = asyncio.Event()
        self._server, self._writers = None, set()

    async def listen(self):
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", self.port)

    async def leave(self):
        """Nobody listens any more, and every connection is gone."""
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def release(self):
        """Whoever is held goes on."""
        self._released.set()
        self._released = asyncio.Event()

    async def _talk(self, reader, writer):
        self._writers.add(writer)
        prefix = b""
        try:
            while True:
                first, headers = await read_head(reader, prefix)
                method, path, _ = first.split(" ", 2)
                has_body = "content-length" in headers or "transfer-encoding" in headers
                body = await whole_body(reader, headers) if has_body else b""
                if method == "POST" and _wire(path):
                    prefix = await self._answer(path, body, reader, writer)
                else:
                    self._errand(path, writer)
                await writer.drain()
        except (Broken, OSError, ValueError, asyncio.CancelledError):
            # Cancelled at the program's end alone, and this is the task's own.
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _errand(self, path, writer):
        """Health checks and what gateways ask of a worker at first."""
        answer = {"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "test"}],
                  "status": "ok", "model_path": "scripted", "tokenizer_path": "", "is_generation": True}
        _whole(writer, 200, {}, json.dumps(answer).encode())

    async def _answer(self, path, body, reader, writer) -> bytes:
        """Answers, and notices a client that goes away meanwhile. Returns what
        was read of the next request."""
        play, began = self.play, time.monotonic()
        self.seen += 1
        self.active += 1
        self.starts.append((began, self.active))
        gone = asyncio.create_task(reader.read(1))
        answer = asyncio.create_task(self._perform(play, _wire(path), json.loads(body), writer))
        try:
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and gone.result() == b"":
                self.cancelled += 1
                raise Broken("the client went away")
            await answer
            if play.status == 200 and play.fault is None:
                self.whole.append((began, time.monotonic()))
            return gone.result() if gone.done() else b""
        finally:
            self.active -= 1
            for task in (gone, answer):
                task.cancel()
            await asyncio.gather(gone, answer, return_exceptions=True)

    async def _perform(self, play, wire, asked, writer):
        if play.hold:
            await self._released.wait()
        if play.status != 200:
            extra = {} if play.retry_after_s is None else {"retry-after": str(play.retry_after_s)}
            return _whole(writer, play.status, {**extra, **wire.refusal(play.status)[0]}, wire.refusal(play.status)[1])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n" % wire.KIND)
        _chunk(writer, wire.opens(asked))
        await writer.drain()
        await asyncio.sleep(play.first_s)
        for at in range(play.pieces):
            if at == play.after and play.fault is not None:
                return self._break(play.fault, wire, writer)
            if at == play.hold_after:
                await self._released.wait()
            if at > 0 and play.pace_s:
                await asyncio.sleep(play.pace_s)
            _chunk(writer, wire.piece(asked, WORDS[at % len(WORDS)]))
            await writer.drain()
        _chunk(writer, wire.ends(asked, play.pieces))
        writer.write(b"0\r\n\r\n")

    def _break(self, fault, wire, writer):
        if fault == "error":
            _chunk(writer, wire.breaks())
        if fault == "cut":
            writer.close()
            raise Broken("cut off on purpose")
        writer.write(b"0\r\n\r\n")


class OpenAi:
    KIND = b"text/event-stream"

    @staticmethod
    def _event(asked, delta, finish=None):
        event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": asked.get("model", ""),
                 "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        return b"data: " + json.dumps(event).encode() + b"\n\n"

    @classmethod
    def opens(cls, asked):
        return cls._event(asked, {"role": "assistant", "content": ""})

    @classmethod
    def piece(cls, asked, text):
        return cls._event(asked, {"content": text})

    @classmethod
    def ends(cls, asked, _pieces):
        return cls._event(asked, {}, "stop") + b"data: [DONE]\n\n"

    @staticmethod
    def breaks():
        return b'data: {"error":{"message":"the model broke off","type":"server_error","code":500}}\n\n'

    @staticmethod
    def refusal(status):
        error = {"message": f"scripted {status}", "type": "scripted", "code": status}
        return {}, json.dumps({"error": error}).encode()


class Converse:
    KIND = b"application/vnd.amazon.eventstream"
    # Bedrock's own names, where it has one for the status.
    NAMES = {400: "ValidationException", 404: "ResourceNotFoundException", 422: "ValidationException",
             429: "ThrottlingException", 500: "InternalServerException", 503: "ServiceUnavailableException"}

    @staticmethod
    def _event(kind, payload):
        headers = {":message-type": "event", ":event-type": kind, ":content-type": "application/json"}
        return frame(headers, json.dumps(payload).encode())

    @classmethod
    def opens(cls, _asked):
        return cls._event("messageStart", {"role": "assistant"})

    @classmethod
    def piece(cls, _asked, text):
        return cls._event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})

    @classmethod
    def ends(cls, _asked, pieces):
        usage = {"inputTokens": 3, "outputTokens": pieces, "totalTokens": 3 + pieces}
        return (cls._event("contentBlockStop", {"contentBlockIndex": 0})
                + cls._event("messageStop", {"stopReason": "end_turn"})
                + cls._event("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))

    @staticmethod
    def breaks():
        headers = {":message-type": "exception", ":exception-type": "modelStreamErrorException",
                   ":content-type": "application/json"}
        return frame(headers, b'{"message":"the model broke off"}')

    @classmethod
    def refusal(cls, status):
        kind = cls.NAMES.get(status, "InternalServerException")
        return {"x-amzn-errortype": kind}, json.dumps({"message": f"scripted {status}"}).encode()


def _wire(path):
    path = path.split("?")[0]
    if path.endswith("/chat/completions"):
        return OpenAi
    return Converse if path.endswith("/converse-stream") else None


def _chunk(writer, payload: bytes):
    writer.write(b"%x\r\n%s\r\n" % (len(payload), payload))


def _whole(writer, status, headers, body: bytes):
    lines = [f"HTTP/1.1 {status} Scripted", "content-type: application/json", f"content-length: {len(body)}",
             *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
