#!/usr/bin/env python3
"""A black-box suite for the breaker of any gateway. See README.md.

  breakers.py --gateway URL --model NAME --worker PORT [--json]
"""

import argparse
import asyncio
import inspect
import json
import sys
import time

from cases import CASES, Bench, Cannot, Settings, Wrong
from worker import Worker

# How long the gateway may take to let a first request through.
READY_WITHIN_S = 120.0


def arguments():
    parser = argparse.ArgumentParser(description="Judge a gateway's circuit breaker from outside.")
    parser.add_argument("--gateway", required=True, metavar="URL", help="where clients reach it, without /v1")
    parser.add_argument("--model", required=True, help="the model it has the upstream for")
    parser.add_argument("--worker", required=True, type=int, metavar="PORT",
                        help="loopback port of the upstream that this program is; the gateway's only one")
    parser.add_argument("--consecutive", type=int, default=5, help="failures in a row it is set to open on (5)")
    parser.add_argument("--pause", type=float, default=2.0, metavar="S",
                        help="how long it is set to stay open, in seconds; at least 2 (2)")
    parser.add_argument("--probes", type=int, default=5, help="the most that may be probes at once (5)")
    parser.add_argument("--header", action="append", default=[], metavar="NAME: VALUE", help="sent with each request")
    parser.add_argument("--case", action="append", metavar="NAME", help="only these; may be given again")
    parser.add_argument("--name", default="", help="what the gateway is called in the report")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    given = parser.parse_args()
    names = [case.__name__ for case in CASES]
    for name in given.case or []:
        if name not in names:
            parser.error(f"no case {name}; there are {', '.join(names)}")
    if given.pause < 2:
        parser.error(f"--pause {given.pause:g}: a throttled second must end before it, at least 2")
    return given


async def ready(bench: Bench):
    began = time.monotonic()
    while True:
        heard, arrived = await bench.reaches()
        if heard.ok and arrived:
            return
        if time.monotonic() - began > READY_WITHIN_S:
            print(f"the gateway does not pass a request on to port {bench.worker.port}: {heard.short()}", file=sys.stderr)
            sys.exit(2)
        await asyncio.sleep(0.25)


async def judge(bench: Bench, case) -> dict:
    began = time.monotonic()
    try:
        if bench.is_stuck_after:
            raise Cannot(f"it passes nothing any more since {bench.is_stuck_after}")
        result, saw = "pass", await case(bench)
    except Wrong as wrong:
        result, saw = "fail", str(wrong)
    except Cannot as cannot:
        result, saw = "not-applicable", str(cannot)
    try:
        if not bench.is_stuck_after:
            await bench.heal()
    except Wrong as wrong:
        result, saw = "fail", f"{saw}; afterwards it {wrong}"
        bench.is_stuck_after = case.__name__
    return {"case": case.__name__, "result": result, "saw": saw, "took_s": round(time.monotonic() - began, 1)}


async def run(given) -> list:
    headers = dict(line.split(":", 1) for line in given.header)
    settings = Settings(given.gateway, given.model, given.consecutive, given.pause, given.probes, headers)
    worker = Worker(given.worker)
    await worker.listen()
    bench = Bench(settings, worker)
    await ready(bench)
    rows = []
    for case in CASES:
        if given.case and case.__name__ not in given.case:
            continue
        row = await judge(bench, case)
        rows.append(row)
        print(f"{row['result']:<14} {row['case'].replace('_', ' '):<34} {row['took_s']:>5.1f} s  {row['saw']}", flush=True)
    await worker.leave()
    return rows


def main():
    given = arguments()
    rows = asyncio.run(run(given))
    counts = {kind: sum(row["result"] == kind for row in rows) for kind in ("pass", "fail", "not-applicable")}
    print(f"{given.name or given.gateway}: {counts['pass']} pass, {counts['fail']} fail, "
          f"{counts['not-applicable']} not applicable")
    if given.json:
        why = {case.__name__: " ".join(inspect.getdoc(case).split()) for case in CASES}
        for row in rows:
            row["what"] = why[row["case"]]
        print(json.dumps({"gateway": given.name or given.gateway, **counts, "cases": rows}))
    sys.exit(1 if counts["fail"] else 0)


if __name__ == "__main__":
    main()
