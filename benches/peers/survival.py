#!/usr/bin/env python3
"""Kills, freezes and slows workers under the streams of gateways that are not
ours, as `survival` does it to our edges.

  survival.py [--streams N] [--seed S] [--peer NAME] [--json]

Three equal workers, each a process that says the same for the same seed
(`steady_worker.py`; sglang-router sends parameters of SGLang's own, which our
nodes refuse by name); LiteLLM's proxy, sglang-router and SMG stand in front of
them in turn (`gateways` installs them). Six streams at a time run through the
gateway while, at a random moment, a worker that has some of them is killed,
stopped, or slowed to a tenth. Answers are held against what was to be said.
Standard library only."""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "breakers"))
from steady_worker import text  # noqa: E402
from wire import ask  # noqa: E402

FAULTS = ["kill", "freeze", "slow"]
# And the package of each.
PEERS = {"litellm": "litellm", "litellm-continuing": "litellm", "sglang-router": "sglang-router", "smg": "smg"}
AT_ONCE = 6
SEEDS = 8
# Far more than an answer has: gateways that go on with one guess how many
# tokens it had.
MAX_TOKENS = 2000
MODEL = "steady"
# No byte for so long, and it hangs.
HUNG_S = 20.0
WITHIN_S = 90.0
READY_WITHIN_S = 120.0
# A slowed worker runs for so long, and stands still nine times as long.
RUNS_S = 0.010
# A pause longer than any of an undisturbed answer by so much is a seam.
PAUSE_S = 0.1


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Process:
    """A process, its group and its log."""

    def __init__(self, name, command, scratch, environment=None):
        self.name, self.command, self.log = name, command, scratch / f"{name}.log"
        self.environment = {**os.environ, **(environment or {})}
        self.child = None

    async def start(self):
        with open(self.log, "ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=self.environment)

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    async def end(self):
        if self.child is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        await self.child.wait()
        self.child = None


def health(url):
    with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
        return json.load(answer)


class Worker(Process):
    def __init__(self, nth, scratch):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        script = Path(__file__).with_name("steady_worker.py")
        super().__init__(f"worker-{nth}", [sys.executable, "-B", str(script), str(self.port)], scratch)

    async def streams(self):
        """How many it computes; none where it does not answer."""
        try:
            return (await asyncio.to_thread(health, self.url))["streams_active"]
        except OSError:
            return 0

    async def ready(self):
        await until(lambda: asyncio.to_thread(health, self.url), f"{self.name} answers", self.log)


async def until(probe, what, log):
    began = time.monotonic()
    while True:
        try:
            return await probe()
        except (OSError, ValueError, AssertionError) as error:
            if time.monotonic() - began > READY_WITHIN_S:
                tail = log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"not in {READY_WITHIN_S:g} s: {what}: {error}\n{tail}") from error
            await asyncio.sleep(0.1)


def gateway(name, port, workers, given, scratch):
    """The peer, as favourably as its options go: retries as they come, health
    checks every second, breakers that let go after one."""
    python = str(given.venv / "bin" / "python")
    urls = [worker.url for worker in workers]
    if PEERS[name] == "litellm":
        config = scratch / "litellm.yaml"
        config.write_text(json.dumps(litellm(urls, name == "litellm-continuing")))
        command = [str(given.venv / "bin" / "litellm"), "--host", "127.0.0.1", "--port", str(port),
                   "--config", str(config)]
        return Process(name, command, scratch)
    module = ["-m", "sglang_router.launch_router"] if name == "sglang-router" else ["-m", "smg", "launch"]
    more = ["--disable-tokenizer-autoload"] if name == "smg" else []
    command = [python, *module, "--host", "127.0.0.1", "--port", str(port), "--worker-urls", *urls,
               "--policy", "round_robin", "--cb-timeout-duration-secs", "1", "--cb-success-threshold", "1",
               "--health-check-interval-secs", "1", "--health-check-timeout-secs", "1",
               "--health-failure-threshold", "1", "--health-success-threshold", "1",
               "--prometheus-port", str(free_port()), *more]
    return Process(name, command, scratch)


def litellm(urls, continues):
    """With a timeout between two chunks, a second name to fall back to, and, if
    it `continues`, its continuation by assistant prefill, which is opt-in."""
    def deployments(model):
        return [{"model_name": model, "model_info": {"supports_assistant_prefill": True},
                 "litellm_params": {"model": "openai/" + MODEL, "api_base": f"{url}/v1", "api_key": "none",
                                    "stream_timeout": 5, "timeout": 60}} for url in urls]
    again = MODEL + "-again"
    return {
        "model_list": deployments(MODEL) + deployments(again),
        "router_settings": {"num_retries": 3, "cooldown_time": 1, "enable_mid_stream_fallback_continuation": continues,
                            "fallbacks": [{MODEL: [again]}]},
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }


class Bench:
    def __init__(self, given, scratch):
        self.given, self.scratch = given, scratch
        self.lots = random.Random(given.seed)
        self.workers = [Worker(nth, scratch) for nth in range(3)]
        self.texts = [text(which) for which in range(SEEDS)]
        self.url, self.longest_s, self.usual_s = "", 0.0, 0.0

    async def start(self):
        await asyncio.gather(*(worker.start() for worker in self.workers))
        await asyncio.gather(*(worker.ready() for worker in self.workers))

    async def end(self):
        await asyncio.gather(*(worker.end() for worker in self.workers))

    def ask(self, which):
        return ask(self.url, MODEL, within_s=WITHIN_S, idle_s=HUNG_S, seed=which, max_tokens=MAX_TOKENS)

    async def peer(self, name):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        process = gateway(name, port, self.workers, self.given, self.scratch)
        await process.start()
        try:
            await self.settled(process)
            return await self.faults(name)
        finally:
            await process.end()

    async def settled(self, process):
        """The gateway passes a full house whole, three times in a row."""
        for _ in range(3):
            await until(self.full_house, f"{process.name} passes streams whole", process.log)

    async def full_house(self):
        began = time.monotonic()
        answers = await asyncio.gather(*(self.ask(which) for which in range(AT_ONCE)))
        for which, heard in enumerate(answers):
            assert heard.ok, heard.short()
            assert heard.text == self.texts[which], "another answer than the worker's own"
        self.longest_s = max(pause(heard) for heard in answers)
        self.usual_s = time.monotonic() - began

    async def faults(self, name):
        counts = {}
        for fault in FAULTS:
            count = Count()
            share = max(self.given.streams // len(FAULTS), 1)
            while count.streams < share:
                await self.round(fault, count, min(AT_ONCE, share - count.streams))
            counts[fault] = count.report()
            print(f"{name} {fault}: {json.dumps(counts[fault])}", flush=True)
            for error, times in sorted(count.errors.items(), key=lambda pair: -pair[1])[:3]:
                print(f"  {times} x {error}", flush=True)
        return counts

    async def round(self, fault, count, at_once):
        """So many streams, and one fault under them."""
        asked = [(count.streams + n) % SEEDS for n in range(at_once)]
        tasks = [asyncio.create_task(self.ask(which)) for which in asked]
        await asyncio.sleep(self.lots.random() * self.usual_s)
        busy = []
        # Idle workers prove nothing.
        while not busy and not all(task.done() for task in tasks):
            streams = await asyncio.gather(*(worker.streams() for worker in self.workers))
            busy = [worker for worker, some in zip(self.workers, streams) if some]
        victim = self.lots.choice(busy or self.workers)
        slowing = None
        if fault == "kill":
            await victim.end()
        elif fault == "freeze":
            victim.signal(signal.SIGSTOP)
        else:
            slowing = asyncio.create_task(slow(victim))
        for which, heard in zip(asked, await asyncio.gather(*tasks)):
            count.add(heard, self.texts[which], self.longest_s)
        if slowing:
            slowing.cancel()
            await asyncio.gather(slowing, return_exceptions=True)
        if fault == "kill":
            await victim.start()
        else:
            victim.signal(signal.SIGCONT)
        await victim.ready()
        await self.recovered()

    async def recovered(self):
        """What the fault left behind is not the next round's."""
        began = time.monotonic()
        await asyncio.sleep(1.5)
        while time.monotonic() - began < 60:
            try:
                return await self.full_house()
            except AssertionError:
                await asyncio.sleep(0.5)
        raise SystemExit("the gateway passes no full house a minute after a fault")


async def slow(victim):
    while True:
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(RUNS_S * 9)
        victim.signal(signal.SIGCONT)
        await asyncio.sleep(RUNS_S)


def pause(heard):
    times = [0.0, *heard.at_s]
    return max((after - before for before, after in zip(times, times[1:])), default=0.0)


class Count:
    """What became of one fault's streams. Each is one of `complete`,
    `truncated`, `hung` and `refused`."""

    def __init__(self):
        self.streams = self.complete = self.identical = self.duplicated = self.different = 0
        self.truncated = self.hung = self.refused = 0
        self.gaps_ms, self.errors = [], {}

    def add(self, heard, text, longest_s):
        self.streams += 1
        self.identical += heard.ok and heard.text == text
        words = heard.text.split()
        self.duplicated += len(set(words)) < len(words)
        self.different += not text.startswith(heard.text)
        if heard.ok:
            self.complete += 1
            if (longest := pause(heard)) > longest_s + PAUSE_S:
                self.gaps_ms.append(longest * 1e3)
            return
        error = heard.error or ""
        if error.startswith(("silent for", "nothing ended it")):
            self.hung += 1
        elif heard.status == 200:
            self.truncated += 1
        else:
            self.refused += 1
        short = f"{heard.status}: {error[:150]}"
        self.errors[short] = self.errors.get(short, 0) + 1

    def report(self):
        gaps = sorted(self.gaps_ms)

        def at(share):
            return round(gaps[min(len(gaps) - 1, int(len(gaps) * share))], 1) if gaps else None

        return {"streams": self.streams, "complete": self.complete, "identical": self.identical,
                "duplicated": self.duplicated, "different": self.different, "truncated": self.truncated,
                "hung": self.hung, "refused": self.refused, "pauses": len(gaps),
                "gap_p50_ms": at(0.5), "gap_p99_ms": at(0.99)}


def versions(venv):
    places = [str(place) for place in venv.glob("lib/python3*/site-packages")]
    found = importlib.metadata.distributions(path=places)
    return {dist.metadata["Name"].lower(): dist.version for dist in found}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=180, help="per peer, over all faults (180)")
    parser.add_argument("--seed", type=int, default=1, help="draws the moments and the victims (1)")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only these; may be given again")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    given = parser.parse_args()
    place = os.environ.get("TIERMESH_PEERS") or Path.home() / ".cache" / "tiermesh"
    given.venv = Path(place) / "venv-gateways"
    if not (given.venv / "bin" / "python").exists():
        parser.error(f"no {given.venv}: benches/peers/gateways sets it up")
    return given


async def run(given):
    # Whoever ends this ends what it started too.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    known, peers = versions(given.venv), {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(given, Path(scratch))
        try:
            await bench.start()
            for name in given.peer or PEERS:
                version = known.get(PEERS[name])
                if version is None:
                    print(f"{name}: not installed in {given.venv}")
                    continue
                print(f"{name} {version}, seed {given.seed}", flush=True)
                peers[name] = {"version": version, **await bench.peer(name)}
        finally:
            await bench.end()
    return peers


def main():
    given = arguments()
    peers = asyncio.run(run(given))
    if given.json:
        print(json.dumps({"streams": given.streams, "seed": given.seed, "peers": peers}))


if __name__ == "__main__":
    main()
