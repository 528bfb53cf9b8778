"""What a breaker in front of a model should do, a function each. A case says
what it saw, or raises `Wrong` with it. Cases that open the breaker come last,
so that a gateway that closes slowly is judged on a closed one first."""

import asyncio
import time
from dataclasses import dataclass, replace

from wire import Cancel, Heard, ask
from worker import OK, Play, Worker

# Clients at once, where many matter.
CROWD = 24
# How long a client waits that was refused, whatever the hint says: the crowd
# is meant to be rude.
RUDE_S = 0.15
# A breaker that does not let anything through for so long is stuck.
HEAL_WITHIN_S = 30.0
# How long it may take until a crowd is served as one again.
FULL_WITHIN_S = 15.0
# A refusal that takes longer has waited for something.
AT_ONCE_S = 0.5
FAILS = Play(status=503)


class Wrong(Exception):
    """The gateway does something else."""


class Cannot(Exception):
    """The case says nothing about this gateway."""


@dataclass
class Settings:
    gateway: str
    model: str
    # As the gateway is configured.
    consecutive: int = 5
    pause_s: float = 2.0
    # The most that a half-open breaker may let through at once.
    probes: int = 5
    # Where the gateway needs them: its key, for one.
    headers: dict = None


class Bench:
    def __init__(self, settings: Settings, worker: Worker):
        self.settings, self.worker = settings, worker
        # Whether it opened on a run of plain failures at all.
        self.opens = None
        # The case after which nothing passed any more.
        self.is_stuck_after = None

    async def ask(self, **more) -> Heard:
        settings = self.settings
        return await ask(settings.gateway, settings.model, headers=settings.headers, **more)

    async def reaches(self, **more):
        """One request: what was heard, and how often the upstream was asked."""
        before = self.worker.seen
        heard = await self.ask(**more)
        return heard, self.worker.seen - before

    async def open(self, play: Play = FAILS) -> int:
        """Fails until nothing arrives any more. Returns the failures it took."""
        self.worker.play = play
        failures = 0
        for _ in range(6 * self.settings.consecutive):
            _, arrived = await self.reaches()
            if arrived == 0:
                return failures
            failures += arrived
        if play == FAILS:
            self.opens = False
        raise Wrong(f"still asks the upstream after {failures} failures in a row")

    async def opened(self):
        """Opens it for a case about what follows."""
        if self.opens is False:
            raise Cannot("it never opens")
        try:
            failures = await self.open()
        except Wrong as wrong:
            raise Cannot(f"it does not open: {wrong}") from wrong
        self.opens = True
        return failures

    async def over(self):
        """Waits until the pause is over, with room for jitter."""
        await asyncio.sleep(self.settings.pause_s * 1.2)

    async def heal(self) -> float:
        """Closes it again, as a good upstream should. Returns the time it took."""
        self.worker.play = OK
        self.worker.release()
        began = time.monotonic()
        in_a_row = 0
        while in_a_row < 3:
            heard, arrived = await self.reaches()
            in_a_row = in_a_row + 1 if heard.ok and arrived else 0
            if time.monotonic() - began > HEAL_WITHIN_S:
                raise Wrong(f"lets nothing through {HEAL_WITHIN_S:g} s after the upstream is well: {heard.short()}")
            if not in_a_row:
                await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def stays_closed(self, what: str):
        self.worker.play = OK
        heard, arrived = await self.reaches()
        if not arrived:
            raise Wrong(f"{what} opened it: {heard.short()}")
        if not heard.ok:
            raise Wrong(f"after {what} a good answer came as {heard.short()}")


async def slow_streams_are_fine(bench: Bench):
    """First tokens after 1.5 s and four a second are slow, and no failure."""
    bench.worker.play = Play(first_s=1.5, pace_s=0.25, pieces=6)
    answers = await asyncio.gather(*(bench.ask() for _ in range(bench.settings.consecutive + 1)))
    broken = [heard.short() for heard in answers if not heard.ok]
    if broken:
        raise Wrong(f"{len(broken)} of {len(answers)} slow streams did not come whole: {broken[0]}")
    await bench.stays_closed(f"{len(answers)} slow streams")
    return f"{len(answers)} whole in {max(heard.took_s for heard in answers):.1f} s"


async def client_cancels_are_neutral(bench: Bench):
    """Clients that go away before the first token, or in the middle."""
    often = 3 * bench.settings.consecutive
    plays = [(Play(hold=True), Cancel(after_s=0.1)), (Play(hold_after=2), Cancel(pieces=2))]
    for play, cancel in plays:
        for nth in range(often):
            bench.worker.play = play
            heard, arrived = await bench.reaches(cancel=cancel)
            if not arrived:
                raise Wrong(f"opened after {nth} cancelled requests: {heard.short()}")
    await asyncio.sleep(0.2)
    await bench.stays_closed(f"{2 * often} cancelled requests")
    return f"{2 * often} cancelled, {bench.worker.cancelled} seen upstream"


async def client_errors_are_neutral(bench: Bench):
    """What the client got wrong says nothing of the upstream."""
    often = 2 * bench.settings.consecutive
    for status in (400, 422, 404):
        for nth in range(often):
            bench.worker.play = Play(status=status)
            heard, arrived = await bench.reaches()
            if not arrived:
                raise Wrong(f"opened after {nth} answers of {status}: {heard.short()}")
        await bench.stays_closed(f"{often} answers of {status}")
    return f"{often} each of 400, 422 and 404"


async def throttling_is_neutral(bench: Bench):
    """A full upstream is not a broken one. It may be left alone for the second
    it asked for, and no longer."""
    often = 3 * bench.settings.consecutive
    bench.worker.play = Play(status=429, retry_after_s=1)
    before = bench.worker.seen
    await asyncio.gather(*(bench.ask() for _ in range(often)))
    arrived = bench.worker.seen - before
    await asyncio.sleep(1.1)
    await bench.stays_closed(f"{arrived} answers of 429 (1.1 s ago)")
    return f"{often} requests, {arrived} of them throttled upstream"


async def opens_after_consecutive_failures(bench: Bench):
    """At the number it is configured for, no sooner and no later."""
    failures = await bench.open()
    bench.opens = True
    wanted = bench.settings.consecutive
    if failures != wanted:
        raise Wrong(f"opened after {failures} failures; it is set to {wanted}")
    return f"after {failures}"


async def opens_on_a_rate(bench: Bench):
    """Three failures, a success, and so on: never a run, and still bad."""
    for nth in range(12 * bench.settings.consecutive):
        bench.worker.play = OK if nth % 4 == 3 else FAILS
        _, arrived = await bench.reaches()
        if not arrived:
            return f"after {nth} requests, three of four failed"
    raise Wrong(f"still closed after {nth + 1} requests, three of four failed")


async def open_spares_the_upstream(bench: Bench):
    """For the whole pause, from many clients, nothing arrives."""
    await bench.opened()
    began, before, refused = time.monotonic(), bench.worker.seen, 0
    while time.monotonic() - began < bench.settings.pause_s * 0.6:
        await asyncio.gather(*(bench.ask() for _ in range(8)))
        refused += 8
        await asyncio.sleep(0.1)
    arrived = bench.worker.seen - before
    if arrived:
        raise Wrong(f"{arrived} of {refused} requests arrived upstream while it was open")
    return f"0 of {refused} arrived"


async def open_refuses_at_once(bench: Bench):
    """With a hint that lies within the pause."""
    await bench.opened()
    answers = [await bench.ask() for _ in range(8)]
    slowest = max(heard.took_s for heard in answers)
    hints = [heard.retry_after_s for heard in answers]
    most = bench.settings.pause_s * 1.2 + 1
    seen = f"{answers[0].status} within {slowest * 1e3:.0f} ms, retry hint {hints[0]}"
    if any(heard.ok for heard in answers):
        raise Wrong("some were answered while it was open")
    if slowest > AT_ONCE_S:
        raise Wrong(f"the slowest refusal took {slowest:.2f} s")
    if any(hint is None for hint in hints):
        raise Wrong(f"no retry hint: {seen}")
    if not all(0 < hint <= most for hint in hints):
        raise Wrong(f"a retry hint beyond the pause of {bench.settings.pause_s:g} s: {seen}")
    return seen


async def half_open_probes_are_bounded(bench: Bench):
    """Everybody comes back at once, and the upstream sees a few."""
    await bench.opened()
    bench.worker.play = Play(hold=True)
    await bench.over()
    before = bench.worker.seen
    crowd = [asyncio.create_task(bench.ask()) for _ in range(CROWD)]
    await asyncio.sleep(0.8)
    arrived, refused = bench.worker.seen - before, sum(task.done() for task in crowd)
    bench.worker.play = OK
    bench.worker.release()
    await asyncio.gather(*crowd)
    seen = f"{arrived} of {CROWD} arrived, {refused} refused meanwhile"
    if not 0 < arrived <= bench.settings.probes:
        raise Wrong(f"{seen}; at most {bench.settings.probes} are probes")
    return seen


async def a_cancelled_probe_settles(bench: Bench):
    """Probes whose clients go away, one by one and many at once, before the
    first token and after: none may keep the breaker from closing."""
    await bench.opened()
    await bench.over()
    arrived = 0
    for play, cancel in [(Play(hold=True), Cancel(after_s=0.15)), (Play(hold_after=2), Cancel(pieces=2))] * 3:
        bench.worker.play = play
        before = bench.worker.seen
        await asyncio.gather(*(bench.ask(cancel=cancel) for _ in range(CROWD // 3)))
        arrived += bench.worker.seen - before
        await asyncio.sleep(0.05)
    if not arrived:
        raise Wrong("no probe arrived after the pause")
    bench.worker.play = OK
    began = time.monotonic()
    most = 2 * bench.settings.pause_s
    while time.monotonic() - began < most:
        heard, _ = await bench.reaches()
        if heard.ok:
            return f"{arrived} probes cancelled; closed {time.monotonic() - began:.1f} s later"
        await asyncio.sleep(0.1)
    raise Wrong(f"{arrived} probes cancelled; nothing passes {most:g} s later: {heard.short()}")


async def a_failed_probe_opens_again(bench: Bench):
    """For another pause."""
    await bench.opened()
    await bench.over()
    before = bench.worker.seen
    for _ in range(2 * bench.settings.probes):
        await bench.ask()
    probes = bench.worker.seen - before
    began, before = time.monotonic(), bench.worker.seen
    while time.monotonic() - began < bench.settings.pause_s * 0.6:
        await bench.ask()
        await asyncio.sleep(0.05)
    arrived = bench.worker.seen - before
    if not 0 < probes <= bench.settings.probes:
        raise Wrong(f"{probes} of {2 * bench.settings.probes} requests arrived after the pause")
    if arrived:
        raise Wrong(f"{probes} probes failed, and {arrived} more requests arrived at once")
    return f"{probes} failed, and nothing for {bench.settings.pause_s * 0.6:.1f} s"


async def closing_does_not_stampede(bench: Bench):
    """A crowd waits. In the second after the first answer the upstream sees at
    most half as many at once as it sees in the end."""
    await bench.opened()
    worker = bench.worker
    worker.play = Play(first_s=0.2)
    whole, starts = len(worker.whole), len(worker.starts)
    leaves = asyncio.Event()
    crowd = [asyncio.create_task(_rude(bench, leaves)) for _ in range(CROWD)]
    began = time.monotonic()
    most = 0
    # A slow gateway may never have them all upstream at once.
    while (most < CROWD * 3 // 4 or len(worker.whole) == whole) and time.monotonic() - began < FULL_WITHIN_S:
        await asyncio.sleep(0.05)
        most = max((active for _, active in worker.starts[starts:]), default=0)
    took = time.monotonic() - began
    leaves.set()
    await asyncio.gather(*crowd)
    if len(worker.whole) == whole:
        raise Wrong(f"nothing came through in {took:.0f} s")
    first = worker.whole[whole][1]
    early = max(active for at, active in worker.starts[starts:] if at <= first + 1.0)
    seen = f"{early} of {CROWD} at once in the first second, {most} at most in {took:.1f} s"
    if early > most // 2:
        raise Wrong(seen)
    return seen


async def _rude(bench: Bench, leaves: asyncio.Event):
    # Not cancelled: `wait_for` may swallow that before Python 3.12.
    while not leaves.is_set():
        if not (await bench.ask()).ok:
            await asyncio.sleep(RUDE_S)


async def an_error_in_the_stream_counts(bench: Bench):
    """The head said 200; the answer is broken all the same."""
    return await _counts(bench, Play(fault="error"))


async def a_cut_stream_counts(bench: Bench):
    """The connection breaks in the middle."""
    return await _counts(bench, Play(fault="cut"))


async def an_unfinished_stream_counts(bench: Bench):
    """The body ends in order, and the answer has no end."""
    return await _counts(bench, Play(fault="early"))


async def _counts(bench: Bench, play: Play):
    failures = await bench.open(replace(play, after=3))
    if failures != bench.settings.consecutive:
        raise Wrong(f"opened after {failures}; it is set to {bench.settings.consecutive}")
    return f"opened after {failures}"


async def an_unreachable_upstream_counts(bench: Bench):
    """Nobody listens. Nothing can be counted upstream: the breaker is open if
    the upstream is not asked when it comes back."""
    await bench.worker.leave()
    try:
        for _ in range(bench.settings.consecutive):
            await bench.ask()
    finally:
        await bench.worker.listen()
    bench.worker.play = OK
    heard, arrived = await bench.reaches()
    if arrived:
        raise Wrong(f"asked again at once after {bench.settings.consecutive} refused connections")
    return f"opened after {bench.settings.consecutive}; {heard.status}"


CASES = [
    slow_streams_are_fine,
    client_cancels_are_neutral,
    client_errors_are_neutral,
    throttling_is_neutral,
    opens_after_consecutive_failures,
    opens_on_a_rate,
    open_spares_the_upstream,
    open_refuses_at_once,
    half_open_probes_are_bounded,
    a_cancelled_probe_settles,
    a_failed_probe_opens_again,
    closing_does_not_stampede,
    an_error_in_the_stream_counts,
    a_cut_stream_counts,
    an_unfinished_stream_counts,
    an_unreachable_upstream_counts,
]
