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


@dataclass
class _Tally:
    requests: int
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    ended: int = 0

    def experience(
        self, correction: Correction, step_tokens: float, extra_s: float = 0.0
    ) -> Experience:
        tpot = self.tpot_s / self.requests
        late = correction.first_token_steps * tpot * step_tokens
        late += correction.request_overhead_s + extra_s
        return Experience(self.ttft_s / self.requests + late, tpot)


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
    """Prefill and decode on the same devices."""
    decode, mixed = table.decode_surface(correction), table.mixed_surface(correction)
    ranks, lengths, mixes = table.ranks, load.lengths(), scheduling.mixes
    gain = correction.step_tokens(table.drafts)
    slots, budget = max(scheduling.slots, 1), scheduling.step_tokens * ranks
    tally = _Tally(len(lengths))
    # Sent but not yet looked at; then waiting for their prefill.
    sent: deque[tuple[float, int]] = deque()
    waiting = deque((0.0, i, lengths[i][0]) for i in range(min(load.clients, len(lengths))))
    count = len(waiting)
    now, context = 0.0, 0.0
    progress, unpolled, gathered = 0.0, 0, 0
    running: list[tuple[float, int]] = []
    first: dict[int, float] = {}
    while tally.ended < len(lengths):
        batch = len(running)
        if sent and (unpolled >= scheduling.poll_steps or not batch):
            waiting.extend((arrived, i, lengths[i][0]) for arrived, i in sent)
            sent.clear()
            unpolled = 0
        room = waiting and batch < slots
        complete = len(waiting) >= ranks or batch < ranks or gathered >= scheduling.gather_steps
        if room and complete:
            tokens = 0
            done: list[tuple[float, int]] = []
            while waiting and tokens < budget and batch + len(done) < slots:
                arrived, i, left = waiting.popleft()
                taken = min(left, budget - tokens)
                tokens += taken
                if taken < left:
                    waiting.appendleft((arrived, i, left - taken))
                else:
                    done.append((arrived, i))
            # A prompt is not split over ranks: the fullest one sets the pace.
            per_rank = max(tokens / ranks, min(tokens, load.isl))
            now += mixed(-(-batch // ranks) if mixes else 0, per_rank)
            if mixes and batch:
                progress += gain
                context += gain * batch
            # After a prefill the engine looks for requests at once.
            unpolled, gathered = scheduling.poll_steps if sent else 0, 0
            for arrived, i in done:
                tally.ttft_s += now - arrived
                first[i] = now
                heapq.heappush(running, (progress + lengths[i][1] - 1, i))
                context += lengths[i][0]
        else:
            steps = max(-(-(running[0][0] - progress) // gain), 1.0)
            if sent:
                steps = min(steps, scheduling.poll_steps - unpolled)
            if room:
                steps = min(steps, scheduling.gather_steps - gathered)
                gathered += int(steps)
            each = decode(-(-batch // ranks), context / batch + gain * steps / 2)
            now += steps * each
            unpolled += int(steps)
            if not sent:
                # The looks in between found nothing; one may fall on this very step.
                unpolled = (unpolled - 1) % scheduling.poll_steps + 1
            progress += gain * steps
            context += gain * steps * batch
        while running and running[0][0] <= progress:
            _, i = heapq.heappop(running)
            context -= sum(lengths[i]) - 1
            tally.tpot_s += (now - first.pop(i)) / (lengths[i][1] - 1)
            tally.ended += 1
            if count < len(lengths):
                sent.append((now, count))
                count += 1
    return tally.experience(correction, gain)


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
    lengths = load.lengths()
    tally = _Tally(len(lengths))
    waiting = deque((0.0, i) for i in range(min(load.clients, len(lengths))))
    sent = len(waiting)
    now, progress = 0.0, 0.0
    free = pools.prefill_workers
    busy: list[tuple[float, int, list[tuple[float, int]]]] = []
    ready: deque[tuple[float, int]] = deque()
    running: list[tuple[float, int]] = []
    first: dict[int, float] = {}
    context, launched = 0.0, 0
    lanes = pools.decode_workers * decode.ranks
    while tally.ended < len(lengths):
        while free and waiting:
            budget, batch = pools.step_tokens * prefill.ranks, [waiting.popleft()]
            tokens = lengths[batch[0][1]][0]
            while waiting and tokens + lengths[waiting[0][1]][0] <= budget:
                batch.append(waiting.popleft())
                tokens += lengths[batch[-1][1]][0]
            per_rank = max(tokens / prefill.ranks, min(tokens, load.isl))
            heapq.heappush(busy, (now + batch_s(0, per_rank), launched, batch))
            launched += 1
            free -= 1
        while ready and len(running) < max(pools.decode_slots, 1):
            arrived, i = ready.popleft()
            tally.ttft_s += now - arrived
            first[i] = now
            heapq.heappush(running, (progress + lengths[i][1] - 1, i))
            context += lengths[i][0]
        pace = 0.0
        ends = float("inf")
        if running:
            each = surface(-(-len(running) // lanes), context / len(running))
            pace = each / gain
            ends = now + (running[0][0] - progress) * pace
        event = min(ends, busy[0][0] if busy else float("inf"))
        if running:
            steps = (event - now) / pace
            progress += steps
            context += steps * len(running)
        now = event
        while busy and busy[0][0] <= now:
            ready.extend(heapq.heappop(busy)[2])
            free += 1
        while running and running[0][0] <= progress + 1e-9:
            _, i = heapq.heappop(running)
            context -= sum(lengths[i]) - 1
            tally.tpot_s += (now - first.pop(i)) / (lengths[i][1] - 1)
            tally.ended += 1
            if sent < len(lengths):
                waiting.append((now, sent))
                sent += 1
    return tally.experience(correction, gain, correction.handover_s)
