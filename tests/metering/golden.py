"""Golden requests: a published price, what was used and when, and the cost worked out by hand.

Every expected cost is a literal that was summed on paper from the published rates; ``working`` is
that paper: each pool's tokens times its rate in USD per 1,000,000 tokens, which is micro-dollars
(µ$), fees in µ$ apiece, and the sum. ``tests/metering/test_golden.py`` does the sums again with
fractions and asks ``metering.rating`` for the same.

Where a price comes from:

* ``read``: read in a stored copy of the vendor's page;
* ``by way of genai-prices``: that package's transcript of the page, which the seed catalog uses;
* ``known``: as the page was known in that month, not looked up again;
* ``made up``: no vendor sells this; it fills cells that rating knows and no price list has yet.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from metering.rating import Counts

COUNT_MAX = 2_147_483_647

Conditions = Mapping[str, Any]
Rates = Mapping[str, str]


class Card(NamedTuple):
    """A vendor's price of a model as published, and since when (for models whose price changed)."""

    vendor: str
    model: str
    source: str
    rates: Mapping[str, Any]
    since: str = "2024-01-01T00:00:00Z"

    @property
    def published(self) -> bool:
        """Whether a vendor sells at this price."""
        return not self.source.startswith("made up")


class Case(NamedTuple):
    """A request and its cost; ``entry`` is the place of the card's entry that has to price it."""

    name: str
    card: Card
    entry: int
    at: str
    counts: Counts
    working: str
    usd: str


class Refusal(NamedTuple):
    """A request without a cost: ``says`` is in the message; ``param`` is the count to blame, if counts are."""

    name: str
    card: Card
    counts: Counts
    says: str
    param: str | None = None
    at: str = "2026-11-20T12:00:00Z"


def sheet(*entries: tuple[Conditions, Rates], request: str = "0", **units: str) -> Mapping[str, Any]:
    """A price document of entries (conditions, USD per 1M tokens), a fee per request, and fees per use."""
    return {"terms": [{"when": when, "rates": rates} for when, rates in entries], "units": units, "request": request}


def twelve(*rates: str) -> Rates:
    """A rate for every pool: the eight of the input, then output, reasoning, image and audio output."""
    pools = (
        "input", "cached_input", "cache_write", "cache_write_1h", "image_input", "audio_input", "cached_image_input",
        "cached_audio_input", "output", "reasoning", "image_output", "audio_output",
    )  # fmt: skip
    return dict(zip(pools, rates, strict=True))


def daily(start: str, end: str) -> Conditions:
    """The hours of every day in UTC."""
    return {"zone": "UTC", "days": [0, 1, 2, 3, 4, 5, 6], "start": start, "end": end}


def weekdays(start: str, end: str) -> Conditions:
    """The hours of Monday to Friday in UTC."""
    return {"zone": "UTC", "days": [0, 1, 2, 3, 4], "start": start, "end": end}


# fmt: off
DEEPSEEK_PAGE = "https://api-docs.deepseek.com/quick_start/pricing"

DEEPSEEK_CHAT = Card(
    "DeepSeek", "deepseek-chat", f"{DEEPSEEK_PAGE}, read (August 2025): discount price UTC 16:30-00:30",
    sheet(
        ({}, {"input": "0.27", "cached_input": "0.07", "output": "1.10"}),
        ({"windows": [daily("16:30", "00:30")]}, {"input": "0.135", "cached_input": "0.035", "output": "0.55"}),
    ),
    since="2025-02-26T16:30:00Z",
)
DEEPSEEK_CHAT_AFTER = Card(
    "DeepSeek", "deepseek-chat", f"{DEEPSEEK_PAGE}, read (August 2025): from 2025-09-05 16:00 UTC, no discount",
    sheet(({}, {"input": "0.56", "cached_input": "0.07", "output": "1.68"})),
    since="2025-09-05T16:00:00Z",
)
DEEPSEEK_REASONER = Card(
    "DeepSeek", "deepseek-reasoner", f"{DEEPSEEK_PAGE}, read (August 2025): three quarters off by night",
    sheet(
        ({}, {"input": "0.55", "cached_input": "0.14", "output": "2.19"}),
        ({"windows": [daily("16:30", "00:30")]}, {"input": "0.135", "cached_input": "0.035", "output": "0.55"}),
    ),
)
V4_PRO = Card(
    "DeepSeek", "deepseek-v4-pro", f"{DEEPSEEK_PAGE}, by way of genai-prices 0.2.3: flat until 2026-08-16",
    sheet(({}, {"input": "0.435", "cached_input": "0.003625", "output": "0.87"})),
)
V4_FLAT = Card(
    "DeepSeek", "deepseek-v4-flash", f"{DEEPSEEK_PAGE}, by way of genai-prices 0.2.3: flat until 2026-08-16",
    sheet(({}, {"input": "0.14", "cached_input": "0.0028", "output": "0.28"})),
    since="2026-04-24T00:00:00Z",
)
V4_EVERY_DAY = Card(
    "DeepSeek", "deepseek-v4-flash",
    f"{DEEPSEEK_PAGE}, by way of genai-prices 0.2.3: peak 01:00-04:00 and 06:00-10:00 UTC from 2026-08-16 16:00 UTC",
    sheet(
        ({}, {"input": "0.22", "cached_input": "0.007", "output": "0.66"}),
        ({"windows": [daily("01:00", "04:00"), daily("06:00", "10:00")]},
         {"input": "0.44", "cached_input": "0.014", "output": "1.32"}),
    ),
    since="2026-08-16T16:00:00Z",
)
V4_WEEKDAYS = Card(
    "DeepSeek", "deepseek-v4-flash",
    f"{DEEPSEEK_PAGE}, by way of genai-prices 0.2.3: weekends off-peak from 2026-08-23 in China",
    sheet(
        ({}, {"input": "0.22", "cached_input": "0.007", "output": "0.66"}),
        ({"windows": [weekdays("01:00", "04:00"), weekdays("06:00", "10:00")]},
         {"input": "0.44", "cached_input": "0.014", "output": "1.32"}),
    ),
    since="2026-08-22T16:00:00Z",
)
V41_FLASH = Card(
    "DeepSeek", "deepseek-v4-flash", f"{DEEPSEEK_PAGE}, by way of genai-prices 0.2.3: V4.1 Flash from 2026-09-10",
    sheet(
        ({}, {"input": "0.15", "cached_input": "0.003", "output": "0.6"}),
        ({"windows": [weekdays("01:00", "04:00"), weekdays("06:00", "10:00")]},
         {"input": "0.3", "cached_input": "0.006", "output": "1.2"}),
    ),
    since="2026-09-10T00:00:00Z",
)

OPENAI_PAGE = "https://developers.openai.com/api/docs/pricing"

# Images are input tokens at the input rate there.
SOL = Card(
    "OpenAI", "gpt-5.6-sol", f"{OPENAI_PAGE}, by way of genai-prices 0.2.3 (2026-10-14)",
    sheet(
        ({}, {"input": "4", "cached_input": "0.4", "cache_write": "5", "output": "20",
              "image_input": "4", "cached_image_input": "0.4"}),
        ({"above_input_tokens": 272000},
         {"input": "8", "cached_input": "0.8", "cache_write": "10", "output": "30",
          "image_input": "8", "cached_image_input": "0.8"}),
        ({"service_tier": "flex"},
         {"input": "2", "cached_input": "0.2", "cache_write": "2.5", "output": "10",
          "image_input": "2", "cached_image_input": "0.2"}),
        ({"service_tier": "flex", "above_input_tokens": 272000},
         {"input": "4", "cached_input": "0.4", "cache_write": "5", "output": "15",
          "image_input": "4", "cached_image_input": "0.4"}),
        ({"service_tier": "priority"},
         {"input": "8", "cached_input": "0.8", "cache_write": "10", "output": "40",
          "image_input": "8", "cached_image_input": "0.8"}),
        ({"service_tier": "priority", "above_input_tokens": 272000},
         {"input": "16", "cached_input": "1.6", "cache_write": "20", "output": "60",
          "image_input": "16", "cached_image_input": "1.6"}),
        ({"batch": True},
         {"input": "2", "cached_input": "0.2", "cache_write": "2.5", "output": "10",
          "image_input": "2", "cached_image_input": "0.2"}),
        ({"batch": True, "above_input_tokens": 272000},
         {"input": "4", "cached_input": "0.4", "cache_write": "5", "output": "15",
          "image_input": "4", "cached_image_input": "0.4"}),
        web_search_requests="0.01", file_search_requests="0.0025",
    ),
)
O4_MINI = Card(
    "OpenAI", "o4-mini", f"{OPENAI_PAGE}, by way of genai-prices 0.2.3 (2026-10-12); flex halves round to 0.138 there",
    sheet(
        ({}, {"input": "1.1", "cached_input": "0.275", "output": "4.4"}),
        ({"service_tier": "flex"}, {"input": "0.55", "cached_input": "0.138", "output": "2.2"}),
        ({"service_tier": "priority"}, {"input": "2", "cached_input": "0.5", "output": "8"}),
    ),
)
GPT_4O = Card(
    "OpenAI", "gpt-4o", "https://platform.openai.com/docs/pricing, known (September 2025)",
    sheet(
        ({}, {"input": "2.50", "cached_input": "1.25", "output": "10.00"}),
        ({"service_tier": "priority"}, {"input": "4.25", "cached_input": "2.125", "output": "17.00"}),
    ),
)
REALTIME = Card(
    "OpenAI", "gpt-realtime", f"{OPENAI_PAGE}, by way of genai-prices 0.2.3, and known (September 2025)",
    sheet(
        ({}, {"input": "4.00", "cached_input": "0.40", "output": "16.00", "image_input": "5.00",
              "cached_image_input": "0.50", "audio_input": "32.00", "cached_audio_input": "0.40",
              "audio_output": "64.00"}),
    ),
)
GPT_AUDIO = Card(
    "OpenAI", "gpt-audio", f"{OPENAI_PAGE}, by way of genai-prices 0.2.3: no rate for anything cached",
    sheet(({}, {"input": "2.50", "output": "10.00", "audio_input": "32.00", "audio_output": "64.00"})),
)
GPT_IMAGE = Card(
    "OpenAI", "gpt-image-1", f"{OPENAI_PAGE}, by way of genai-prices 0.2.3 (2026-10-14)",
    sheet(
        ({}, {"input": "5", "cached_input": "1.25", "image_input": "10", "cached_image_input": "2.5",
              "output": "40", "image_output": "40"}),
        ({"batch": True}, {"input": "2.5", "cached_input": "0.63", "image_input": "5", "cached_image_input": "1.25",
                           "output": "20", "image_output": "20"}),
    ),
)

# Long context counts input, cache writes and cache reads together; batch halves either side of the threshold.
SONNET = Card(
    "Anthropic", "claude-sonnet-4-5",
    "https://platform.claude.com/docs/en/about-claude/pricing, read (November 2025): more than 200K input tokens"
    " re-price the request, batch halves; web fetch costs nothing (known)",
    sheet(
        ({}, {"input": "3", "cached_input": "0.30", "cache_write": "3.75", "cache_write_1h": "6", "output": "15",
              "image_input": "3", "cached_image_input": "0.30"}),
        ({"above_input_tokens": 200000},
         {"input": "6", "cached_input": "0.60", "cache_write": "7.50", "cache_write_1h": "12", "output": "22.50",
          "image_input": "6", "cached_image_input": "0.60"}),
        ({"batch": True},
         {"input": "1.50", "cached_input": "0.15", "cache_write": "1.875", "cache_write_1h": "3", "output": "7.50",
          "image_input": "1.50", "cached_image_input": "0.15"}),
        ({"batch": True, "above_input_tokens": 200000},
         {"input": "3", "cached_input": "0.30", "cache_write": "3.75", "cache_write_1h": "6", "output": "11.25",
          "image_input": "3", "cached_image_input": "0.30"}),
        web_search_requests="0.01", web_fetch_requests="0",
    ),
)
OPUS_5 = Card(
    "Anthropic", "claude-opus-5", "https://www.anthropic.com/pricing#api, by way of genai-prices 0.2.3 (2026-10-14)",
    sheet(
        ({}, {"input": "5", "cached_input": "0.5", "cache_write": "6.25", "cache_write_1h": "10", "output": "25"}),
        ({"service_tier": "fast"},
         {"input": "10", "cached_input": "1", "cache_write": "12.5", "cache_write_1h": "20", "output": "50"}),
    ),
)
OPUS_41 = Card(
    "Anthropic", "claude-opus-4-1", "https://platform.claude.com/docs/en/about-claude/pricing, read (November 2025)",
    sheet(
        ({}, {"input": "15", "cached_input": "1.50", "cache_write": "18.75", "cache_write_1h": "30", "output": "75"}),
        web_search_requests="0.01",
    ),
)

GOOGLE_PAGE = "https://ai.google.dev/gemini-api/docs/pricing"

GEMINI_PRO = Card(
    "Google", "gemini-2.5-pro", f"{GOOGLE_PAGE}, by way of genai-prices 0.2.3 (2026-10-14): batch reads cache in full",
    sheet(
        ({}, {"input": "1.25", "cached_input": "0.125", "output": "10", "image_input": "1.25", "audio_input": "1.25",
              "cached_image_input": "0.125", "cached_audio_input": "0.125"}),
        ({"above_input_tokens": 200000},
         {"input": "2.50", "cached_input": "0.25", "output": "15", "image_input": "2.50", "audio_input": "2.50",
          "cached_image_input": "0.25", "cached_audio_input": "0.25"}),
        ({"batch": True},
         {"input": "0.625", "cached_input": "0.125", "output": "5", "image_input": "0.625", "audio_input": "0.625",
          "cached_image_input": "0.125", "cached_audio_input": "0.125"}),
        ({"batch": True, "above_input_tokens": 200000},
         {"input": "1.25", "cached_input": "0.25", "output": "7.50", "image_input": "1.25", "audio_input": "1.25",
          "cached_image_input": "0.25", "cached_audio_input": "0.25"}),
        web_search_requests="0.035",
    ),
)
GEMINI_FLASH = Card(
    "Google", "gemini-2.5-flash", f"{GOOGLE_PAGE}, by way of genai-prices 0.2.3 (2026-10-14): audio costs more",
    sheet(
        ({}, {"input": "0.30", "cached_input": "0.03", "output": "2.50", "image_input": "0.30", "audio_input": "1.00",
              "cached_image_input": "0.03", "cached_audio_input": "0.10"}),
        ({"batch": True},
         {"input": "0.15", "cached_input": "0.03", "output": "1.25", "image_input": "0.15", "audio_input": "0.50",
          "cached_image_input": "0.03", "cached_audio_input": "0.10"}),
        web_search_requests="0.035",
    ),
)
GEMINI_IMAGE = Card(
    "Google", "gemini-3-pro-image", f"{GOOGLE_PAGE}, by way of genai-prices 0.2.3 (2026-10-14): images 120 out",
    sheet(
        ({}, {"input": "2", "output": "12", "image_input": "2", "image_output": "120"}),
        ({"batch": True}, {"input": "1", "output": "6", "image_input": "1", "image_output": "60"}),
        web_search_requests="0.014",
    ),
)
GEMINI_TTS = Card(
    "Google", "gemini-2.5-flash-preview-tts", f"{GOOGLE_PAGE}, by way of genai-prices 0.2.3 (2026-10-14)",
    sheet(
        ({}, {"input": "0.50", "output": "10", "audio_output": "10"}),
        ({"batch": True}, {"input": "0.25", "output": "5", "audio_output": "5"}),
    ),
)
GEMMA = Card(
    "Google", "gemma-4-31b-it", f"{GOOGLE_PAGE}, by way of genai-prices 0.2.3: free of charge",
    sheet(({}, {"input": "0", "output": "0"})),
)

# "200K and more" there: more than 199,999.
GROK = Card(
    "xAI", "grok-4.3", "https://docs.x.ai/docs/models, by way of genai-prices 0.2.3 (2026-10-14)",
    sheet(
        ({}, {"input": "1.25", "cached_input": "0.2", "output": "2.5"}),
        ({"above_input_tokens": 199999}, {"input": "2.5", "cached_input": "0.4", "output": "5"}),
        ({"batch": True}, {"input": "1", "cached_input": "0.16", "output": "2"}),
        ({"batch": True, "above_input_tokens": 199999}, {"input": "2", "cached_input": "0.32", "output": "4"}),
    ),
)
MISTRAL_LARGE = Card(
    "Mistral AI", "mistral-large-2512", "https://mistral.ai/pricing/api, by way of genai-prices 0.2.3 (2026-10-14)",
    sheet(
        ({}, {"input": "0.5", "cached_input": "0.05", "output": "1.5", "image_input": "0.5"}),
        ({"batch": True}, {"input": "0.25", "cached_input": "0.025", "output": "0.75", "image_input": "0.25"}),
    ),
)
CODESTRAL = Card(
    "Mistral AI", "codestral-latest", "https://mistral.ai/pricing/api, by way of genai-prices 0.2.3: no cache rates",
    sheet(({}, {"input": "0.3", "output": "0.9"}), ({"batch": True}, {"input": "0.15", "output": "0.45"})),
)
COMMAND_A = Card(
    "Cohere", "command-a-03-2025", "https://cohere.com/pricing, by way of genai-prices 0.2.3, and known (2025)",
    sheet(({}, {"input": "2.50", "output": "10.00"})),
)
EMBED_4 = Card(
    "Cohere", "embed-v4.0", "https://cohere.com/pricing, known (2025): 0.12 for text, 0.47 for images",
    sheet(({}, {"input": "0.12", "image_input": "0.47"})),
)
GLM = Card(
    "Z.ai", "glm-4.6", "https://docs.z.ai/guides/overview/pricing, by way of genai-prices 0.2.3",
    sheet(({}, {"input": "0.6", "cached_input": "0.11", "output": "2.2"})),
)
KIMI = Card(
    "Moonshot AI", "kimi-k2.6", "https://platform.kimi.ai/docs/models.md, by way of genai-prices 0.2.3",
    sheet(({}, {"input": "0.95", "cached_input": "0.16", "output": "4"})),
)
MINIMAX_M3 = Card(
    "MiniMax", "MiniMax-M3", "https://platform.minimax.io/docs/pricing/overview, by way of genai-prices 0.2.3",
    sheet(
        ({}, {"input": "0.3", "cached_input": "0.06", "output": "1.2"}),
        ({"above_input_tokens": 512000}, {"input": "0.6", "cached_input": "0.12", "output": "2.4"}),
    ),
)
MINIMAX_M2 = Card(
    "MiniMax", "MiniMax-M2", "https://platform.minimax.io/docs/pricing/overview, by way of genai-prices 0.2.3",
    sheet(({}, {"input": "0.3", "cached_input": "0.03", "cache_write": "0.375", "output": "1.2"})),
)
VOYAGE = Card(
    "Voyage AI", "voyage-3-large", "https://docs.voyageai.com/docs/pricing, by way of genai-prices 0.2.3",
    sheet(({}, {"input": "0.18"})),
)
LLAMA = Card(
    "Meta", "llama-3.3-70b-versatile",
    "https://console.groq.com/docs/models, by way of genai-prices 0.2.3; flex at the same price,"
    " https://console.groq.com/docs/flex-processing, read",
    sheet(({}, {"input": "0.59", "output": "0.79"}), ({"service_tier": "flex"}, {"input": "0.59", "output": "0.79"})),
)
# A fee for each request. The page works this request out itself: 0.0005 + 0.0002 + 0.005 = 0.0057.
SONAR = Card(
    "Perplexity", "sonar", "https://docs.perplexity.ai/getting-started/pricing, read (mid-2025): low search context",
    sheet(({}, {"input": "1", "output": "1"}), request="0.005"),
)
# Reasoning priced apart. The page works this out too: 0.001 + 0.0016 + 0.0001 + 0.0003 + 0.15 + 0.006 = 0.159.
DEEP_RESEARCH = Card(
    "Perplexity", "sonar-deep-research",
    "https://docs.perplexity.ai/getting-started/pricing, read (mid-2025): 2 per 1M citation tokens, 5 per 1K searches",
    sheet(
        ({}, {"input": "2", "output": "8", "reasoning": "3"}),
        request="0.006", web_search_requests="0.005", citation_tokens="0.000002",
    ),
)

NIGHTS = [{"zone": "America/New_York", "days": [0, 1, 2, 3, 4], "start": "22:00", "end": "06:00"}]

# Priority costs 1.8 times, batch 0.4, the night 0.6, and above 5,000 tokens everything twice; they multiply.
AGREEMENT = Card(
    "Example", "agreement", "made up: every pool under every condition, with sixteen different rates for each",
    sheet(
        ({},
         twelve("4", "0.4", "5", "8", "6", "32", "0.5", "3", "16", "20", "40", "64")),
        ({"service_tier": "priority"},
         twelve("7.2", "0.72", "9", "14.4", "10.8", "57.6", "0.9", "5.4", "28.8", "36", "72", "115.2")),
        ({"batch": True},
         twelve("1.6", "0.16", "2", "3.2", "2.4", "12.8", "0.2", "1.2", "6.4", "8", "16", "25.6")),
        ({"service_tier": "priority", "batch": True},
         twelve("2.88", "0.288", "3.6", "5.76", "4.32", "23.04", "0.36", "2.16", "11.52", "14.4", "28.8", "46.08")),
        ({"above_input_tokens": 5000},
         twelve("8", "0.8", "10", "16", "12", "64", "1", "6", "32", "40", "80", "128")),
        ({"service_tier": "priority", "above_input_tokens": 5000},
         twelve("14.4", "1.44", "18", "28.8", "21.6", "115.2", "1.8", "10.8", "57.6", "72", "144", "230.4")),
        ({"batch": True, "above_input_tokens": 5000},
         twelve("3.2", "0.32", "4", "6.4", "4.8", "25.6", "0.4", "2.4", "12.8", "16", "32", "51.2")),
        ({"service_tier": "priority", "batch": True, "above_input_tokens": 5000},
         twelve("5.76", "0.576", "7.2", "11.52", "8.64", "46.08", "0.72", "4.32", "23.04", "28.8", "57.6", "92.16")),
        ({"windows": NIGHTS},
         twelve("2.4", "0.24", "3", "4.8", "3.6", "19.2", "0.3", "1.8", "9.6", "12", "24", "38.4")),
        ({"service_tier": "priority", "windows": NIGHTS},
         twelve("4.32", "0.432", "5.4", "8.64", "6.48", "34.56", "0.54", "3.24", "17.28", "21.6", "43.2", "69.12")),
        ({"batch": True, "windows": NIGHTS},
         twelve("0.96", "0.096", "1.2", "1.92", "1.44", "7.68", "0.12", "0.72", "3.84", "4.8", "9.6", "15.36")),
        ({"service_tier": "priority", "batch": True, "windows": NIGHTS},
         twelve("1.728", "0.1728", "2.16", "3.456", "2.592",
                "13.824", "0.216", "1.296",
                "6.912", "8.64", "17.28", "27.648")),
        ({"above_input_tokens": 5000, "windows": NIGHTS},
         twelve("4.8", "0.48", "6", "9.6", "7.2", "38.4", "0.6", "3.6", "19.2", "24", "48", "76.8")),
        ({"service_tier": "priority", "above_input_tokens": 5000, "windows": NIGHTS},
         twelve("8.64", "0.864", "10.8", "17.28", "12.96", "69.12", "1.08", "6.48", "34.56", "43.2", "86.4", "138.24")),
        ({"batch": True, "above_input_tokens": 5000, "windows": NIGHTS},
         twelve("1.92", "0.192", "2.4", "3.84", "2.88", "15.36", "0.24", "1.44", "7.68", "9.6", "19.2", "30.72")),
        ({"service_tier": "priority", "batch": True, "above_input_tokens": 5000, "windows": NIGHTS},
         twelve("3.456", "0.3456", "4.32", "6.912", "5.184", "27.648", "0.432", "2.592",
                "13.824", "17.28", "34.56", "55.296")),
        request="0.001",
    ),
)
AN_HOUR_OF_THE_NIGHT = Card(
    "Example", "hour", "made up: an hour that the clock skips in March and repeats in October",
    sheet(
        ({}, {"input": "0.4", "output": "2"}),
        ({"windows": [{"zone": "Europe/Berlin", "days": [0, 1, 2, 3, 4, 5, 6], "start": "02:00", "end": "03:00"}]},
         {"input": "0.2", "output": "1"}),
    ),
)
# A window has two different ends, so a whole day is two of them.
WEEKENDS = Card(
    "Example", "weekends", "made up: whole weekends of a calendar eight hours ahead of UTC",
    sheet(
        ({}, {"input": "0.4", "output": "2"}),
        ({"windows": [
            {"zone": "Asia/Shanghai", "days": [5, 6], "start": "00:00", "end": "12:00"},
            {"zone": "Asia/Shanghai", "days": [5, 6], "start": "12:00", "end": "00:00"},
         ]},
         {"input": "0.2", "output": "1"}),
    ),
)
STEPS = Card(
    "Example", "steps", "made up: two thresholds, of which the higher one that is exceeded counts",
    sheet(
        ({"above_input_tokens": 32000}, {"input": "2", "output": "6"}),
        ({}, {"input": "1", "output": "4"}),
        ({"above_input_tokens": 128000}, {"input": "3", "output": "9"}),
    ),
)
# Nothing says what a long night costs: the threshold counts before the hour.
NIGHT_OR_LONG = Card(
    "Example", "night-or-long", "made up: hours and a threshold that no entry joins",
    sheet(
        ({}, {"input": "1", "output": "4"}),
        ({"windows": [daily("00:00", "06:00")]}, {"input": "0.5", "output": "2"}),
        ({"above_input_tokens": 5000}, {"input": "2", "output": "8"}),
    ),
)
# An entry inherits nothing from the base.
TEXT_ONLY_FLEX = Card(
    "Example", "text-only-flex", "made up: images are priced on the ordinary tier only",
    sheet(
        ({}, {"input": "1", "output": "4", "image_input": "1"}),
        ({"service_tier": "flex"}, {"input": "0.5", "output": "2"}),
    ),
)

# Versions of one model, each in force until the next begins.
HISTORIES: tuple[tuple[Card, ...], ...] = (
    (DEEPSEEK_CHAT, DEEPSEEK_CHAT_AFTER),
    (V4_FLAT, V4_EVERY_DAY, V4_WEEKDAYS, V41_FLASH),
)

# A thousand in, 640 of them from cache, two hundred out.
THOUSAND = Counts(input_tokens=1000, cached_input_tokens=640, output_tokens=200)
TALK = Counts(input_tokens=2000, cached_input_tokens=500, output_tokens=1000, reasoning_tokens=800)


def mixed(service_tier: str | None = None, *, batch: bool = False) -> Counts:
    """1,200 text, 2,900 cached, 500 written, 300 image and 100 cached image tokens in; 800 out."""
    return Counts(
        input_tokens=5000, cached_input_tokens=3000, cache_write_tokens=500, image_input_tokens=400,
        cached_image_tokens=100, output_tokens=800, reasoning_tokens=600, service_tier=service_tier, batch=batch,
    )


def long(input_tokens: int, cached: int, service_tier: str | None = None, *, batch: bool = False) -> Counts:
    """Mostly cached input around a threshold; 1,000 out."""
    return Counts(
        input_tokens=input_tokens, cached_input_tokens=cached, output_tokens=1000, service_tier=service_tier,
        batch=batch,
    )


def everything(input_tokens: int, *, service_tier: str | None = None, batch: bool = False) -> Counts:
    """Tokens in all twelve pools; what they leave of the input is plain text."""
    return Counts(
        input_tokens=input_tokens, cached_input_tokens=2150, cache_write_tokens=300, cache_write_1h_tokens=400,
        image_input_tokens=570, cached_image_tokens=70, audio_input_tokens=680, cached_audio_tokens=80,
        output_tokens=1230, reasoning_tokens=100, image_output_tokens=110, audio_output_tokens=120,
        service_tier=service_tier, batch=batch,
    )


def sonnet(one_hour: int, *, batch: bool = False) -> Counts:
    """10 text, 150,000 cached, 40,000 written for five minutes and some for an hour; 2,000 out."""
    return Counts(
        input_tokens=190010 + one_hour, cached_input_tokens=150000, cache_write_tokens=40000,
        cache_write_1h_tokens=one_hour, output_tokens=2000, batch=batch,
    )


def scenes(text: int, *, batch: bool = False) -> Counts:
    """Text, 20,000 image and 10,000 audio tokens, and 15,000, 3,000 and 2,000 of each from cache; 3,000 out."""
    return Counts(
        input_tokens=text + 50000, cached_input_tokens=20000, image_input_tokens=23000, cached_image_tokens=3000,
        audio_input_tokens=12000, cached_audio_tokens=2000, output_tokens=3000, reasoning_tokens=2500, batch=batch,
    )


ANY_DAY = "2026-11-20T12:00:00Z"
NOON = "2026-07-15T16:00:00Z"  # a Wednesday in New York, daylight saving time
NIGHT = "2026-07-16T03:00:00Z"  # 23:00 that Wednesday in New York

DAY_PRICE = "input 360 × 0.27 = 97.2, cached_input 640 × 0.07 = 44.8, output 200 × 1.10 = 220, sum 362"
NIGHT_PRICE = "input 360 × 0.135 = 48.6, cached_input 640 × 0.035 = 22.4, output 200 × 0.55 = 110, sum 181"
OFF_PEAK = "input 360 × 0.15 = 54, cached_input 640 × 0.003 = 1.92, output 200 × 0.6 = 120, sum 175.92"
PEAK = "input 360 × 0.3 = 108, cached_input 640 × 0.006 = 3.84, output 200 × 1.2 = 240, sum 351.84"
AUGUST_OFF_PEAK = "input 360 × 0.22 = 79.2, cached_input 640 × 0.007 = 4.48, output 200 × 0.66 = 132, sum 215.68"
AUGUST_PEAK = "input 360 × 0.44 = 158.4, cached_input 640 × 0.014 = 8.96, output 200 × 1.32 = 264, sum 431.36"

CASES: tuple[Case, ...] = (
    # DeepSeek's night discount, 16:30 to 00:30 UTC: start inclusive, end exclusive, across midnight.
    *(
        Case(f"deepseek-chat by day, {name}", DEEPSEEK_CHAT, 0, at, THOUSAND, DAY_PRICE, "0.000362")
        for name, at in (
            ("noon", "2025-03-03T12:00:00Z"),
            ("the last microsecond", "2025-03-03T16:29:59.999999Z"),
            ("the first instant", "2025-03-04T00:30:00Z"),
            ("half an hour before the discount ends for good", "2025-09-05T15:30:00Z"),
            ("the last microsecond of this price", "2025-09-05T15:59:59.999999Z"),
        )
    ),
    *(
        Case(f"deepseek-chat by night, {name}", DEEPSEEK_CHAT, 1, at, THOUSAND, NIGHT_PRICE, "0.000181")
        for name, at in (
            ("the first instant", "2025-03-03T16:30:00Z"),
            ("the first instant, told in China's time", "2025-03-04T00:30:00+08:00"),
            ("before midnight", "2025-03-03T23:59:59.999999Z"),
            ("midnight", "2025-03-04T00:00:00Z"),
            ("the last microsecond", "2025-03-04T00:29:59.999999Z"),
            ("across the end of a month", "2025-03-01T00:10:00Z"),
            ("the last night of all", "2025-09-05T00:29:59Z"),
        )
    ),
    *(
        Case(
            f"deepseek-chat after the discount, {name}", DEEPSEEK_CHAT_AFTER, 0, at, THOUSAND,
            "input 360 × 0.56 = 201.6, cached_input 640 × 0.07 = 44.8, output 200 × 1.68 = 336, sum 582.4",
            "0.0005824",
        )
        for name, at in (
            ("the first instant", "2025-09-05T16:00:00Z"),
            ("where the night would have begun", "2025-09-05T16:30:00Z"),
            ("the night after", "2025-09-06T00:00:00Z"),
        )
    ),
    Case(
        "deepseek-reasoner by day: reasoning is output", DEEPSEEK_REASONER, 0, "2025-06-10T09:00:00Z", TALK,
        "input 1500 × 0.55 = 825, cached_input 500 × 0.14 = 70, output 1000 × 2.19 = 2190, sum 3085",
        "0.003085",
    ),
    Case(
        "deepseek-reasoner by night", DEEPSEEK_REASONER, 1, "2025-06-10T20:00:00Z", TALK,
        "input 1500 × 0.135 = 202.5, cached_input 500 × 0.035 = 17.5, output 1000 × 0.55 = 550, sum 770",
        "0.00077",
    ),

    # DeepSeek's peak hours: 01:00 to 04:00 and 06:00 to 10:00 UTC, every day in August 2026, then weekdays only.
    Case(
        "deepseek-v4-flash, the last microsecond of flat prices", V4_FLAT, 0, "2026-08-16T15:59:59.999999Z", THOUSAND,
        "input 360 × 0.14 = 50.4, cached_input 640 × 0.0028 = 1.792, output 200 × 0.28 = 56, sum 108.192",
        "0.000108192",
    ),
    Case(
        "deepseek-v4-flash, peak hours begin off-peak", V4_EVERY_DAY, 0, "2026-08-16T16:00:00Z", THOUSAND,
        AUGUST_OFF_PEAK, "0.00021568",
    ),
    Case(
        "deepseek-v4-flash, the last Saturday with peak hours", V4_EVERY_DAY, 1, "2026-08-22T02:00:00Z", THOUSAND,
        AUGUST_PEAK, "0.00043136",
    ),
    Case(
        "deepseek-v4-flash, the first Sunday without", V4_WEEKDAYS, 0, "2026-08-23T02:00:00Z", THOUSAND,
        AUGUST_OFF_PEAK, "0.00021568",
    ),
    Case(
        "deepseek-v4-flash, the Monday after", V4_WEEKDAYS, 1, "2026-08-24T02:00:00Z", THOUSAND,
        AUGUST_PEAK, "0.00043136",
    ),
    *(
        Case(f"deepseek-v4-flash off-peak, {name}", V41_FLASH, 0, at, THOUSAND, OFF_PEAK, "0.00017592")
        for name, at in (
            ("Monday before one", "2026-09-14T00:59:59.999999Z"),
            ("Monday at four", "2026-09-14T04:00:00Z"),
            ("Monday between the windows", "2026-09-14T05:59:59.999999Z"),
            ("Monday at ten", "2026-09-14T10:00:00Z"),
            ("Saturday at two", "2026-09-19T02:00:00Z"),
            ("Sunday at seven", "2026-09-20T07:00:00Z"),
        )
    ),
    *(
        Case(f"deepseek-v4-flash peak, {name}", V41_FLASH, 1, at, THOUSAND, PEAK, "0.00035184")
        for name, at in (
            ("Monday at one", "2026-09-14T01:00:00Z"),
            ("Monday at nine in China", "2026-09-14T09:00:00+08:00"),
            ("Monday before four", "2026-09-14T03:59:59.999999Z"),
            ("Monday at six", "2026-09-14T06:00:00Z"),
            ("Monday before ten", "2026-09-14T09:59:59.999999Z"),
            ("Friday at half past nine", "2026-09-18T09:30:00Z"),
        )
    ),

    # Six decimals per 1M tokens, to the last of a dollar's twelve.
    Case(
        "deepseek-v4-pro, seven tokens from cache and nothing else", V4_PRO, 0, ANY_DAY,
        Counts(input_tokens=7, cached_input_tokens=7),
        "cached_input 7 × 0.003625 = 0.025375, sum 0.025375",
        "0.000000025375",
    ),
    Case(
        "deepseek-v4-pro, odd counts", V4_PRO, 0, ANY_DAY,
        Counts(input_tokens=10002, cached_input_tokens=9999, output_tokens=3),
        "input 3 × 0.435 = 1.305, cached_input 9999 × 0.003625 = 36.246375, output 3 × 0.87 = 2.61, sum 40.161375",
        "0.000040161375",
    ),
    Case(
        "deepseek-v4-pro, one token", V4_PRO, 0, ANY_DAY, Counts(input_tokens=1),
        "input 1 × 0.435 = 0.435, sum 0.435", "0.000000435",
    ),
    Case(
        "deepseek-v4-pro, as many tokens as can be counted", V4_PRO, 0, ANY_DAY,
        Counts(input_tokens=COUNT_MAX, output_tokens=COUNT_MAX),
        "input 2147483647 × 0.435 = 934155386.445, output 2147483647 × 0.87 = 1868310772.89, sum 2802466159.335",
        "2802.466159335",
    ),

    # OpenAI: tiers, batch, a threshold, and all of them together.
    *(
        Case(
            f"gpt-5.6-sol on its ordinary tier, spelled {tier}", SOL, 0, ANY_DAY, mixed(tier),
            "input 1200 × 4 = 4800, cached_input 2900 × 0.4 = 1160, cache_write 500 × 5 = 2500, "
            "image_input 300 × 4 = 1200, cached_image_input 100 × 0.4 = 40, output 800 × 20 = 16000, sum 25700",
            "0.0257",
        )
        for tier in (None, "", "default", "standard", "auto", "on_demand")
    ),
    Case(
        "gpt-5.6-sol flex", SOL, 2, ANY_DAY, mixed("flex"),
        "input 1200 × 2 = 2400, cached_input 2900 × 0.2 = 580, cache_write 500 × 2.5 = 1250, "
        "image_input 300 × 2 = 600, cached_image_input 100 × 0.2 = 20, output 800 × 10 = 8000, sum 12850",
        "0.01285",
    ),
    Case(
        "gpt-5.6-sol priority", SOL, 4, ANY_DAY, mixed("priority"),
        "input 1200 × 8 = 9600, cached_input 2900 × 0.8 = 2320, cache_write 500 × 10 = 5000, "
        "image_input 300 × 8 = 2400, cached_image_input 100 × 0.8 = 80, output 800 × 40 = 32000, sum 51400",
        "0.0514",
    ),
    Case(
        "gpt-5.6-sol batch", SOL, 6, ANY_DAY, mixed(batch=True),
        "input 1200 × 2 = 2400, cached_input 2900 × 0.2 = 580, cache_write 500 × 2.5 = 1250, "
        "image_input 300 × 2 = 600, cached_image_input 100 × 0.2 = 20, output 800 × 10 = 8000, sum 12850",
        "0.01285",
    ),
    Case(
        "gpt-5.6-sol at the threshold", SOL, 0, ANY_DAY, long(272000, 200000),
        "input 72000 × 4 = 288000, cached_input 200000 × 0.4 = 80000, output 1000 × 20 = 20000, sum 388000",
        "0.388",
    ),
    Case(
        "gpt-5.6-sol one cached token over: the whole request is re-priced", SOL, 1, ANY_DAY, long(272001, 200001),
        "input 72000 × 8 = 576000, cached_input 200001 × 0.8 = 160000.8, output 1000 × 30 = 30000, sum 766000.8",
        "0.7660008",
    ),
    Case(
        "gpt-5.6-sol over the threshold by cache alone", SOL, 1, ANY_DAY,
        Counts(input_tokens=272001, cached_input_tokens=136000, cache_write_tokens=136000, output_tokens=10),
        "input 1 × 8 = 8, cached_input 136000 × 0.8 = 108800, cache_write 136000 × 10 = 1360000, "
        "output 10 × 30 = 300, sum 1469108",
        "1.469108",
    ),
    Case(
        "gpt-5.6-sol far over the threshold", SOL, 1, ANY_DAY,
        Counts(input_tokens=1000000, image_input_tokens=1000, output_tokens=128000),
        "input 999000 × 8 = 7992000, image_input 1000 × 8 = 8000, output 128000 × 30 = 3840000, sum 11840000",
        "11.84",
    ),
    Case(
        "gpt-5.6-sol with output, not input, over the threshold", SOL, 0, ANY_DAY,
        Counts(input_tokens=1000, output_tokens=300000),
        "input 1000 × 4 = 4000, output 300000 × 20 = 6000000, sum 6004000", "6.004",
    ),
    Case(
        "gpt-5.6-sol flex at the threshold", SOL, 2, ANY_DAY, long(272000, 200000, "flex"),
        "input 72000 × 2 = 144000, cached_input 200000 × 0.2 = 40000, output 1000 × 10 = 10000, sum 194000",
        "0.194",
    ),
    Case(
        "gpt-5.6-sol flex over the threshold", SOL, 3, ANY_DAY, long(272001, 200001, "flex"),
        "input 72000 × 4 = 288000, cached_input 200001 × 0.4 = 80000.4, output 1000 × 15 = 15000, sum 383000.4",
        "0.3830004",
    ),
    Case(
        "gpt-5.6-sol priority over the threshold", SOL, 5, ANY_DAY, long(272001, 200001, "priority"),
        "input 72000 × 16 = 1152000, cached_input 200001 × 1.6 = 320001.6, output 1000 × 60 = 60000, sum 1532001.6",
        "1.5320016",
    ),
    Case(
        "gpt-5.6-sol batch over the threshold", SOL, 7, ANY_DAY, long(272001, 200001, batch=True),
        "input 72000 × 4 = 288000, cached_input 200001 × 0.4 = 80000.4, output 1000 × 15 = 15000, sum 383000.4",
        "0.3830004",
    ),
    Case(
        "gpt-5.6-sol has no rate for an hour in cache: the short one counts", SOL, 0, ANY_DAY,
        Counts(input_tokens=1000, cache_write_tokens=300, cache_write_1h_tokens=500),
        "input 200 × 4 = 800, cache_write 300 × 5 = 1500, cache_write_1h as cache_write 500 × 5 = 2500, sum 4800",
        "0.0048",
    ),
    Case(
        "gpt-5.6-sol searches the web and files", SOL, 0, ANY_DAY,
        Counts(input_tokens=100, output_tokens=50, units={"web_search_requests": 3, "file_search_requests": 2}),
        "input 100 × 4 = 400, output 50 × 20 = 1000, web_search_requests 3 × 10000 = 30000, "
        "file_search_requests 2 × 2500 = 5000, sum 36400",
        "0.0364",
    ),
    Case(
        "gpt-5.6-sol searches on priority: a use costs the same on every tier", SOL, 4, ANY_DAY,
        Counts(input_tokens=100, output_tokens=50, units={"web_search_requests": 1}, service_tier="priority"),
        "input 100 × 8 = 800, output 50 × 40 = 2000, web_search_requests 1 × 10000 = 10000, sum 12800",
        "0.0128",
    ),
    *(
        Case(
            f"o4-mini on {tier}", O4_MINI, entry, ANY_DAY,
            Counts(
                input_tokens=3001, cached_input_tokens=2001, output_tokens=501, reasoning_tokens=448,
                service_tier=tier,
            ),
            working, usd,
        )
        for tier, entry, working, usd in (
            ("default", 0,
             "input 1000 × 1.1 = 1100, cached_input 2001 × 0.275 = 550.275, output 501 × 4.4 = 2204.4, sum 3854.675",
             "0.003854675"),
            ("flex", 1,
             "input 1000 × 0.55 = 550, cached_input 2001 × 0.138 = 276.138, output 501 × 2.2 = 1102.2, sum 1928.338",
             "0.001928338"),
            ("priority", 2,
             "input 1000 × 2 = 2000, cached_input 2001 × 0.5 = 1000.5, output 501 × 8 = 4008, sum 7008.5",
             "0.0070085"),
        )
    ),
    Case(
        "gpt-4o, a short call", GPT_4O, 0, ANY_DAY, Counts(input_tokens=22, output_tokens=8),
        "input 22 × 2.50 = 55, output 8 × 10.00 = 80, sum 135", "0.000135",
    ),
    Case(
        "gpt-4o, a short call on priority", GPT_4O, 1, ANY_DAY,
        Counts(input_tokens=22, output_tokens=8, service_tier="priority"),
        "input 22 × 4.25 = 93.5, output 8 × 17.00 = 136, sum 229.5", "0.0002295",
    ),
    Case(
        "gpt-realtime: text, image and audio, each also from cache; text and audio out", REALTIME, 0, ANY_DAY,
        Counts(
            input_tokens=2000, cached_input_tokens=600, image_input_tokens=250, cached_image_tokens=50,
            audio_input_tokens=950, cached_audio_tokens=250, output_tokens=1000, audio_output_tokens=880,
        ),
        "input 500 × 4.00 = 2000, cached_input 300 × 0.40 = 120, image_input 200 × 5.00 = 1000, "
        "audio_input 700 × 32.00 = 22400, cached_image_input 50 × 0.50 = 25, cached_audio_input 250 × 0.40 = 100, "
        "output 120 × 16.00 = 1920, audio_output 880 × 64.00 = 56320, sum 83885",
        "0.083885",
    ),
    Case(
        "gpt-audio has no cache rates: cached text is input, cached audio is audio", GPT_AUDIO, 0, ANY_DAY,
        Counts(input_tokens=1000, cached_input_tokens=400, audio_input_tokens=400, cached_audio_tokens=300),
        "input 500 × 2.50 = 1250, cached_input as input 100 × 2.50 = 250, audio_input 100 × 32.00 = 3200, "
        "cached_audio_input as audio_input 300 × 32.00 = 9600, sum 14300",
        "0.0143",
    ),
    Case(
        "gpt-audio: audio that is not said to be cached is not", GPT_AUDIO, 0, ANY_DAY,
        Counts(input_tokens=1000, cached_input_tokens=400, audio_input_tokens=400),
        "input 200 × 2.50 = 500, cached_input as input 400 × 2.50 = 1000, audio_input 400 × 32.00 = 12800, sum 14300",
        "0.0143",
    ),
    Case(
        "gpt-image-1 draws", GPT_IMAGE, 0, ANY_DAY,
        Counts(
            input_tokens=1500, cached_input_tokens=400, image_input_tokens=1000, cached_image_tokens=300,
            output_tokens=4160, image_output_tokens=4160,
        ),
        "input 400 × 5 = 2000, cached_input 100 × 1.25 = 125, image_input 700 × 10 = 7000, "
        "cached_image_input 300 × 2.5 = 750, image_output 4160 × 40 = 166400, sum 176275",
        "0.176275",
    ),
    Case(
        "gpt-image-1 draws in a batch", GPT_IMAGE, 1, ANY_DAY,
        Counts(
            input_tokens=1500, cached_input_tokens=400, image_input_tokens=1000, cached_image_tokens=300,
            output_tokens=4160, image_output_tokens=4160, batch=True,
        ),
        "input 400 × 2.5 = 1000, cached_input 100 × 0.63 = 63, image_input 700 × 5 = 3500, "
        "cached_image_input 300 × 1.25 = 375, image_output 4160 × 20 = 83200, sum 88138",
        "0.088138",
    ),

    # Anthropic: two kinds of cache writes, which split what was written; long context; batch; fees, one of them free.
    *(
        Case(
            f"claude-sonnet-4-5 {'in a batch' if batch else 'at once'}: reads, writes of both lives, images",
            SONNET, entry, ANY_DAY,
            Counts(
                input_tokens=10000, cached_input_tokens=6100, cache_write_tokens=1500, cache_write_1h_tokens=500,
                image_input_tokens=1000, cached_image_tokens=100, output_tokens=700, batch=batch,
            ),
            working, usd,
        )
        for batch, entry, working, usd in (
            (False, 0,
             "input 1000 × 3 = 3000, cached_input 6000 × 0.30 = 1800, cache_write 1500 × 3.75 = 5625, "
             "cache_write_1h 500 × 6 = 3000, image_input 900 × 3 = 2700, cached_image_input 100 × 0.30 = 30, "
             "output 700 × 15 = 10500, sum 26655",
             "0.026655"),
            (True, 2,
             "input 1000 × 1.50 = 1500, cached_input 6000 × 0.15 = 900, cache_write 1500 × 1.875 = 2812.5, "
             "cache_write_1h 500 × 3 = 1500, image_input 900 × 1.50 = 1350, cached_image_input 100 × 0.15 = 15, "
             "output 700 × 7.50 = 5250, sum 13327.5",
             "0.0133275"),
        )
    ),
    Case(
        "claude-sonnet-4-5 at the threshold", SONNET, 0, ANY_DAY, sonnet(9990),
        "input 10 × 3 = 30, cached_input 150000 × 0.30 = 45000, cache_write 40000 × 3.75 = 150000, "
        "cache_write_1h 9990 × 6 = 59940, output 2000 × 15 = 30000, sum 284970",
        "0.28497",
    ),
    Case(
        "claude-sonnet-4-5 one written token over the threshold", SONNET, 1, ANY_DAY, sonnet(9991),
        "input 10 × 6 = 60, cached_input 150000 × 0.60 = 90000, cache_write 40000 × 7.50 = 300000, "
        "cache_write_1h 9991 × 12 = 119892, output 2000 × 22.50 = 45000, sum 554952",
        "0.554952",
    ),
    Case(
        "claude-sonnet-4-5 far over the threshold, with images", SONNET, 1, ANY_DAY,
        Counts(
            input_tokens=900000, cached_input_tokens=10000, image_input_tokens=100000, cached_image_tokens=10000,
            output_tokens=64000,
        ),
        "input 800000 × 6 = 4800000, image_input 90000 × 6 = 540000, cached_image_input 10000 × 0.60 = 6000, "
        "output 64000 × 22.50 = 1440000, sum 6786000",
        "6.786",
    ),
    Case(
        "claude-sonnet-4-5 batch at the threshold", SONNET, 2, ANY_DAY, sonnet(9990, batch=True),
        "input 10 × 1.50 = 15, cached_input 150000 × 0.15 = 22500, cache_write 40000 × 1.875 = 75000, "
        "cache_write_1h 9990 × 3 = 29970, output 2000 × 7.50 = 15000, sum 142485",
        "0.142485",
    ),
    Case(
        "claude-sonnet-4-5 batch over the threshold", SONNET, 3, ANY_DAY, sonnet(9991, batch=True),
        "input 10 × 3 = 30, cached_input 150000 × 0.30 = 45000, cache_write 40000 × 3.75 = 150000, "
        "cache_write_1h 9991 × 6 = 59946, output 2000 × 11.25 = 22500, sum 277476",
        "0.277476",
    ),
    Case(
        "claude-sonnet-4-5, all it can count, all from cache", SONNET, 1, ANY_DAY,
        Counts(input_tokens=COUNT_MAX, cached_input_tokens=COUNT_MAX),
        "cached_input 2147483647 × 0.60 = 1288490188.2, sum 1288490188.2",
        "1288.4901882",
    ),
    Case(
        "claude-sonnet-4-5 searches for a fee and fetches for nothing", SONNET, 0, ANY_DAY,
        Counts(
            input_tokens=200, output_tokens=100, service_tier="standard",
            units={"web_search_requests": 5, "web_fetch_requests": 7},
        ),
        "input 200 × 3 = 600, output 100 × 15 = 1500, web_search_requests 5 × 10000 = 50000, "
        "web_fetch_requests 7 × 0 = 0, sum 52100",
        "0.0521",
    ),
    Case(
        "claude-opus-5 at its ordinary speed", OPUS_5, 0, ANY_DAY,
        Counts(
            input_tokens=1000, cached_input_tokens=400, cache_write_tokens=200, cache_write_1h_tokens=100,
            output_tokens=50,
        ),
        "input 300 × 5 = 1500, cached_input 400 × 0.5 = 200, cache_write 200 × 6.25 = 1250, "
        "cache_write_1h 100 × 10 = 1000, output 50 × 25 = 1250, sum 5200",
        "0.0052",
    ),
    Case(
        "claude-opus-5 fast", OPUS_5, 1, ANY_DAY,
        Counts(
            input_tokens=1000, cached_input_tokens=400, cache_write_tokens=200, cache_write_1h_tokens=100,
            output_tokens=50, service_tier="fast",
        ),
        "input 300 × 10 = 3000, cached_input 400 × 1 = 400, cache_write 200 × 12.5 = 2500, "
        "cache_write_1h 100 × 20 = 2000, output 50 × 50 = 2500, sum 10400",
        "0.0104",
    ),
    Case(
        "claude-opus-4-1, as many tokens and searches as can be counted", OPUS_41, 0, ANY_DAY,
        Counts(input_tokens=COUNT_MAX, output_tokens=COUNT_MAX, units={"web_search_requests": COUNT_MAX}),
        "input 2147483647 × 15 = 32212254705, output 2147483647 × 75 = 161061273525, "
        "web_search_requests 2147483647 × 10000 = 21474836470000, sum 21668109998230",
        "21668109.99823",
    ),

    # Google: modalities at rates of their own, cached ones too, either side of a threshold.
    Case(
        "gemini-2.5-pro at the threshold", GEMINI_PRO, 0, ANY_DAY, scenes(150000),
        "input 150000 × 1.25 = 187500, cached_input 15000 × 0.125 = 1875, image_input 20000 × 1.25 = 25000, "
        "audio_input 10000 × 1.25 = 12500, cached_image_input 3000 × 0.125 = 375, "
        "cached_audio_input 2000 × 0.125 = 250, output 3000 × 10 = 30000, sum 257500",
        "0.2575",
    ),
    Case(
        "gemini-2.5-pro one token over the threshold", GEMINI_PRO, 1, ANY_DAY, scenes(150001),
        "input 150001 × 2.50 = 375002.5, cached_input 15000 × 0.25 = 3750, image_input 20000 × 2.50 = 50000, "
        "audio_input 10000 × 2.50 = 25000, cached_image_input 3000 × 0.25 = 750, "
        "cached_audio_input 2000 × 0.25 = 500, output 3000 × 15 = 45000, sum 500002.5",
        "0.5000025",
    ),
    Case(
        "gemini-2.5-pro batch at the threshold", GEMINI_PRO, 2, ANY_DAY, scenes(150000, batch=True),
        "input 150000 × 0.625 = 93750, cached_input 15000 × 0.125 = 1875, image_input 20000 × 0.625 = 12500, "
        "audio_input 10000 × 0.625 = 6250, cached_image_input 3000 × 0.125 = 375, "
        "cached_audio_input 2000 × 0.125 = 250, output 3000 × 5 = 15000, sum 130000",
        "0.13",
    ),
    Case(
        "gemini-2.5-pro batch over the threshold", GEMINI_PRO, 3, ANY_DAY, scenes(150001, batch=True),
        "input 150001 × 1.25 = 187501.25, cached_input 15000 × 0.25 = 3750, image_input 20000 × 1.25 = 25000, "
        "audio_input 10000 × 1.25 = 12500, cached_image_input 3000 × 0.25 = 750, "
        "cached_audio_input 2000 × 0.25 = 500, output 3000 × 7.50 = 22500, sum 252501.25",
        "0.25250125",
    ),
    *(
        Case(
            f"gemini-2.5-flash {'in a batch' if batch else 'at once'}: audio costs more than text and pictures",
            GEMINI_FLASH, entry, ANY_DAY,
            Counts(
                input_tokens=6000, cached_input_tokens=1284, image_input_tokens=800, cached_image_tokens=284,
                audio_input_tokens=3700, cached_audio_tokens=500, output_tokens=640, batch=batch,
            ),
            working, usd,
        )
        for batch, entry, working, usd in (
            (False, 0,
             "input 1000 × 0.30 = 300, cached_input 500 × 0.03 = 15, image_input 516 × 0.30 = 154.8, "
             "audio_input 3200 × 1.00 = 3200, cached_image_input 284 × 0.03 = 8.52, "
             "cached_audio_input 500 × 0.10 = 50, output 640 × 2.50 = 1600, sum 5328.32",
             "0.00532832"),
            (True, 1,
             "input 1000 × 0.15 = 150, cached_input 500 × 0.03 = 15, image_input 516 × 0.15 = 77.4, "
             "audio_input 3200 × 0.50 = 1600, cached_image_input 284 × 0.03 = 8.52, "
             "cached_audio_input 500 × 0.10 = 50, output 640 × 1.25 = 800, sum 2700.92",
             "0.00270092"),
        )
    ),
    Case(
        "gemini-2.5-flash looks things up twice", GEMINI_FLASH, 0, ANY_DAY,
        Counts(input_tokens=100, output_tokens=100, units={"web_search_requests": 2}),
        "input 100 × 0.30 = 30, output 100 × 2.50 = 250, web_search_requests 2 × 35000 = 70000, sum 70280",
        "0.07028",
    ),
    Case(
        "gemini-3-pro-image writes, thinks and draws", GEMINI_IMAGE, 0, ANY_DAY,
        Counts(
            input_tokens=780, image_input_tokens=258, output_tokens=1500, reasoning_tokens=300,
            image_output_tokens=1120, units={"web_search_requests": 1},
        ),
        "input 522 × 2 = 1044, image_input 258 × 2 = 516, output 380 × 12 = 4560, image_output 1120 × 120 = 134400, "
        "web_search_requests 1 × 14000 = 14000, sum 154520",
        "0.15452",
    ),
    Case(
        "gemini-3-pro-image in a batch", GEMINI_IMAGE, 1, ANY_DAY,
        Counts(
            input_tokens=780, image_input_tokens=258, output_tokens=1500, reasoning_tokens=300,
            image_output_tokens=1120, batch=True,
        ),
        "input 522 × 1 = 522, image_input 258 × 1 = 258, output 380 × 6 = 2280, image_output 1120 × 60 = 67200, "
        "sum 70260",
        "0.07026",
    ),
    Case(
        "gemini-2.5-flash-preview-tts speaks", GEMINI_TTS, 0, ANY_DAY,
        Counts(input_tokens=40, output_tokens=1500, audio_output_tokens=1500),
        "input 40 × 0.50 = 20, audio_output 1500 × 10 = 15000, sum 15020", "0.01502",
    ),
    Case(
        "gemini-2.5-flash-preview-tts speaks in a batch", GEMINI_TTS, 1, ANY_DAY,
        Counts(input_tokens=40, output_tokens=1500, audio_output_tokens=1500, batch=True),
        "input 40 × 0.25 = 10, audio_output 1500 × 5 = 7500, sum 7510", "0.00751",
    ),
    Case(
        "gemma-4-31b-it is free, which is a price", GEMMA, 0, ANY_DAY,
        Counts(input_tokens=1000, cached_input_tokens=100, output_tokens=1000),
        "input 900 × 0 = 0, cached_input as input 100 × 0 = 0, output 1000 × 0 = 0, sum 0", "0",
    ),

    # xAI: a threshold that is reached rather than exceeded.
    Case(
        "grok-4.3 one under 200,000", GROK, 0, ANY_DAY,
        Counts(input_tokens=199999, cached_input_tokens=99999, output_tokens=400),
        "input 100000 × 1.25 = 125000, cached_input 99999 × 0.2 = 19999.8, output 400 × 2.5 = 1000, sum 145999.8",
        "0.1459998",
    ),
    Case(
        "grok-4.3 at 200,000", GROK, 1, ANY_DAY,
        Counts(input_tokens=200000, cached_input_tokens=100000, output_tokens=400),
        "input 100000 × 2.5 = 250000, cached_input 100000 × 0.4 = 40000, output 400 × 5 = 2000, sum 292000",
        "0.292",
    ),
    Case(
        "grok-4.3 batch one under 200,000", GROK, 2, ANY_DAY,
        Counts(input_tokens=199999, cached_input_tokens=99999, output_tokens=400, batch=True),
        "input 100000 × 1 = 100000, cached_input 99999 × 0.16 = 15999.84, output 400 × 2 = 800, sum 116799.84",
        "0.11679984",
    ),
    Case(
        "grok-4.3 batch at 200,000", GROK, 3, ANY_DAY,
        Counts(input_tokens=200000, cached_input_tokens=100000, output_tokens=400, batch=True),
        "input 100000 × 2 = 200000, cached_input 100000 × 0.32 = 32000, output 400 × 4 = 1600, sum 233600",
        "0.2336",
    ),

    # Cards that name few rates: cache traffic without a rate costs what input costs.
    *(
        Case(
            f"mistral-large-2512 {'in a batch' if batch else 'at once'}", MISTRAL_LARGE, entry, ANY_DAY,
            Counts(input_tokens=2000, cached_input_tokens=1200, image_input_tokens=300, output_tokens=300, batch=batch),
            working, usd,
        )
        for batch, entry, working, usd in (
            (False, 0,
             "input 500 × 0.5 = 250, cached_input 1200 × 0.05 = 60, image_input 300 × 0.5 = 150, "
             "output 300 × 1.5 = 450, sum 910",
             "0.00091"),
            (True, 1,
             "input 500 × 0.25 = 125, cached_input 1200 × 0.025 = 30, image_input 300 × 0.25 = 75, "
             "output 300 × 0.75 = 225, sum 455",
             "0.000455"),
        )
    ),
    Case(
        "mistral-large-2512 has no rate for cached images: images cost what they cost", MISTRAL_LARGE, 0, ANY_DAY,
        Counts(input_tokens=1000, cached_input_tokens=400, image_input_tokens=300, cached_image_tokens=100),
        "input 400 × 0.5 = 200, cached_input 300 × 0.05 = 15, image_input 200 × 0.5 = 100, "
        "cached_image_input as image_input 100 × 0.5 = 50, sum 365",
        "0.000365",
    ),
    *(
        Case(
            f"codestral-latest {'in a batch' if batch else 'at once'}: reads and writes of cache are input",
            CODESTRAL, entry, ANY_DAY,
            Counts(
                input_tokens=1000, cached_input_tokens=400, cache_write_tokens=300, cache_write_1h_tokens=100,
                output_tokens=100, batch=batch,
            ),
            working, usd,
        )
        for batch, entry, working, usd in (
            (False, 0,
             "input 200 × 0.3 = 60, cached_input as input 400 × 0.3 = 120, cache_write as input 300 × 0.3 = 90, "
             "cache_write_1h as input 100 × 0.3 = 30, output 100 × 0.9 = 90, sum 390",
             "0.00039"),
            (True, 1,
             "input 200 × 0.15 = 30, cached_input as input 400 × 0.15 = 60, cache_write as input 300 × 0.15 = 45, "
             "cache_write_1h as input 100 × 0.15 = 15, output 100 × 0.45 = 45, sum 195",
             "0.000195"),
        )
    ),
    Case(
        "command-a-03-2025", COMMAND_A, 0, ANY_DAY,
        Counts(input_tokens=1200, cached_input_tokens=200, output_tokens=90),
        "input 1000 × 2.50 = 2500, cached_input as input 200 × 2.50 = 500, output 90 × 10.00 = 900, sum 3900",
        "0.0039",
    ),
    Case(
        "embed-v4.0 embeds text and a picture", EMBED_4, 0, ANY_DAY,
        Counts(input_tokens=1000, image_input_tokens=700),
        "input 300 × 0.12 = 36, image_input 700 × 0.47 = 329, sum 365", "0.000365",
    ),
    Case(
        "glm-4.6", GLM, 0, ANY_DAY, Counts(input_tokens=4096, cached_input_tokens=4000, output_tokens=128),
        "input 96 × 0.6 = 57.6, cached_input 4000 × 0.11 = 440, output 128 × 2.2 = 281.6, sum 779.2", "0.0007792",
    ),
    Case(
        "glm-4.6, no tokens at all", GLM, 0, ANY_DAY, Counts(), "sum 0", "0",
    ),
    Case(
        "glm-4.6, none of what has no rate: zero uses are not uses", GLM, 0, ANY_DAY,
        Counts(input_tokens=10, units={"web_search_requests": 0}), "input 10 × 0.6 = 6, sum 6", "0.000006",
    ),
    Case(
        "kimi-k2.6", KIMI, 0, ANY_DAY, Counts(input_tokens=8192, cached_input_tokens=8000, output_tokens=333),
        "input 192 × 0.95 = 182.4, cached_input 8000 × 0.16 = 1280, output 333 × 4 = 1332, sum 2794.4", "0.0027944",
    ),
    Case(
        "MiniMax-M3 at the threshold", MINIMAX_M3, 0, ANY_DAY, long(512000, 500000),
        "input 12000 × 0.3 = 3600, cached_input 500000 × 0.06 = 30000, output 1000 × 1.2 = 1200, sum 34800",
        "0.0348",
    ),
    Case(
        "MiniMax-M3 over the threshold", MINIMAX_M3, 1, ANY_DAY, long(512001, 500001),
        "input 12000 × 0.6 = 7200, cached_input 500001 × 0.12 = 60000.12, output 1000 × 2.4 = 2400, sum 69600.12",
        "0.06960012",
    ),
    Case(
        "MiniMax-M2 has one rate for what is written to cache", MINIMAX_M2, 0, ANY_DAY,
        Counts(
            input_tokens=900, cached_input_tokens=500, cache_write_tokens=200, cache_write_1h_tokens=100,
            output_tokens=10,
        ),
        "input 100 × 0.3 = 30, cached_input 500 × 0.03 = 15, cache_write 200 × 0.375 = 75, "
        "cache_write_1h as cache_write 100 × 0.375 = 37.5, output 10 × 1.2 = 12, sum 169.5",
        "0.0001695",
    ),
    Case(
        "voyage-3-large", VOYAGE, 0, ANY_DAY, Counts(input_tokens=123457),
        "input 123457 × 0.18 = 22222.26, sum 22222.26", "0.02222226",
    ),
    Case(
        "llama-3.3-70b-versatile on demand", LLAMA, 0, ANY_DAY,
        Counts(input_tokens=1000, output_tokens=1000, service_tier="on_demand"),
        "input 1000 × 0.59 = 590, output 1000 × 0.79 = 790, sum 1380", "0.00138",
    ),
    Case(
        "llama-3.3-70b-versatile on flex, for the same", LLAMA, 1, ANY_DAY,
        Counts(input_tokens=1000, output_tokens=1000, service_tier="flex"),
        "input 1000 × 0.59 = 590, output 1000 × 0.79 = 790, sum 1380", "0.00138",
    ),

    # Perplexity: a fee per request, and reasoning at a rate of its own.
    Case(
        "sonar, the page's own example", SONAR, 0, "2025-06-15T12:00:00Z", Counts(input_tokens=500, output_tokens=200),
        "input 500 × 1 = 500, output 200 × 1 = 200, request 1 × 5000 = 5000, sum 5700", "0.0057",
    ),
    Case(
        "sonar, no tokens: the request is charged", SONAR, 0, "2025-06-15T12:00:00Z", Counts(),
        "request 1 × 5000 = 5000, sum 5000", "0.005",
    ),
    Case(
        "sonar-deep-research, the page's own example", DEEP_RESEARCH, 0, "2025-06-15T12:00:00Z",
        Counts(
            input_tokens=500, output_tokens=300, reasoning_tokens=100,
            units={"web_search_requests": 30, "citation_tokens": 50},
        ),
        "input 500 × 2 = 1000, output 200 × 8 = 1600, reasoning 100 × 3 = 300, citation_tokens 50 × 2 = 100, "
        "web_search_requests 30 × 5000 = 150000, request 1 × 6000 = 6000, sum 159000",
        "0.159",
    ),
    Case(
        "sonar-deep-research, all output is reasoning", DEEP_RESEARCH, 0, "2025-06-15T12:00:00Z",
        Counts(input_tokens=1, output_tokens=100, reasoning_tokens=100),
        "input 1 × 2 = 2, reasoning 100 × 3 = 300, request 1 × 6000 = 6000, sum 6302", "0.006302",
    ),

    # Every pool under every condition. On the ordinary tier by day the pools come to 60,655 µ$, over the threshold to
    # 121,318; the other sums are these times 1.8, 0.4, 0.72 and times 0.6 by night, plus the fee of 1,000.
    Case(
        "ordinary by day, at the threshold", AGREEMENT, 0, NOON,
        everything(5000),
        "input 1050 × 4 = 4200, cached_input 2000 × 0.4 = 800, cache_write 300 × 5 = 1500, "
        "cache_write_1h 400 × 8 = 3200, image_input 500 × 6 = 3000, audio_input 600 × 32 = 19200, "
        "cached_image_input 70 × 0.5 = 35, cached_audio_input 80 × 3 = 240, output 900 × 16 = 14400, "
        "reasoning 100 × 20 = 2000, image_output 110 × 40 = 4400, audio_output 120 × 64 = 7680, "
        "request 1 × 1000 = 1000, sum 61655",
        "0.061655",
    ),
    Case(
        "priority by day, at the threshold", AGREEMENT, 1, NOON,
        everything(5000, service_tier="priority"),
        "input 1050 × 7.2 = 7560, cached_input 2000 × 0.72 = 1440, cache_write 300 × 9 = 2700, "
        "cache_write_1h 400 × 14.4 = 5760, image_input 500 × 10.8 = 5400, audio_input 600 × 57.6 = 34560, "
        "cached_image_input 70 × 0.9 = 63, cached_audio_input 80 × 5.4 = 432, output 900 × 28.8 = 25920, "
        "reasoning 100 × 36 = 3600, image_output 110 × 72 = 7920, audio_output 120 × 115.2 = 13824, "
        "request 1 × 1000 = 1000, sum 110179",
        "0.110179",
    ),
    Case(
        "batch by day, at the threshold", AGREEMENT, 2, NOON,
        everything(5000, batch=True),
        "input 1050 × 1.6 = 1680, cached_input 2000 × 0.16 = 320, cache_write 300 × 2 = 600, "
        "cache_write_1h 400 × 3.2 = 1280, image_input 500 × 2.4 = 1200, audio_input 600 × 12.8 = 7680, "
        "cached_image_input 70 × 0.2 = 14, cached_audio_input 80 × 1.2 = 96, output 900 × 6.4 = 5760, "
        "reasoning 100 × 8 = 800, image_output 110 × 16 = 1760, audio_output 120 × 25.6 = 3072, "
        "request 1 × 1000 = 1000, sum 25262",
        "0.025262",
    ),
    Case(
        "priority batch by day, at the threshold", AGREEMENT, 3, NOON,
        everything(5000, service_tier="priority", batch=True),
        "input 1050 × 2.88 = 3024, cached_input 2000 × 0.288 = 576, cache_write 300 × 3.6 = 1080, "
        "cache_write_1h 400 × 5.76 = 2304, image_input 500 × 4.32 = 2160, audio_input 600 × 23.04 = 13824, "
        "cached_image_input 70 × 0.36 = 25.2, cached_audio_input 80 × 2.16 = 172.8, output 900 × 11.52 = 10368, "
        "reasoning 100 × 14.4 = 1440, image_output 110 × 28.8 = 3168, audio_output 120 × 46.08 = 5529.6, "
        "request 1 × 1000 = 1000, sum 44671.6",
        "0.0446716",
    ),
    Case(
        "ordinary by day, one over the threshold", AGREEMENT, 4, NOON,
        everything(5001),
        "input 1051 × 8 = 8408, cached_input 2000 × 0.8 = 1600, cache_write 300 × 10 = 3000, "
        "cache_write_1h 400 × 16 = 6400, image_input 500 × 12 = 6000, audio_input 600 × 64 = 38400, "
        "cached_image_input 70 × 1 = 70, cached_audio_input 80 × 6 = 480, output 900 × 32 = 28800, "
        "reasoning 100 × 40 = 4000, image_output 110 × 80 = 8800, audio_output 120 × 128 = 15360, "
        "request 1 × 1000 = 1000, sum 122318",
        "0.122318",
    ),
    Case(
        "priority by day, one over the threshold", AGREEMENT, 5, NOON,
        everything(5001, service_tier="priority"),
        "input 1051 × 14.4 = 15134.4, cached_input 2000 × 1.44 = 2880, cache_write 300 × 18 = 5400, "
        "cache_write_1h 400 × 28.8 = 11520, image_input 500 × 21.6 = 10800, audio_input 600 × 115.2 = 69120, "
        "cached_image_input 70 × 1.8 = 126, cached_audio_input 80 × 10.8 = 864, output 900 × 57.6 = 51840, "
        "reasoning 100 × 72 = 7200, image_output 110 × 144 = 15840, audio_output 120 × 230.4 = 27648, "
        "request 1 × 1000 = 1000, sum 219372.4",
        "0.2193724",
    ),
    Case(
        "batch by day, one over the threshold", AGREEMENT, 6, NOON,
        everything(5001, batch=True),
        "input 1051 × 3.2 = 3363.2, cached_input 2000 × 0.32 = 640, cache_write 300 × 4 = 1200, "
        "cache_write_1h 400 × 6.4 = 2560, image_input 500 × 4.8 = 2400, audio_input 600 × 25.6 = 15360, "
        "cached_image_input 70 × 0.4 = 28, cached_audio_input 80 × 2.4 = 192, output 900 × 12.8 = 11520, "
        "reasoning 100 × 16 = 1600, image_output 110 × 32 = 3520, audio_output 120 × 51.2 = 6144, "
        "request 1 × 1000 = 1000, sum 49527.2",
        "0.0495272",
    ),
    Case(
        "priority batch by day, one over the threshold", AGREEMENT, 7, NOON,
        everything(5001, service_tier="priority", batch=True),
        "input 1051 × 5.76 = 6053.76, cached_input 2000 × 0.576 = 1152, cache_write 300 × 7.2 = 2160, "
        "cache_write_1h 400 × 11.52 = 4608, image_input 500 × 8.64 = 4320, audio_input 600 × 46.08 = 27648, "
        "cached_image_input 70 × 0.72 = 50.4, cached_audio_input 80 × 4.32 = 345.6, output 900 × 23.04 = 20736, "
        "reasoning 100 × 28.8 = 2880, image_output 110 × 57.6 = 6336, audio_output 120 × 92.16 = 11059.2, "
        "request 1 × 1000 = 1000, sum 88348.96",
        "0.08834896",
    ),
    Case(
        "ordinary by night, at the threshold", AGREEMENT, 8, NIGHT,
        everything(5000),
        "input 1050 × 2.4 = 2520, cached_input 2000 × 0.24 = 480, cache_write 300 × 3 = 900, "
        "cache_write_1h 400 × 4.8 = 1920, image_input 500 × 3.6 = 1800, audio_input 600 × 19.2 = 11520, "
        "cached_image_input 70 × 0.3 = 21, cached_audio_input 80 × 1.8 = 144, output 900 × 9.6 = 8640, "
        "reasoning 100 × 12 = 1200, image_output 110 × 24 = 2640, audio_output 120 × 38.4 = 4608, "
        "request 1 × 1000 = 1000, sum 37393",
        "0.037393",
    ),
    Case(
        "priority by night, at the threshold", AGREEMENT, 9, NIGHT,
        everything(5000, service_tier="priority"),
        "input 1050 × 4.32 = 4536, cached_input 2000 × 0.432 = 864, cache_write 300 × 5.4 = 1620, "
        "cache_write_1h 400 × 8.64 = 3456, image_input 500 × 6.48 = 3240, audio_input 600 × 34.56 = 20736, "
        "cached_image_input 70 × 0.54 = 37.8, cached_audio_input 80 × 3.24 = 259.2, output 900 × 17.28 = 15552, "
        "reasoning 100 × 21.6 = 2160, image_output 110 × 43.2 = 4752, audio_output 120 × 69.12 = 8294.4, "
        "request 1 × 1000 = 1000, sum 66507.4",
        "0.0665074",
    ),
    Case(
        "batch by night, at the threshold", AGREEMENT, 10, NIGHT,
        everything(5000, batch=True),
        "input 1050 × 0.96 = 1008, cached_input 2000 × 0.096 = 192, cache_write 300 × 1.2 = 360, "
        "cache_write_1h 400 × 1.92 = 768, image_input 500 × 1.44 = 720, audio_input 600 × 7.68 = 4608, "
        "cached_image_input 70 × 0.12 = 8.4, cached_audio_input 80 × 0.72 = 57.6, output 900 × 3.84 = 3456, "
        "reasoning 100 × 4.8 = 480, image_output 110 × 9.6 = 1056, audio_output 120 × 15.36 = 1843.2, "
        "request 1 × 1000 = 1000, sum 15557.2",
        "0.0155572",
    ),
    Case(
        "priority batch by night, at the threshold", AGREEMENT, 11, NIGHT,
        everything(5000, service_tier="priority", batch=True),
        "input 1050 × 1.728 = 1814.4, cached_input 2000 × 0.1728 = 345.6, cache_write 300 × 2.16 = 648, "
        "cache_write_1h 400 × 3.456 = 1382.4, image_input 500 × 2.592 = 1296, audio_input 600 × 13.824 = 8294.4, "
        "cached_image_input 70 × 0.216 = 15.12, cached_audio_input 80 × 1.296 = 103.68, "
        "output 900 × 6.912 = 6220.8, reasoning 100 × 8.64 = 864, image_output 110 × 17.28 = 1900.8, "
        "audio_output 120 × 27.648 = 3317.76, request 1 × 1000 = 1000, sum 27202.96",
        "0.02720296",
    ),
    Case(
        "ordinary by night, one over the threshold", AGREEMENT, 12, NIGHT,
        everything(5001),
        "input 1051 × 4.8 = 5044.8, cached_input 2000 × 0.48 = 960, cache_write 300 × 6 = 1800, "
        "cache_write_1h 400 × 9.6 = 3840, image_input 500 × 7.2 = 3600, audio_input 600 × 38.4 = 23040, "
        "cached_image_input 70 × 0.6 = 42, cached_audio_input 80 × 3.6 = 288, output 900 × 19.2 = 17280, "
        "reasoning 100 × 24 = 2400, image_output 110 × 48 = 5280, audio_output 120 × 76.8 = 9216, "
        "request 1 × 1000 = 1000, sum 73790.8",
        "0.0737908",
    ),
    Case(
        "priority by night, one over the threshold", AGREEMENT, 13, NIGHT,
        everything(5001, service_tier="priority"),
        "input 1051 × 8.64 = 9080.64, cached_input 2000 × 0.864 = 1728, cache_write 300 × 10.8 = 3240, "
        "cache_write_1h 400 × 17.28 = 6912, image_input 500 × 12.96 = 6480, audio_input 600 × 69.12 = 41472, "
        "cached_image_input 70 × 1.08 = 75.6, cached_audio_input 80 × 6.48 = 518.4, output 900 × 34.56 = 31104, "
        "reasoning 100 × 43.2 = 4320, image_output 110 × 86.4 = 9504, audio_output 120 × 138.24 = 16588.8, "
        "request 1 × 1000 = 1000, sum 132023.44",
        "0.13202344",
    ),
    Case(
        "batch by night, one over the threshold", AGREEMENT, 14, NIGHT,
        everything(5001, batch=True),
        "input 1051 × 1.92 = 2017.92, cached_input 2000 × 0.192 = 384, cache_write 300 × 2.4 = 720, "
        "cache_write_1h 400 × 3.84 = 1536, image_input 500 × 2.88 = 1440, audio_input 600 × 15.36 = 9216, "
        "cached_image_input 70 × 0.24 = 16.8, cached_audio_input 80 × 1.44 = 115.2, output 900 × 7.68 = 6912, "
        "reasoning 100 × 9.6 = 960, image_output 110 × 19.2 = 2112, audio_output 120 × 30.72 = 3686.4, "
        "request 1 × 1000 = 1000, sum 30116.32",
        "0.03011632",
    ),
    Case(
        "priority batch by night, one over the threshold", AGREEMENT, 15, NIGHT,
        everything(5001, service_tier="priority", batch=True),
        "input 1051 × 3.456 = 3632.256, cached_input 2000 × 0.3456 = 691.2, cache_write 300 × 4.32 = 1296, "
        "cache_write_1h 400 × 6.912 = 2764.8, image_input 500 × 5.184 = 2592, audio_input 600 × 27.648 = 16588.8, "
        "cached_image_input 70 × 0.432 = 30.24, cached_audio_input 80 × 2.592 = 207.36, "
        "output 900 × 13.824 = 12441.6, reasoning 100 × 17.28 = 1728, image_output 110 × 34.56 = 3801.6, "
        "audio_output 120 × 55.296 = 6635.52, request 1 × 1000 = 1000, sum 53409.376",
        "0.053409376",
    ),

    # Hours in a zone with daylight saving time, and weekdays of that zone: Monday to Friday, 22:00 to 06:00.
    *(
        Case(
            f"the night in New York, {name}", AGREEMENT, 8, at, Counts(input_tokens=1000),
            "input 1000 × 2.4 = 2400, request 1 × 1000 = 1000, sum 3400", "0.0034",
        )
        for name, at in (
            ("22:00 on a winter Wednesday", "2026-01-15T03:00:00Z"),
            ("before 06:00 after it", "2026-01-15T10:59:59.999999Z"),
            ("22:00 on a summer Wednesday", "2026-07-16T02:00:00Z"),
            ("before 06:00 after it, in summer", "2026-07-16T09:59:59.999999Z"),
            ("22:00 on Friday, already Saturday in UTC", "2026-07-18T02:00:00Z"),
            ("before 06:00 on Saturday: still Friday's", "2026-07-18T09:59:59.999999Z"),
            ("22:00 on Monday, already Tuesday in UTC", "2026-07-21T02:00:00Z"),
            ("across the end of a year, 00:30 on Friday", "2027-01-01T05:30:00Z"),
            ("23:00 on the Friday before the clocks go forward", "2026-03-07T04:00:00Z"),
            ("23:00 on the Monday after, an hour earlier in UTC", "2026-03-10T03:00:00Z"),
        )
    ),
    *(
        Case(
            f"the day in New York, {name}", AGREEMENT, 0, at, Counts(input_tokens=1000),
            "input 1000 × 4 = 4000, request 1 × 1000 = 1000, sum 5000", "0.005",
        )
        for name, at in (
            ("before 22:00 on a winter Wednesday", "2026-01-15T02:59:59.999999Z"),
            ("06:00 after it", "2026-01-15T11:00:00Z"),
            ("before 22:00 on a summer Wednesday", "2026-07-16T01:59:59.999999Z"),
            ("06:00 after it, in summer", "2026-07-16T10:00:00Z"),
            ("06:00 on Saturday", "2026-07-18T10:00:00Z"),
            ("22:00 on Saturday", "2026-07-19T02:00:00Z"),
            ("22:00 on Sunday, already Monday in UTC", "2026-07-20T02:00:00Z"),
            ("00:30 on Monday: Sunday's night", "2026-07-20T04:30:00Z"),
            ("06:30 on the Monday after the clocks went forward", "2026-03-09T10:30:00Z"),
        )
    ),
    *(
        Case(
            f"the hour after two in Berlin, {name}", AN_HOUR_OF_THE_NIGHT, 1, at,
            Counts(input_tokens=1000, output_tokens=100),
            "input 1000 × 0.2 = 200, output 100 × 1 = 100, sum 300", "0.0003",
        )
        for name, at in (
            ("the day before the clocks go back", "2026-10-24T00:00:00Z"),
            ("the first time on that day", "2026-10-25T00:00:00Z"),
            ("the second time on that day", "2026-10-25T01:00:00Z"),
            ("to its last microsecond", "2026-10-25T01:59:59.999999Z"),
        )
    ),
    *(
        Case(
            f"outside the hour after two in Berlin, {name}", AN_HOUR_OF_THE_NIGHT, 0, at,
            Counts(input_tokens=1000, output_tokens=100),
            "input 1000 × 0.4 = 400, output 100 × 2 = 200, sum 600", "0.0006",
        )
        for name, at in (
            ("three at last", "2026-10-25T02:00:00Z"),
            ("before two on the day the clocks go forward", "2026-03-29T00:59:59.999999Z"),
            ("straight to three on that day", "2026-03-29T01:00:00Z"),
        )
    ),
    *(
        Case(
            f"a weekend in China, {name}", WEEKENDS, 1, at, Counts(input_tokens=1000, output_tokens=100),
            "input 1000 × 0.2 = 200, output 100 × 1 = 100, sum 300", "0.0003",
        )
        for name, at in (
            ("its first instant, a Friday in UTC", "2026-11-20T16:00:00Z"),
            ("Saturday noon", "2026-11-21T04:00:00Z"),
            ("Saturday's last microsecond", "2026-11-21T15:59:59.999999Z"),
            ("Sunday's first instant", "2026-11-21T16:00:00Z"),
            ("its last microsecond", "2026-11-22T15:59:59.999999Z"),
        )
    ),
    *(
        Case(
            f"a weekday in China, {name}", WEEKENDS, 0, at, Counts(input_tokens=1000, output_tokens=100),
            "input 1000 × 0.4 = 400, output 100 × 2 = 200, sum 600", "0.0006",
        )
        for name, at in (
            ("Friday's last microsecond", "2026-11-20T15:59:59.999999Z"),
            ("Monday's first instant, a Sunday in UTC", "2026-11-22T16:00:00Z"),
        )
    ),

    # Two thresholds.
    *(
        Case(f"steps, {tokens} tokens", STEPS, entry, ANY_DAY, Counts(input_tokens=tokens), working, usd)
        for tokens, entry, working, usd in (
            (32000, 1, "input 32000 × 1 = 32000, sum 32000", "0.032"),
            (32001, 0, "input 32001 × 2 = 64002, sum 64002", "0.064002"),
            (128000, 0, "input 128000 × 2 = 256000, sum 256000", "0.256"),
            (128001, 2, "input 128001 × 3 = 384003, sum 384003", "0.384003"),
        )
    ),

    # A threshold counts before the hour.
    *(
        Case(name, NIGHT_OR_LONG, entry, at, Counts(input_tokens=tokens), working, usd)
        for name, entry, at, tokens, working, usd in (
            ("a short day", 0, "2026-07-15T06:00:00Z", 5000, "input 5000 × 1 = 5000, sum 5000", "0.005"),
            ("a short night", 1, "2026-07-15T00:00:00Z", 5000, "input 5000 × 0.5 = 2500, sum 2500", "0.0025"),
            ("a long day", 2, "2026-07-15T06:00:00Z", 5001, "input 5001 × 2 = 10002, sum 10002", "0.010002"),
            ("a long night", 2, "2026-07-15T00:00:00Z", 5001, "input 5001 × 2 = 10002, sum 10002", "0.010002"),
        )
    ),
)

UNPRICED: tuple[Refusal, ...] = (
    Refusal("an image", CODESTRAL, Counts(input_tokens=10, image_input_tokens=1), "no rate for image_input"),
    Refusal(
        "an image from cache", CODESTRAL,
        Counts(input_tokens=10, cached_input_tokens=1, image_input_tokens=1, cached_image_tokens=1),
        "no rate for cached_image_input",
    ),
    Refusal("sound", SONNET, Counts(input_tokens=10, audio_input_tokens=1), "no rate for audio_input"),
    Refusal(
        "sound from cache", GPT_IMAGE,
        Counts(input_tokens=10, cached_input_tokens=1, audio_input_tokens=1, cached_audio_tokens=1),
        "no rate for cached_audio_input",
    ),
    Refusal("output of an embedding model", VOYAGE, Counts(input_tokens=10, output_tokens=1), "no rate for output"),
    Refusal(
        "reasoning of an embedding model", VOYAGE, Counts(input_tokens=10, output_tokens=1, reasoning_tokens=1),
        "no rate for output",
    ),
    Refusal(
        "a drawing", GPT_4O, Counts(input_tokens=10, output_tokens=1, image_output_tokens=1), "no rate for image_output"
    ),
    Refusal(
        "speech", GPT_4O, Counts(input_tokens=10, output_tokens=1, audio_output_tokens=1), "no rate for audio_output"
    ),
    Refusal("sound into a free model", GEMMA, Counts(input_tokens=10, audio_input_tokens=1), "no rate for audio_input"),
    Refusal(
        "a search", GLM, Counts(input_tokens=10, units={"web_search_requests": 1}), "no rate for web_search_requests"
    ),
    Refusal(
        "a use that nobody knows, beside one that is free", SONNET,
        Counts(units={"web_fetch_requests": 1, "code_hours": 1}), "no rate for code_hours",
    ),
    Refusal("a tier", SONNET, Counts(input_tokens=10, service_tier="flex"), "service tier flex"),
    Refusal("a tier of nothing", GLM, Counts(service_tier="priority"), "service tier priority"),
    Refusal("a batch", GLM, Counts(input_tokens=10, batch=True), "service tier default, batch"),
    Refusal("a batch on a tier", SOL, Counts(input_tokens=10, service_tier="flex", batch=True), "flex, batch"),
    Refusal(
        "what only the ordinary tier prices", TEXT_ONLY_FLEX,
        Counts(input_tokens=10, image_input_tokens=1, service_tier="flex"), "no rate for image_input",
    ),
)

INCONSISTENT: tuple[Refusal, ...] = (
    Refusal(
        "more from cache than came in", GLM, Counts(input_tokens=10, cached_input_tokens=11),
        "exceed input_tokens", "input_tokens",
    ),
    Refusal(
        "more written to cache than came in", SONNET, Counts(input_tokens=10, cache_write_tokens=11),
        "exceed input_tokens", "input_tokens",
    ),
    Refusal(
        "more written for an hour than came in", SONNET, Counts(input_tokens=10, cache_write_1h_tokens=11),
        "exceed input_tokens", "input_tokens",
    ),
    Refusal(
        "reads and both kinds of writes that only together are too many", SONNET,
        Counts(input_tokens=10, cached_input_tokens=4, cache_write_tokens=4, cache_write_1h_tokens=3),
        "exceed input_tokens", "input_tokens",
    ),
    Refusal(
        "images and sound that only together are too many", REALTIME,
        Counts(input_tokens=10, image_input_tokens=6, audio_input_tokens=5), "exceed input_tokens", "input_tokens",
    ),
    Refusal(
        "an image beside a full cache, not said to be cached", REALTIME,
        Counts(input_tokens=10, cached_input_tokens=10, image_input_tokens=1), "exceed input_tokens", "input_tokens",
    ),
    Refusal(
        "more cached images than anything cached", REALTIME,
        Counts(input_tokens=10, cached_input_tokens=1, image_input_tokens=2, cached_image_tokens=2),
        "exceed cached_input_tokens", "cached_input_tokens",
    ),
    Refusal(
        "cached images and sound that only together are too many", REALTIME,
        Counts(
            input_tokens=10, cached_input_tokens=3, image_input_tokens=2, cached_image_tokens=2, audio_input_tokens=2,
            cached_audio_tokens=2,
        ),
        "exceed cached_input_tokens", "cached_input_tokens",
    ),
    Refusal(
        "more cached images than images", REALTIME,
        Counts(input_tokens=10, cached_input_tokens=5, image_input_tokens=2, cached_image_tokens=3),
        "exceed image_input_tokens", "cached_image_tokens",
    ),
    Refusal(
        "more cached sound than sound", REALTIME,
        Counts(input_tokens=10, cached_input_tokens=5, audio_input_tokens=2, cached_audio_tokens=3),
        "exceed audio_input_tokens", "cached_audio_tokens",
    ),
    Refusal(
        "more drawn and spoken than came out", AGREEMENT,
        Counts(output_tokens=10, image_output_tokens=6, audio_output_tokens=5), "exceed output_tokens", "output_tokens",
    ),
    Refusal(
        "more reasoning than output", GLM, Counts(output_tokens=10, reasoning_tokens=11),
        "exceed the text part of output_tokens", "reasoning_tokens",
    ),
    Refusal(
        "more reasoning than output, where it is priced apart", DEEP_RESEARCH,
        Counts(output_tokens=10, reasoning_tokens=11), "exceed the text part of output_tokens", "reasoning_tokens",
    ),
    Refusal(
        "more reasoning than the text beside a drawing", GEMINI_IMAGE,
        Counts(output_tokens=10, image_output_tokens=5, reasoning_tokens=6),
        "exceed the text part of output_tokens", "reasoning_tokens",
    ),
)
# fmt: on

CARDS: tuple[Card, ...] = tuple({id(case.card): case.card for case in CASES}.values())
