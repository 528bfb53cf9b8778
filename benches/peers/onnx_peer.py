"""onnxruntime for the benchmarks: an embedding model stays loaded, JSON lines in and out.

    onnx_peer.py MODEL.onnx [--threads 2]

The first line out is {"ready": true, ...}. Then, a line in, a line out:

    {"op": "embed", "ids": [[101, 2023, 102], [101, 102]], "return": true}

Token ids with their special tokens, texts of any length; padded with 0 to the longest.
seconds: padding, one `session.run`, which pools and normalizes in the graph. The
answer has "embeddings" where "return" is true. A bad line gets {"error": ...}.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
import onnxruntime


def embed(session: onnxruntime.InferenceSession, ids: list[list[int]]):
    began = time.perf_counter()
    longest = max(map(len, ids))
    tokens = np.zeros((len(ids), longest), np.int64)
    mask = np.zeros((len(ids), longest), np.int64)
    for at, row in enumerate(ids):
        tokens[at, : len(row)] = row
        mask[at, : len(row)] = 1
    (embeddings,) = session.run(None, {"input_ids": tokens, "attention_mask": mask})
    return time.perf_counter() - began, embeddings


def answer(session: onnxruntime.InferenceSession, request: dict) -> dict:
    if request.get("op") != "embed":
        raise ValueError(f"unknown op {request.get('op')!r}; allowed: embed")
    seconds, embeddings = embed(session, request["ids"])
    reply = {"seconds": seconds, "texts": len(embeddings)}
    if request.get("return"):
        reply["embeddings"] = embeddings.tolist()
    return reply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Between requests its threads sleep, or they would take the cores from the other side.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        arguments.model, options, providers=["CPUExecutionProvider"]
    )
    ready = {
        "ready": True,
        "peer": f"onnxruntime {onnxruntime.__version__}",
        "bytes": os.path.getsize(arguments.model),
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        try:
            reply = answer(session, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        except Exception as error:  # onnxruntime's own have no common class to name
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
