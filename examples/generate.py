"""Write ``events.ndjson``: a few days of an LLM gateway's traffic, the same bytes each time.

Every kind of event that a gateway meets is in it: cached and cache-written input, reasoning,
long context, batches and service tiers, web searches, images, streams, clients that hang up,
failures, events sent twice, one told differently the second time, two that cannot be read, and
two whose model has no price. Counts are made up; the models and their prices are public.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

FILE = Path(__file__).with_name("events.ndjson")
SEED = 20261120
FIRST = datetime(2026, 11, 17, 6, 0, tzinfo=UTC)
LAST = datetime(2026, 11, 20, 17, 45, tzinfo=UTC)
ORDINARY = 260
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
USERS = [f"user_{number:02d}" for number in range(1, 15)]
FEATURES = {"support-bot": "product_call", "search": "product_call", "ide": "dev_tools", "": "api_key"}

Event = dict[str, Any]


class Profile(NamedTuple):
    """How a model is used here: shares in percent, tokens as typical sizes."""

    model: str
    share: int
    provider: str
    input: int
    output: int
    cached: int = 0
    reasoning: int = 0
    written: int = 0
    endpoint: str = CHAT
    routed: str = ""


PROFILES = [
    Profile("gpt-4o-mini", 16, "openai", 900, 180, cached=45),
    Profile("gpt-4o", 8, "openai", 1_800, 320, cached=40),
    Profile("gpt-5-mini", 9, "openai", 2_400, 700, cached=50, reasoning=55),
    Profile("gpt-5.3-codex", 6, "openai", 14_000, 1_900, cached=70, reasoning=40, endpoint=RESPONSES),
    Profile("gpt-6.1-sol", 4, "openai", 6_000, 2_200, cached=55, reasoning=60, endpoint=RESPONSES),
    Profile("claude-sonnet-4-6", 10, "anthropic", 9_000, 900, cached=55, reasoning=25, written=20),
    Profile("claude-opus-5-5", 4, "anthropic", 16_000, 1_600, cached=65, reasoning=35, written=15),
    Profile("claude-haiku-5-5", 7, "anthropic", 3_000, 240, cached=50, written=10),
    Profile("gemini-3-flash", 8, "google", 2_600, 420, cached=30, reasoning=30),
    Profile("gemini-2.5-pro", 4, "google", 11_000, 1_300, cached=35, reasoning=50),
    Profile("deepseek-chat", 8, "deepseek", 1_600, 350, cached=60),
    Profile("deepseek-v4-pro", 4, "deepseek", 5_500, 1_500, cached=50, reasoning=60),
    Profile("deepai-chat", 6, "deepailab", 1_100, 260, cached=40, routed="deepseek-chat"),
    Profile("grok-4.7", 3, "xai", 3_200, 800, cached=30, reasoning=45),
    Profile("mistral-large-4", 3, "mistral", 2_800, 600, cached=25),
    Profile("llama-3.3-70b-versatile", 3, "groq", 1_200, 300),
]


class Traffic:
    """Makes events. Ids are version 7 UUIDs, so they rise with time as a real gateway's do."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = FIRST

    def moment(self) -> datetime:
        """An instant of the stretch, more often by day than by night, to the millisecond."""
        span = int((LAST - FIRST).total_seconds() * 1000)
        while True:
            at = FIRST + timedelta(milliseconds=self.random.randrange(span))
            if self.random.random() < (1.0 if 7 <= at.hour < 19 else 0.25):
                return at

    def around(self, typical: int) -> int:
        """A count scattered around a typical size."""
        return max(1, round(typical * self.random.lognormvariate(0, 0.55)))

    def part(self, whole: int, percent: int) -> int:
        """Some of a whole: none at all for a third of the requests."""
        if not percent or self.random.random() < 0.34:
            return 0
        return whole * self.random.randint(percent // 2, min(95, percent + 20)) // 100

    def event(self, profile: Profile, at: datetime, **more: Any) -> Event:
        """A finished request as its gateway reports it; ``more`` overrides, ``None`` removes."""
        feature = self.random.choices(list(FEATURES), weights=[4, 2, 2, 5])[0]
        stream = self.random.random() < 0.6
        entire = self.around(profile.input)
        output = self.around(profile.output)
        cached = self.part(entire, profile.cached)
        written = self.part(entire - cached, profile.written)
        latency = 250 + output * self.random.randint(6, 22)
        event: Event = {
            "event_id": self.event_id(at),
            "request_id": f"req_{self.random.getrandbits(64):016x}",
            "occurred_at": self.instant(at),
            "end_user": self.random.choice(USERS),
            "source": FEATURES[feature],
            "endpoint": profile.endpoint,
            "model": profile.model,
            "routed_model": profile.routed or profile.model,
            "provider": profile.provider,
            "channel": f"{profile.provider}-{self.random.choice(['eu', 'us'])}-{self.random.randint(1, 2)}",
            "attempts": 2 if self.random.random() < 0.06 else 1,
            "stream": stream,
            "status": 200,
            "finish_reason": self.random.choices(["stop", "tool_calls", "length"], weights=[86, 11, 3])[0],
            "input_tokens": entire,
            "cached_input_tokens": cached or None,
            "cache_write_tokens": written or None,
            "output_tokens": output,
            "reasoning_tokens": self.part(output, profile.reasoning) or None,
            "ttft_ms": self.random.randint(180, 900) if stream else None,
            "latency_ms": latency,
            "metadata": {"feature": feature, "env": "production"} if feature else None,
        }
        event.update(more)
        return {name: value for name, value in event.items() if value is not None}

    def event_id(self, at: datetime) -> str:
        """A version 7 UUID of the instant."""
        ms = int(at.timestamp() * 1000)
        value = (ms << 80) | (0x7 << 76) | (self.random.getrandbits(12) << 64)
        return f"gw1-{UUID(int=value | (0x2 << 62) | self.random.getrandbits(62))}"

    def instant(self, at: datetime) -> int | float | str:
        """Seconds, seconds with milliseconds or RFC 3339: gateways differ."""
        style = self.random.choices(["seconds", "decimal", "text"], weights=[6, 3, 1])[0]
        if style == "seconds":
            return int(at.timestamp())
        if style == "decimal":
            return round(at.timestamp(), 3)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def profile(model: str) -> Profile:
    """The profile of a model by name."""
    return next(found for found in PROFILES if found.model == model)


def special(make: Traffic) -> Iterator[tuple[datetime, Event]]:
    """Events that ordinary traffic holds too rarely to be left to chance."""

    def one(like: str, /, **more: Any) -> tuple[datetime, Event]:
        at = make.moment()
        return at, make.event(profile(like), at, **more)

    plain: Event = {"cached_input_tokens": None, "cache_write_tokens": None, "reasoning_tokens": None}

    # Above 272,000, 200,000 and 100,000 input tokens the whole request has other rates.
    yield one(
        "gpt-6.1-sol", input_tokens=301_440, cached_input_tokens=262_144, output_tokens=6_120, reasoning_tokens=4_400
    )
    yield one("gemini-2.5-pro", **plain | {"input_tokens": 243_118, "output_tokens": 3_904})
    yield one(
        "claude-haiku-5-5", **plain | {"input_tokens": 148_020, "cache_write_tokens": 96_000, "output_tokens": 812}
    )

    # Caches written for an hour, alone and beside five-minute ones.
    yield one("claude-sonnet-4-6", **plain | {"input_tokens": 41_200, "cache_write_1h_tokens": 38_912})
    yield one(
        "claude-opus-5-5",
        input_tokens=52_700,
        cached_input_tokens=30_720,
        cache_write_tokens=4_096,
        cache_write_1h_tokens=12_288,
    )

    # Searches are priced per use, beside the tokens.
    for model, searches in (("claude-sonnet-4-6", 3), ("gpt-5-mini", 1), ("gemini-3-flash", 2)):
        yield one(model, units={"web_search_requests": searches})

    # Pictures and speech come in as tokens of their own kind.
    yield one("gemini-3-flash", **plain | {"input_tokens": 4_512, "image_input_tokens": 3_096, "output_tokens": 260})
    yield one("gemini-3-flash", **plain | {"input_tokens": 9_870, "audio_input_tokens": 9_600, "output_tokens": 540})
    yield one("gpt-4o", **plain | {"input_tokens": 1_985, "image_input_tokens": 1_105, "output_tokens": 190})

    # A nightly job sent as a batch, and tiers that the provider served.
    night = datetime(2026, 11, 19, 1, 30, tzinfo=UTC)
    for number in range(12):
        at = night + timedelta(seconds=7 * number)
        job = {"feature": "nightly-summaries", "env": "production", "job": "2026-11-19"}
        model = "claude-haiku-5-5" if number % 2 else "mistral-large-4"
        batch = make.event(
            profile(model), at, batch=True, stream=False, ttft_ms=None, metadata=job, source="product_call"
        )
        yield at, batch
    yield one("gpt-5-mini", service_tier="flex")
    yield one("gpt-5.3-codex", service_tier="priority")
    yield one("gpt-4o", service_tier="default")

    # Embeddings have no output; three vendors' ways of calling the same thing.
    for model, provider, tokens in (
        ("text-embedding-3-small", "openai", 7_420), ("text-embedding-3-small", "openai", 64_000),
        ("gemini-embedding-001", "google", 1_830), ("text-embedding-3-large", "openai", 12_288),
    ):  # fmt: skip
        at = make.moment()
        embedding = Profile(model, 0, provider, tokens, 0, endpoint="/v1/embeddings")
        yield (
            at,
            make.event(
                embedding, at, input_tokens=tokens, output_tokens=0, stream=False, ttft_ms=None, finish_reason=None
            ),
        )

    # The client hung up; what was produced until then is billed.
    for model, output in (("claude-sonnet-4-6", 71), ("gpt-4o-mini", 12), ("deepseek-chat", 0)):
        yield one(
            model,
            outcome="client_aborted",
            stream=True,
            output_tokens=output,
            reasoning_tokens=None,
            finish_reason=None,
        )

    # The provider failed: after some output, which is billed, and before any, which is not.
    failed: Event = {"outcome": "upstream_error", "finish_reason": None, "reasoning_tokens": None}
    yield one("gpt-4o", **failed | {"status": 502, "output_tokens": 44, "stream": True})
    nothing = plain | {"output_tokens": 0, "finish_reason": None, "ttft_ms": None}
    yield one("gpt-5-mini", **nothing | failed | {"status": 500, "input_tokens": 0, "attempts": 3})
    yield one("claude-opus-5-5", **nothing | {"status": 429, "input_tokens": 0, "stream": False})

    # Nobody has told what these cost: kept, not charged, until somebody does.
    yield one(
        "llama-3.3-70b-versatile", model="aurora-7b-instruct", routed_model="aurora-7b-instruct", provider="selfhosted"
    )
    yield one(
        "deepseek-chat", model="deepshi-3.0", routed_model="deepshi-3.0", provider="deepshi", channel="deepshi-eu-1"
    )


def lines(seed: int = SEED) -> list[str]:
    """The file's lines in the order in which the gateway sends them."""
    make = Traffic(seed)
    weights = [found.share for found in PROFILES]
    moments = [make.moment() for _ in range(ORDINARY)]
    events = [(at, make.event(make.random.choices(PROFILES, weights=weights)[0], at)) for at in moments]
    events += special(make)
    events.sort(key=lambda pair: pair[0])
    told = [json.dumps(event, separators=(",", ":")) for _, event in events]

    # Answers get lost, so gateways send again: some at once, some much later.
    for place, later in ((18, 1), (61, 1), (104, 3), (150, 40), (199, 1), (240, 22)):
        told.insert(place + later, told[place])
    # The same id with other counts is another story, and is refused.
    first = json.loads(told[30])
    told.insert(47, json.dumps(first | {"output_tokens": first["output_tokens"] + 500}, separators=(",", ":")))
    # A line cut off where the gateway was killed, and a count written as text.
    told.insert(88, told[88][:143])
    wrong = json.loads(told[170])
    at = LAST - timedelta(hours=30)
    wrong |= {"event_id": make.event_id(at), "occurred_at": int(at.timestamp()), "input_tokens": "1830"}
    told.insert(171, json.dumps(wrong, separators=(",", ":")))
    return told


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
