"""Model ids as people, SDKs and price lists write them, taken apart. Pure text, no lookup.

One model goes by many ids: ``gpt-4o-2024-08-06``, ``openai/gpt-4o``, ``azure/eu/gpt-4o-2024-08-06``,
``us.anthropic.claude-sonnet-4-5-20250929-v1:0``, ``vertex_ai/claude-sonnet-4-5@20250929``,
``anthropic/claude-sonnet-4.5:nitro``. ``parse`` says what such an id is made of; ``candidates``
says under which ids a catalog may know it.

Suffixes after a colon come in two kinds, and OpenRouter's documentation draws the same line
(openrouter.ai/docs/guides/routing/model-variants): ``:free``, ``:batch``, ``:thinking`` and
``:extended`` have a price of their own, so they are models of their own and never fall back to the
plain model; ``:nitro``, ``:floor``, ``:exacto`` and ``:online`` only say how to route, and ``[1m]``
only asks for the long context, which the card prices by itself. A suffix that nobody here has
heard of (``llama3:8b``) is taken for a model of its own.
"""

import re
from itertools import product
from typing import NamedTuple

ROUTING_VARIANTS = frozenset({"nitro", "floor", "exacto", "online", "1m"})

# Who serves a model without having made it, by every spelling. Their prices may differ from the vendor's.
_ROUTES = {
    "anyscale": "anyscale", "azure": "azure", "azure_ai": "azure_ai", "azure_text": "azure", "baseten": "baseten",
    "bedrock": "bedrock", "bedrock_converse": "bedrock", "bedrock_mantle": "bedrock", "cerebras": "cerebras",
    "chatgpt": "chatgpt", "cloudflare": "cloudflare", "crusoe": "crusoe", "dashscope": "dashscope",
    "databricks": "databricks", "deepinfra": "deepinfra", "featherless_ai": "featherless_ai",
    "fireworks": "fireworks_ai", "fireworks_ai": "fireworks_ai", "friendliai": "friendliai", "github": "github",
    "github_copilot": "github_copilot", "gmi": "gmi", "gradient_ai": "gradient_ai", "groq": "groq",
    "heroku": "heroku", "hosted_vllm": "vllm", "huggingface": "huggingface", "hyperbolic": "hyperbolic",
    "lambda_ai": "lambda_ai", "libertai": "libertai", "litellm_proxy": "litellm_proxy", "llamagate": "llamagate",
    "lm_studio": "lm_studio", "nebius": "nebius", "novita": "novita", "nscale": "nscale",
    "nvidia_nim": "nvidia_nim", "oci": "oci", "ollama": "ollama", "ollama_chat": "ollama",
    "openrouter": "openrouter", "ovhcloud": "ovhcloud", "publicai": "publicai", "replicate": "replicate",
    "sagemaker": "sagemaker", "sambanova": "sambanova", "scaleway": "scaleway", "snowflake": "snowflake",
    "tensormesh": "tensormesh", "together": "together_ai", "together_ai": "together_ai",
    "vercel_ai_gateway": "vercel_ai_gateway", "vertex": "vertex_ai", "vertex_ai": "vertex_ai",
    "vertex_ai_beta": "vertex_ai", "vllm": "vllm", "volcengine": "volcengine", "wandb": "wandb",
    "watsonx": "watsonx",
}  # fmt: skip

# A vendor's other names. The right side is the slug that the catalog shows as ``owned_by``.
_VENDORS = {
    "alibaba": "qwen", "codestral": "mistralai", "deepseek-ai": "deepseek", "gemini": "google",
    "meta-llama": "meta", "meta_llama": "meta", "minimaxai": "minimax", "mistral": "mistralai",
    "moonshot": "moonshotai", "palm": "google", "text-completion-codestral": "mistralai",
    "text-completion-openai": "openai", "voyage": "voyageai", "x-ai": "xai", "z-ai": "zai", "zai-org": "zai",
    "zhipu": "zai", "zhipuai": "zai",
}  # fmt: skip

# Path segments that name neither who nor where.
_IDLE = frozenset({"*", "@cf", "@hf", "accounts", "converse", "invoke", "models", "publishers", "routers"})

_REGION = re.compile(
    r"us-gov|us|eu|apac|au|jp|ca|sa|me|uk|global"
    r"|[a-z]{2}(?:-gov)?-(?:north|south|east|west|central)+-\d"  # us-gov-west-1, ap-northeast-1
    r"|(?:us|europe|asia|australia|northamerica|southamerica|me)-(?:north|south|east|west|central)+\d{1,2}",
    re.ASCII,
)
_REGIONS = {"global-standard": "global"}

# Bedrock's dotted ids: region, vendor, model. Only a known vendor makes a dot a separator.
_DOTTED = re.compile(
    r"(?:(?P<region>us-gov|us|eu|apac|au|jp|ca|sa|me|uk|global)\.)?"
    r"(?P<vendor>ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshot|nvidia|openai|qwen"
    r"|stability|twelvelabs|writer|zai)\."
    r"(?P<rest>[^:].*)",
    re.ASCII,
)
# Bedrock's own revision, with or without a context size; ``claude-v2:1`` is a name, not a revision.
_REVISION = re.compile(r"(?P<rest>.+(?<!claude)(?<!claude-instant))-v\d{1,2}:\d{1,2}(?::\d{1,4}k)?", re.ASCII)
_BRACKET = re.compile(r"(?P<rest>.+)\[(?P<variant>1m)\]", re.ASCII)

# One model, several ways to write it. Each pattern no longer matches what it made.
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^gpt-35(?=-|$)", re.ASCII), "gpt-3.5"),  # Azure allows no dot
    (re.compile(r"^(claude-(?:.*-)?\d+(?:-.*)?)-v\d{1,2}$", re.ASCII), r"\1"),  # Bedrock without ``:0``
    # claude-4-sonnet and claude-4-8-opus, as some lists order it.
    (re.compile(r"^claude-([4-9](?:-\d)?)-(opus|sonnet|haiku|fable)(?=-|$)", re.ASCII), r"claude-\2-\1"),
)
_CLAUDE_DOT = re.compile(r"(?<=[0-9])\.(?=[0-9])")

_MONTH, _DAY, _YEAR = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"20\d\d"
# What can stand at the end of a model's name for a moment, the fullest form first.
_DATES = tuple(
    re.compile(rf"(?P<rest>.+)-(?P<date>{form})", re.ASCII)
    for form in (
        rf"{_YEAR}-{_MONTH}-{_DAY}",
        rf"{_YEAR}{_MONTH}{_DAY}",
        rf"{_MONTH}-{_YEAR}",  # command-a-03-2025
        rf"{_MONTH}-{_DAY}",  # gemini-2.5-pro-preview-05-06
        rf"(?:{_MONTH}{_DAY}|2[3-9]{_MONTH})",  # gpt-4-0613, mistral-large-2411
        "latest",
    )
)
_AT = re.compile(rf"(?P<rest>.+)@(?P<date>{_YEAR}{_MONTH}{_DAY}|latest|default)", re.ASCII)  # Vertex AI


class Name(NamedTuple):
    """What a model id is made of, in lower case; absent parts are empty.

    ``base`` the model; ``vendor`` who made it; ``date`` its snapshot: ``2024-08-06``, shorter where
    the vendor writes less (``0613``, ``2411``, ``05-06``, ``03-2025``), or ``latest``; ``region``
    where it is served; ``route`` who serves it, if not the vendor; ``variant`` what follows a colon,
    or ``ft`` for a fine-tuned model.
    """

    base: str
    vendor: str = ""
    date: str = ""
    region: str = ""
    route: str = ""
    variant: str = ""

    @property
    def id(self) -> str:
        """The model without who and where: ``gpt-4o-2024-08-06``, ``gemma-4-31b-it:free``, ``ft:gpt-4o``."""
        dated = f"{self.base}-{self.date}" if self.date else self.base
        if self.variant == "ft":
            return f"ft:{dated}"
        return f"{dated}:{self.variant}" if self.variant else dated


def show(name: Name) -> str:
    """The one spelling of a name: ``parse(show(name)) == name`` for every name that ``parse`` gave."""
    return "/".join(part for part in (name.route, name.region, name.vendor, name.id) if part)


def parse(text: str) -> Name:
    """Take a model id apart. Takes any text: what it does not know stays in ``base`` or ``vendor``.

    Nothing is looked up and nothing is cut: the caller bounds the length.
    """
    parts = [part.lstrip(":") for part in _cleaned(text).lower().split("/") if part.strip(":")] or [""]
    tail = parts.pop()
    route = region = ""
    vendors = []
    for part in parts:
        if part in _ROUTES and not route:
            route = _ROUTES[part]
        elif not region and (part in _REGIONS or _REGION.fullmatch(part)):
            region = _REGIONS.get(part, part)
        # A route may come again on the way: fireworks_ai/accounts/fireworks/models/….
        elif part not in _IDLE and (part not in _ROUTES or _ROUTES[part] != route):
            vendors.append(_VENDORS.get(part, part))
    while dotted := _DOTTED.fullmatch(tail):
        route, region, tail = route or "bedrock", region or dotted["region"] or "", dotted["rest"]
        vendors = vendors or [_VENDORS.get(dotted["vendor"], dotted["vendor"])]
    base, variant = _variant(tail)
    while (shorter := _settled(base, variant)) != (base, variant):
        base, variant = shorter
    base, date = _date(base)
    return Name(base, "/".join(vendors), date, region, route, variant)


def candidates(text: str, *, exact: bool = False) -> tuple[str, ...]:
    """The ids under which a catalog may know a model, the most specific first, beginning with the text itself.

    A route and a vendor are given up, for a catalog need not name them, and so is a variant that
    only routes. Without ``exact``, so are a date and then a region: fit for a proposal to a person.
    ``exact`` keeps them, for they change prices (``gpt-4o-2024-05-13`` takes twice as much for input
    as ``gpt-4o``); ``latest`` and ``global`` are no more than the plain model and may go. A variant
    with a price of its own is never given up.
    """
    name, sent = parse(text), _cleaned(text)
    tail = sent.rpartition("/")[2]
    found = {sent: None, show(name): None}
    for date, variant, region, (route, vendor) in product(
        _given_up(name.date, keep=exact and name.date != "latest"),
        _given_up(name.variant, keep=name.variant not in ROUTING_VARIANTS),
        _given_up(name.region, keep=exact and name.region != "global"),
        ((name.route, name.vendor), ("", name.vendor), ("", "")),
    ):
        tried = Name(name.base, vendor, date, region, route, variant)
        if tried.base == "ft" and not date and variant not in {"", "ft"}:
            continue  # It would read as a fine-tuned model.
        head = show(tried).removesuffix(tried.id)
        for spelled in _dated(tried):
            # A catalog may keep the vendor's capitals: MiniMax-M2.
            if spelled == tail.lower():
                found[head + tail] = None
            found[head + spelled] = None
    return tuple(filter(None, found))


def _given_up(part: str, *, keep: bool = False) -> tuple[str, ...]:
    """A part of a name and, unless it is to be kept, its absence."""
    return (part,) if keep or not part else (part, "")


def _cleaned(text: str) -> str:
    """Without white space, and without the tilde by which OpenRouter marks an alias that moves."""
    return "".join(text.replace("~", "").split())


def _variant(tail: str) -> tuple[str, str]:
    """The model and the suffix that makes it another one or routes it elsewhere."""
    if tail.startswith("ft:") and (model := tail.split(":")[1]):
        return model, "ft"  # ft:gpt-4o-2024-08-06:organization:name:id costs what ft:gpt-4o-2024-08-06 costs
    while revision := _REVISION.fullmatch(tail):
        tail = revision["rest"]
    model, _, variant = tail.partition(":")
    return model, variant


def _settled(model: str, variant: str) -> tuple[str, str]:
    """One step towards the spelling that the house uses, the date still at the end."""
    plain = model
    if at := _AT.fullmatch(plain):
        plain = at["rest"] if at["date"] == "default" else f"{at['rest']}-{at['date']}"
    if plain.startswith("claude-"):
        plain = _CLAUDE_DOT.sub("-", plain)  # claude-sonnet-4.5
    for pattern, spelling in _SPELLINGS:
        plain = pattern.sub(spelling, plain)
    suffix = variant
    # Before a date or behind it: claude-sonnet-4[1m]@20250514.
    undated = _date(plain)[0]
    for end in ("", plain[len(undated) :]):
        if not suffix and (bracket := _BRACKET.fullmatch(plain.removesuffix(end))):
            plain, suffix = bracket["rest"] + end, bracket["variant"]
    # A model that came out as "ft" would read as a fine-tuned one, its suffix as its name.
    return (model, variant) if plain == "ft" != suffix else (plain, suffix)


def _date(model: str) -> tuple[str, str]:
    """The model and the date at its end; eight digits are written as a day."""
    for pattern in _DATES:
        if dated := pattern.fullmatch(model):
            date = dated["date"]
            whole = len(date) == 8 and date.isdigit()
            return dated["rest"], f"{date[:4]}-{date[4:6]}-{date[6:]}" if whole else date
    return model, ""


def _dated(name: Name) -> tuple[str, ...]:
    """A name's id in each way that vendors write its date: with dashes, without (Anthropic), after an @ (Vertex AI)."""
    if len(name.date) != 10:
        return (name.id,)
    compact = name._replace(date=name.date.replace("-", ""))
    return (name.id, compact.id, compact._replace(base=f"{name.base}@{compact.date}", date="").id)
