"""llama.cpp for the benchmarks: a model stays loaded, JSON lines in, JSON lines out.

    llama_peer.py MODEL.gguf [--threads 2] [--context 2048]

The first line out is {"ready": true, ...}; its "load_seconds" is from the call that
opens the file to a context that can decode, Python's own start left out. Then, a line
in, a line out:

    {"op": "prefill", "tokens": 128}
        seconds: one `llama_decode` of that many tokens into an empty cache, and the
        last token's logits ready to be read.
    {"op": "decode", "context": 128, "tokens": 32}
        the context is prefilled first, outside the time. seconds: for each token one
        `llama_decode` of a single token and the argmax of its logits (numpy, over
        llama.cpp's own memory). No sampler, no text.
    {"op": "batch", "streams": 8, "context": 128, "tokens": 32}
        the same with that many sequences of their own side by side, a token of each
        in one `llama_decode`; `tokens` counts a stream's.

Also accepted: "ids", a list of token ids to begin with instead of drawn ones; the
answer's "ids" are what greedy decoding gave (of the first stream), for comparing.
A bad line gets {"error": ...}. KV cache f16, flash attention as llama.cpp chooses.
"""

import argparse
import ctypes
import json
import sys
import time

import llama_cpp
import numpy as np

# A `llama_decode` takes at most this many tokens; more is split.
BATCH = 2048


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    pass


class Peer:
    def __init__(self, path: str, threads: int, context: int, streams: int):
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context * streams
        params.n_batch = BATCH
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max = streams
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit(f"llama.cpp cannot make a context of {context} tokens for {path}")
        self.limit, self.streams = context, streams
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def feed(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Decodes (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        for begin in range(0, len(entries), BATCH):
            part = entries[begin : begin + BATCH]
            batch.n_tokens = len(part)
            for at, (token, position, sequence, wanted) in enumerate(part):
                batch.token[at] = token
                batch.pos[at] = position
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = wanted
            status = llama_cpp.llama_decode(self.context, batch)
            if status != 0:
                raise ValueError(f"llama_decode answered {status}")

    def logits(self, at: int) -> np.ndarray:
        """Logits of the last batch's entry `at`; -1 is the last one's. Not a copy."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, at)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab,))

    def start(self, request: dict, length: int, streams: int = 1) -> list[int]:
        ids = request.get("ids") or np.random.default_rng(7).integers(1000, 100000, length).tolist()
        last = len(ids) + int(request.get("tokens", 0)) * (request["op"] != "prefill")
        if last > self.limit or streams > self.streams:
            raise ValueError(
                f"{last} tokens in {streams} streams; allowed: {self.limit} in {self.streams}"
            )
        if not all(0 <= token < self.vocab for token in ids):
            raise ValueError(f"a token id is not below {self.vocab}")
        llama_cpp.llama_memory_clear(self.memory, True)
        return ids

    def prefill(self, request: dict) -> dict:
        ids = self.start(request, int(request.get("tokens", 0)))
        entries = [(token, at, 0, at + 1 == len(ids)) for at, token in enumerate(ids)]
        began = time.perf_counter()
        self.feed(entries)
        last = self.logits(-1)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": len(ids), "ids": [int(last.argmax())]}

    def decode(self, request: dict, streams: int = 1) -> dict:
        ids = self.start(request, int(request.get("context", 0)), streams)
        tokens = int(request["tokens"])
        for stream in range(streams):
            self.feed(
                [(token, at, stream, at + 1 == len(ids)) for at, token in enumerate(ids)]
            )
            first = int(self.logits(-1).argmax())
        current, answer = [first] * streams, []
        began = time.perf_counter()
        for position in range(len(ids), len(ids) + tokens):
            answer.append(current[0])
            self.feed([(token, position, stream, True) for stream, token in enumerate(current)])
            current = [int(self.logits(at).argmax()) for at in range(streams)]
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": tokens * streams, "ids": answer}

    def answer(self, request: dict) -> dict:
        match request.get("op"):
            case "prefill":
                return self.prefill(request)
            case "decode":
                return self.decode(request)
            case "batch":
                return self.decode(request, int(request["streams"]))
            case other:
                raise ValueError(f"unknown op {other!r}; allowed: prefill, decode, batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, help="tokens a stream")
    parser.add_argument("--streams", type=int, default=1, help="most streams of `batch`")
    arguments = parser.parse_args()
    began = time.perf_counter()
    peer = Peer(arguments.model, arguments.threads, arguments.context, arguments.streams)
    load_seconds = time.perf_counter() - began
    ready = {
        "ready": True,
        "peer": f"llama.cpp (llama-cpp-python {llama_cpp.__version__})",
        "system": llama_cpp.llama_print_system_info().decode(),
        "bytes": llama_cpp.llama_model_size(peer.model),
        "load_seconds": load_seconds,
        "parameters": llama_cpp.llama_model_n_params(peer.model),
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        try:
            reply = peer.answer(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
