#!/usr/bin/env python3
"""A worker that says the same for the same seed, at one token in 20 ms.

  steady_worker.py PORT

OpenAI's chat completions with server-sent events. Token `i` of seed `s` reads
"s.i ", so that whoever hears one twice, or misses one, can tell; there are 120. An answer that
the conversation's last turn, the assistant's, has begun is gone on with, as by
a model that takes a prefill. Parameters it does not know are fine. Standard
library only."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "breakers"))
from wire import Broken, read_head, whole_body  # noqa: E402

PACE_S = 0.020
TOKENS = 120
active = 0


def text(seed):
    return "".join(f"{seed}.{at} " for at in range(TOKENS))


def chunk(writer, payload: bytes):
    writer.write(b"%x\r\n%s\r\n" % (len(payload), payload))


def event(asked, delta, finish=None):
    return b"data: " + json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": asked.get("model", ""),
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


async def chat(asked, writer):
    """The answer; the assistant's last turn tells how many tokens of it there are."""
    messages = asked.get("messages") or []
    begun = messages[-1].get("content") or "" if messages and messages[-1].get("role") == "assistant" else ""
    seed, said = asked.get("seed") or 0, len(begun.split())
    most = asked.get("max_tokens") or asked.get("max_completion_tokens") or TOKENS
    count = min(said + most, TOKENS)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    chunk(writer, event(asked, {"role": "assistant", "content": ""}))
    for at in range(said, count):
        await asyncio.sleep(PACE_S)
        chunk(writer, event(asked, {"content": f"{seed}.{at} "}))
        await writer.drain()
    chunk(writer, event(asked, {}, "stop" if count == TOKENS else "length") + b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")


async def talk(reader, writer):
    global active
    try:
        while True:
            first, headers = await read_head(reader)
            _, path, _ = first.split(" ", 2)
            body = await whole_body(reader, headers) if "content-length" in headers else b""
            if path.split("?")[0].endswith("/chat/completions"):
                active += 1
                try:
                    await chat(json.loads(body), writer)
                finally:
                    active -= 1
            else:
                models = [{"id": "steady", "object": "model", "owned_by": "test"}]
                answer = {"status": "ok", "streams_active": active, "object": "list", "data": models,
                          "model_path": "steady", "tokenizer_path": "", "is_generation": True}
                answer = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                             % (len(answer), answer))
            await writer.drain()
    except (Broken, OSError, ValueError):
        pass
    finally:
        writer.transport.abort()


async def serve(port):
    server = await asyncio.start_server(talk, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
