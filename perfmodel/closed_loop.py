"""A closed loop of clients on one deployment, request by request.

Benchmarks hold a number of clients, each of which sends its next request when the last
one is answered. All begin at once, so the first wave waits in a long queue; later
requests come spread out. Neither is a matter of averages, so the loop is played: steps
between two events (a prompt done, an output ended) are all alike and taken together,
which makes a run cost a few events per request.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass

from perfmodel.correction import Correction
from perfmodel.step_table import StepTable

WAVES = 10
"""Requests per client of the public benchmark runs."""


@dataclass(frozen=True)
class Load:
    """What the clients send.

    Attributes:
        clients: requests in flight, kept constant.
        isl, osl: mean prompt and output tokens.
        spread: lengths are uniform within this share around the mean (0: all the same).
        waves: requests per client.
    """

    clients: int
    isl: float
    osl: float
    spread: float = 0.0
    waves: int = WAVES

    def lengths(self) -> list[tuple[int, int]]:
        """Prompt and output tokens of each request; the same at every call."""
        draw = random.Random(0)

        def length(mean: float) -> int:
            low, high = round(mean * (1 - self.spread)), round(mean * (1 + self.spread))
            return max(draw.randint(low, high), 1)

        count = self.clients * self.waves
        return [(length(self.isl), max(length(self.osl), 2)) for _ in range(count)]


@dataclass(frozen=True)
class Experience:
    """What the clients see, means over all requests.

    Attributes:
        ttft_s: from sending a request to its first token.
        tpot_s: between a request's tokens after the first.
    """

    ttft_s: float
    tpot_s: float


class _Clients:
    """What each client sends when, and what it has seen; it sends again once it is answered.

    Attributes:
        lengths: prompt and output tokens of each request.
        sent: requests that the engine has not looked at yet, as (arrival, request), soonest first.
        fixed_s, tokens: of what the engine adds to each request besides its steps: a time, and
            the tokens of the iterations by which it sends late.

    Args:
        step_tokens: tokens that a sequence gains per iteration.
        extra_s: further time that the engine adds to each request.
    """

    def __init__(
        self, load: Load, correction: Correction, step_tokens: float, extra_s: float = 0.0
    ) -> None:
        self.lengths = load.lengths()
        self.sent = [(0.0, i) for i in range(min(load.clients, len(self.lengths)))]
        self.fixed_s = correction.request_overhead_s + extra_s
        self.tokens = correction.first_token_steps * step_tokens
        self.ended = 0
        self._count = len(self.sent)
        self._ttft_s = self._tpot_s = 0.0

    def arrived(self, now: float) -> list[tuple[float, int]]:
        """Take over what was sent until now."""
        found = []
        while self.sent and self.sent[0][0] <= now:
            found.append(heapq.heappop(self.sent))
        return found

    def answer(self, i: int, arrived: float, first: float, now: float) -> None:
        """A request has all its tokens; its client sends the next one."""
        tpot = (now - first) / (self.lengths[i][1] - 1)
        late = self.fixed_s + self.tokens * tpot
        self._ttft_s += first - arrived + late
        self._tpot_s += tpot
        self.ended += 1
        if self._count < len(self.lengths):
            heapq.heappush(self.sent, (now + late, self._count))
            self._count += 1

    @property
    def waiting(self) -> bool:
        """Whether a request is still to be answered."""
        return self.ended < len(self.lengths)

    def experience(self) -> Experience:
        """Means over all requests."""
        return Experience(self._ttft_s / len(self.lengths), self._tpot_s / len(self.lengths))


@dataclass(frozen=True)
class Scheduling:
    """How a continuous deployment's engine admits prompts.

    Attributes:
        slots: sequences for which the replica has cache; others wait.
        step_tokens: prompt tokens that an iteration takes per attention rank.
        mixes: decodes ride along with prompts; otherwise they wait for them.
        poll_steps: decode iterations between two looks for new requests.
        gather_steps: iterations that prompts wait at most until there is one for every
            attention rank, while all ranks decode.
    """

    slots: int
    step_tokens: int
    mixes: bool
    poll_steps: int = 1
    gather_steps: int = 0


def continuous(
    table: StepTable, correction: Correction, load: Load, scheduling: Scheduling
) -> Experience:
    """Prefill and decode on the same devices.

    In a pipeline every stage works on a micro-batch of its own: a token passes through all
    stages, while prompts, in one micro-batch at a time, hold the others up at each stage only.
    """
    decode, mixed = table.decode_surface(correction), table.mixed_surface(correction)
    ranks, stages, mixes = table.ranks, table.stages, scheduling.mixes
    gain = correction.step_tokens(table.drafts)
    slots, budget = max(scheduling.slots, 1), scheduling.step_tokens * ranks
    clients = _Clients(load, correction, gain)
    lengths = clients.lengths
    waiting: deque[tuple[float, int, int]] = deque()
    now, context = 0.0, 0.0
    progress, unpolled, gathered = 0.0, 0, 0
    running: list[tuple[float, int]] = []
    began: dict[int, tuple[float, float]] = {}
    while clients.waiting:
        batch = len(running)
        due = bool(clients.sent) and clients.sent[0][0] <= now
        if due and (unpolled >= scheduling.poll_steps or not batch):
            waiting.extend((arrived, i, lengths[i][0]) for arrived, i in clients.arrived(now))
            unpolled, due = 0, False
        room = waiting and batch < slots
        complete = len(waiting) >= ranks or batch < ranks or gathered >= scheduling.gather_steps
        micro_batch = -(-batch // (ranks * stages))
        if room and complete:
            tokens, largest = 0, 0
            done: list[tuple[float, int]] = []
            rest: list[tuple[float, int, int]] = []
            while waiting and tokens < budget and batch + len(done) + len(rest) < slots:
                arrived, i, left = waiting.popleft()
                # A prompt is not split over ranks.
                taken = min(left, scheduling.step_tokens, budget - tokens)
                tokens += taken
                largest = max(largest, taken)
                if taken < left:
                    rest.append((arrived, i, left - taken))
                else:
                    done.append((arrived, i))
            waiting.extendleft(reversed(rest))
            beside = micro_batch if mixes else 0
            took = mixed(beside, max(tokens / ranks, largest), tokens / ranks)
            others = decode(beside, context / batch) if mixes and batch and stages > 1 else 0.0
            first = now + took
            now += (took + (stages - 1) * others) / stages
            if mixes and batch:
                progress += gain
                context += gain * batch
            # After a prefill the engine looks for requests at once.
            unpolled, gathered = scheduling.poll_steps, 0
            for arrived, i in done:
                began[i] = (arrived, first)
                heapq.heappush(running, (progress + lengths[i][1] - 1, i))
                context += lengths[i][0]
        elif batch:
            steps = max(-(-(running[0][0] - progress) // gain), 1.0)
            each = decode(micro_batch, context / batch + gain * steps / 2)
            if due:
                steps = min(steps, scheduling.poll_steps - unpolled)
            elif clients.sent:
                steps = min(steps, max(-(-(clients.sent[0][0] - now) // each), 1.0))
            if room:
                steps = min(steps, scheduling.gather_steps - gathered)
                gathered += int(steps)
            each = decode(micro_batch, context / batch + gain * steps / 2)
            now += steps * each
            unpolled += int(steps)
            if not due:
                # The looks in between found nothing; one may fall on this very step.
                unpolled = (unpolled - 1) % scheduling.poll_steps + 1
            progress += gain * steps
            context += gain * steps * batch
        else:
            now = max(now, clients.sent[0][0])
        while running and running[0][0] <= progress:
            _, i = heapq.heappop(running)
            context -= sum(lengths[i]) - 1
            clients.answer(i, *began.pop(i), now)
    return clients.experience()


@dataclass(frozen=True)
class Pools:
    """Workers of a disaggregated deployment.

    Attributes:
        prefill_workers, decode_workers: replicas of each.
        decode_slots: sequences for which all decode replicas have cache.
        step_tokens: prompt tokens of one prefill batch per attention rank.
    """

    prefill_workers: int
    decode_workers: int
    decode_slots: int
    step_tokens: int


def disaggregated(
    prefill: StepTable, decode: StepTable, correction: Correction, load: Load, pools: Pools
) -> Experience:
    """Prompts on one pool, outputs on another; a sequence holds its decode slot from handover."""
    surface = decode.decode_surface(correction)
    gain = correction.step_tokens(decode.drafts)
    batch_s = prefill.mixed_surface(correction)
    lanes = pools.decode_workers * decode.ranks * decode.stages
    clients = _Clients(load, correction, gain, correction.handover_s)
    lengths = clients.lengths
    waiting: deque[tuple[float, int]] = deque()
    now, progress, context, launched = 0.0, 0.0, 0.0, 0
    # When each prefill worker's first stage is free again; batches on their way; their ends.
    free = [0.0] * pools.prefill_workers
    busy: list[tuple[float, int, list[tuple[float, int]]]] = []
    ready: deque[tuple[float, int]] = deque()
    running: list[tuple[float, int]] = []
    began: dict[int, tuple[float, float]] = {}
    while clients.waiting:
        waiting.extend(clients.arrived(now))
        while waiting and free[0] <= now:
            heapq.heappop(free)
            budget, batch = pools.step_tokens * prefill.ranks, [waiting.popleft()]
            tokens = largest = lengths[batch[0][1]][0]
            while waiting and tokens + lengths[waiting[0][1]][0] <= budget:
                batch.append(waiting.popleft())
                tokens += lengths[batch[-1][1]][0]
                largest = max(largest, lengths[batch[-1][1]][0])
            took = batch_s(0, max(tokens / prefill.ranks, largest), tokens / prefill.ranks)
            heapq.heappush(free, now + took / prefill.stages)
            heapq.heappush(busy, (now + took, launched, batch))
            launched += 1
        while ready and len(running) < max(pools.decode_slots, 1):
            arrived, i = ready.popleft()
            began[i] = (arrived, now)
            heapq.heappush(running, (progress + lengths[i][1] - 1, i))
            context += lengths[i][0]
        pace, event = 0.0, float("inf")
        if running:
            each = surface(-(-len(running) // lanes), context / len(running))
            pace = each / gain
            event = now + (running[0][0] - progress) * pace
        if busy:
            event = min(event, busy[0][0])
        if waiting:
            event = min(event, free[0])
        if clients.sent:
            event = min(event, clients.sent[0][0])
        if running:
            steps = (event - now) / pace
            progress += steps
            context += steps * len(running)
        now = max(now, event)
        while busy and busy[0][0] <= now:
            ready.extend(heapq.heappop(busy)[2])
        while running and running[0][0] <= progress + 1e-9:
            _, i = heapq.heappop(running)
            context -= sum(lengths[i]) - 1
            clients.answer(i, *began.pop(i), now)
    return clients.experience()
