"""Channels: the upstreams that serve model calls, and the routes of smart products.

The only module that writes ``Channel`` and ``Route``. A change holds in every process as soon as it asks whether
its caches still do (``CACHE_POLL_MS``). A channel's key is in the environment, or in its row, sealed
(``core.sealing``): what has been put there is sent upstream and shown to nobody.
"""

import contextlib
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import transaction

from core import errors, sealing
from gateway.models import Channel, Route
from metering import catalog
from orgs import audit, caches
from orgs.audit import Actor

log = logging.getLogger(__name__)

Kind = Channel.Kind
CapName = Channel.CapName
By = Route.By
# Every id, unchanged.
ANY = "*"
NAME_CHARS_MAX = 64
MODELS_MAX = 2000
GROUPS_MAX = 100
PRIORITY_MAX = 1_000_000
MILLISECONDS_MAX = 3_600_000
CONCURRENCY_MAX = 1_000_000
CHANNELS_MAX = 1000
KEY_CHARS_MAX = 4096
# A channel is never given a secret that was meant for something else.
_KEY_ENV = re.compile(r"(?!STRIPE)[A-Z][A-Z0-9_]{0,100}_API_KEY")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What a header may hold (RFC 6750, 2.1, and more).
_KEY = re.compile(r"[!-~]+")
_TIMES = ("connect_ms", "first_byte_ms", "idle_ms", "total_ms")
_FLAGS = ("enabled", "has_responses", "has_stream_usage")
FIELDS = (
    "kind", "base_url", "key_env", "models", "groups", "priority", "weight", *_FLAGS, *_TIMES, "concurrency_max",
    "cap_name",
)  # fmt: skip
# What a field of a file is called in the table, where a column cannot have its name.
_COLUMN = {"models": "serves"}


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """What a process keeps of a channel; times in seconds."""

    id: UUID
    name: str
    kind: str
    base_url: str
    key: str = field(repr=False)
    models: Mapping[str, str]
    groups: frozenset[str]
    priority: int
    weight: int
    connect_seconds: float
    first_byte_seconds: float
    idle_seconds: float
    total_seconds: float
    concurrency_max: int | None
    has_responses: bool
    has_stream_usage: bool
    cap_name: str = CapName.AS_ASKED.value

    def upstream_id(self, slug: str) -> str | None:
        """What the upstream calls a model of the catalog; None if the channel does not serve it."""
        found = self.models.get(slug)
        return slug if found is None and ANY in self.models else found

    def serves(self, group: str) -> bool:
        """Whether callers of a price group may be led here."""
        return not self.groups or group in self.groups


class RouteFacts(NamedTuple):
    """How a smart product chooses."""

    by: str
    candidates: tuple[str, ...]


class Board(NamedTuple):
    """All enabled channels and routes, as this process knows them."""

    channels: tuple[ChannelFacts, ...]
    routes: Mapping[str, RouteFacts]

    def ids(self, group: str) -> frozenset[str] | None:
        """The catalog's ids that lead somewhere for a price group; None: no channel, or one that serves any."""
        open_to = [channel for channel in self.channels if channel.serves(group)]
        if not self.channels or any(ANY in channel.models for channel in open_to):
            return None
        served = {slug for channel in open_to for slug in channel.models}
        smart = {slug for slug, route in self.routes.items() if not served.isdisjoint(route.candidates)}
        return frozenset(served | smart)


def _load(keys: Collection[str]) -> Mapping[str, Board]:
    rows = Channel.objects.filter(enabled=True).order_by("id")
    channels = tuple(facts for row in rows if (facts := _facts(row)) is not None)
    routes = {row.model: RouteFacts(row.by, tuple(row.candidates)) for row in Route.objects.all()}
    return dict.fromkeys(keys, Board(channels, routes))


def _facts(row: Channel) -> ChannelFacts | None:
    """What is kept of a row; None where its key cannot be read, for nobody is asked without it."""
    try:
        key = _key_of(row)
    except sealing.Unreadable as reason:
        log.error("channel %s is left out: its key is %s", row.name, reason)
        return None
    return ChannelFacts(
        id=row.pk, name=row.name, kind=row.kind, base_url=row.base_url.rstrip("/"), key=key, models=row.serves,
        groups=frozenset(row.groups), priority=row.priority, weight=row.weight, connect_seconds=row.connect_ms / 1000,
        first_byte_seconds=row.first_byte_ms / 1000, idle_seconds=row.idle_ms / 1000,
        total_seconds=row.total_ms / 1000, concurrency_max=row.concurrency_max, has_responses=row.has_responses,
        has_stream_usage=row.has_stream_usage, cap_name=row.cap_name,
    )  # fmt: skip


# Channels whose variable this process has said to be missing.
_missed: set[tuple[str, str]] = set()


def _key_of(row: Channel) -> str:
    """What is sent as the channel's key. Raises ``sealing.Unreadable``."""
    if row.sealed_key is None:
        if row.key_env and row.key_env not in os.environ and (row.name, row.key_env) not in _missed:
            _missed.add((row.name, row.key_env))
            log.warning("channel %s is asked without a key: %s is not set", row.name, row.key_env)
        return os.environ.get(row.key_env, "") if row.key_env else ""
    masters = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return sealing.unseal(bytes(row.sealed_key), context=row.pk.bytes, masters=masters).decode()


def _seal(row: Channel, key: str) -> bytes:
    return sealing.seal(key.encode(), context=row.pk.bytes, master=settings.SECRET_KEY)


_boards: caches.Cached[str, Board] = caches.Cached(_load)


def board() -> Board:
    """The channels as this process knows them, at most half a second behind a change elsewhere."""
    found = _boards.get("board")
    assert found is not None
    return found


def routable(group: str) -> frozenset[str] | None:
    """What ``metering.catalog`` lists to a price group."""
    return board().ids(group)


@transaction.atomic
def keep(*, name: str, fields: Mapping[str, Any], key: str | None = None, by: Actor) -> tuple[Channel, bool]:
    """Make a channel or change the one of that name to exactly these fields; the row, and whether anything changed.

    A field that is absent has its default. ``key`` is kept sealed; without one, what is sealed stays, and ``""``
    takes it away. Raises ``OutOfRange`` or ``InvalidType`` that name the field.
    """
    told = _checked(name, fields)
    if key:
        _check_key(key)
    row = Channel.objects.select_for_update(no_key=True).filter(name=name).first()
    is_new = row is None
    row = row or Channel(name=name)
    if told["key_env"] and (key or (key is None and row.sealed_key is not None)):
        raise errors.OutOfRange(
            "a channel's key is in one place: leave key_env empty, or take away the key that is kept here.",
            param="key_env",
        )
    if key and told["kind"] == Kind.ECHO:
        raise errors.OutOfRange("echo has no address and no key.", param="key")
    changed = {field: value for field, value in told.items() if is_new or getattr(row, field) != value}
    shown = _shown(changed)
    if not is_new:
        shown["before"] = _shown({field: getattr(row, field) for field in changed})
    if key or (key == "" and row.sealed_key is not None):
        changed["sealed_key"] = _seal(row, key) if key else None
        shown["key"] = "set" if key else "taken away"
    if not changed:
        return row, False
    for field_name, value in changed.items():
        setattr(row, field_name, value)
    if is_new:
        row.save(force_insert=True)
    else:
        row.save(update_fields=list(changed))
    audit.note(actor=by, verb="channel.created" if is_new else "channel.changed", subject=row, details=shown)
    caches.bump()
    return row, True


def reseal(*, by: Actor) -> int:
    """Seal keys that lie under one of ``SECRET_KEY_FALLBACKS`` under ``SECRET_KEY``; how many there were.

    Raises ``sealing.Unreadable`` for a key that none of them opens; then nothing has changed.
    """
    count = 0
    with transaction.atomic():
        for row in Channel.objects.select_for_update(no_key=True).filter(sealed_key__isnull=False).order_by("id"):
            assert row.sealed_key is not None
            with contextlib.suppress(sealing.Unreadable):
                sealing.unseal(bytes(row.sealed_key), context=row.pk.bytes, masters=[settings.SECRET_KEY])
                continue
            row.sealed_key = _seal(row, _key_of(row))
            row.save(update_fields=["sealed_key"])
            audit.note(actor=by, verb="channel.changed", subject=row, details={"key": "sealed anew"})
            count += 1
    return count


@transaction.atomic
def switch(*, channel: Channel, enabled: bool, by: Actor) -> None:
    """Take a channel out of use, or back in."""
    if Channel.objects.filter(pk=channel.pk, enabled=not enabled).update(enabled=enabled):
        audit.note(actor=by, verb="channel.changed", subject=channel, details={"enabled": enabled})
        caches.bump()


@transaction.atomic
def keep_route(*, model: str, by: str, candidates: Sequence[str], actor: Actor) -> bool:
    """Let a smart product choose among these models; whether that is new. Raises ``OutOfRange``, ``InvalidType``."""
    _check_text(model, "model")
    if by not in By.values:
        raise errors.OutOfRange(f"by must be one of {', '.join(By.values)}.", param="by")
    _check_texts(candidates, "candidates", most=MODELS_MAX)
    if not candidates or model in candidates:
        raise errors.OutOfRange("candidates are one or more other models.", param="candidates")
    row = Route.objects.select_for_update(no_key=True).filter(model=model).first()
    before = None if row is None else {"by": row.by, "to": list(row.candidates)}
    if row is not None and (row.by, row.candidates) == (by, list(candidates)):
        return False
    if row is None:
        row = Route.objects.create(model=model, by=by, candidates=list(candidates))
    else:
        row.by, row.candidates = by, list(candidates)
        row.save(update_fields=["by", "candidates"])
    audit.note(
        actor=actor,
        verb="route.changed",
        subject=row,
        details={"model": model, "before": before, "by": by, "to": list(candidates)},
    )
    caches.bump()
    return True


class BadChannels(ValueError):
    """A file of channels is wrong; the message says where."""


class Loaded(NamedTuple):
    """What loading a file did; ``disabled`` names channels that the file does not have.

    ``strange``: ids that it calls the catalog's and that the catalog does not have (yet), each once.
    """

    changed: int
    same: int
    disabled: Sequence[str]
    strange: Sequence[str] = ()


@transaction.atomic
def load(document: Any, *, by: Actor, only: bool = False) -> Loaded:
    """Bring in ``{"channels": [...], "routes": {...}}``, all or nothing; ``only`` switches the others off.

    Raises ``BadChannels``.
    """
    if type(document) is not dict or type(document.get("channels")) is not list:
        raise BadChannels("the file needs a list of channels")
    if unknown := set(document) - {"channels", "routes"}:
        raise BadChannels(f"{sorted(map(str, unknown))[0]} is neither channels nor routes")
    if len(document["channels"]) > CHANNELS_MAX:
        raise BadChannels(f"channels holds at most {CHANNELS_MAX} entries")
    outcomes: list[bool] = []
    names: set[str] = set()
    for index, entry in enumerate(document["channels"]):
        place = f"channels[{index}]"
        if type(entry) is not dict or type(entry.get("name")) is not str:
            raise BadChannels(f"{place} needs a name")
        name = entry["name"]
        if name in names:
            raise BadChannels(f"{place}.name: {name} stands in the file twice")
        names.add(name)
        fields = {field_name: value for field_name, value in entry.items() if field_name != "name"}
        try:
            outcomes.append(keep(name=name, fields=fields, by=by)[1])
        except errors.ApiError as error:
            raise BadChannels(f"{place}.{error.param}: {error}") from error
    outcomes += _load_routes(document.get("routes") or {}, by=by)
    others = list(Channel.objects.filter(enabled=True).exclude(name__in=names).order_by("name")) if only else []
    for channel in others:
        switch(channel=channel, enabled=False, by=by)
    disabled = [channel.name for channel in others]
    return Loaded(sum(outcomes), len(outcomes) - sum(outcomes), disabled, _strange(document))


def _strange(document: Mapping[str, Any]) -> list[str]:
    """What a file that has been checked names and no model of the catalog is called."""
    named = {slug for entry in document["channels"] for slug in entry["models"]}
    for model, entry in (document.get("routes") or {}).items():
        named |= {model, *entry["candidates"]}
    return sorted(named - {ANY} - catalog.listing().models.keys())


def _load_routes(routes: Any, *, by: Actor) -> list[bool]:
    if type(routes) is not dict:
        raise BadChannels("routes is a mapping of models")
    outcomes = []
    for model, entry in routes.items():
        if type(entry) is not dict or set(entry) - {"by", "candidates"}:
            raise BadChannels(f"routes.{model} has by and candidates")
        try:
            outcomes.append(
                keep_route(
                    model=model, by=entry.get("by", By.WEIGHT.value), candidates=entry.get("candidates", []), actor=by
                )
            )
        except errors.ApiError as error:
            raise BadChannels(f"routes.{model}.{error.param}: {error}") from error
    return outcomes


def _shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    """For the audit trail: a mapping of hundreds of models as their number."""
    return {name: len(value) if name == "serves" else value for name, value in fields.items()}


def _checked(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """All columns of a channel. Raises an ``ApiError`` that names the field."""
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise errors.OutOfRange(f"name has 1 to {NAME_CHARS_MAX} letters, digits, dots and dashes.", param="name")
    if unknown := set(fields) - set(FIELDS):
        first = sorted(map(str, unknown))[0]
        raise errors.OutOfRange("there is no such field.", param=first)
    row = Channel()
    told: dict[str, Any] = {name: getattr(row, _COLUMN.get(name, name)) for name in FIELDS}
    told["cap_name"] = str(told["cap_name"])
    told.update({field_name: value for field_name, value in fields.items() if value is not None})
    if told["kind"] not in Kind.values:
        raise errors.OutOfRange(f"kind must be one of {', '.join(Kind.values)}.", param="kind")
    told["kind"] = str(told["kind"])
    if told["cap_name"] not in CapName.values:
        raise errors.OutOfRange("cap_name must be max_tokens or max_completion_tokens.", param="cap_name")
    _check_models(told["models"])
    _check_texts(told["groups"], "groups", most=GROUPS_MAX)
    _check_whole(told["priority"], "priority", -PRIORITY_MAX, PRIORITY_MAX)
    _check_whole(told["weight"], "weight", 0, PRIORITY_MAX)
    for field_name in _TIMES:
        _check_whole(told[field_name], field_name, 1, MILLISECONDS_MAX)
    if told["concurrency_max"] is not None:
        _check_whole(told["concurrency_max"], "concurrency_max", 1, CONCURRENCY_MAX)
    for field_name in _FLAGS:
        if type(told[field_name]) is not bool:
            raise errors.InvalidType(f"{field_name} must be true or false.", param=field_name)
    _check_address(told)
    return {_COLUMN.get(field_name, field_name): value for field_name, value in told.items()}


def _check_key(key: Any) -> None:
    """Raises ``InvalidType`` or ``OutOfRange``; neither repeats anything of it."""
    if type(key) is not str:
        raise errors.InvalidType("key must be a string.", param="key")
    if len(key) > KEY_CHARS_MAX or not _KEY.fullmatch(key):
        raise errors.OutOfRange(f"key has 1 to {KEY_CHARS_MAX} printable ASCII characters and no space.", param="key")


def _check_address(told: Mapping[str, Any]) -> None:
    for field_name in ("base_url", "key_env"):
        if type(told[field_name]) is not str:
            raise errors.InvalidType(f"{field_name} must be a string.", param=field_name)
    if told["kind"] == Kind.ECHO:
        if told["base_url"] or told["key_env"]:
            raise errors.OutOfRange("echo has no address and no key.", param="base_url")
        return
    try:
        parts = urlsplit(told["base_url"])
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None or not told["base_url"].isprintable():
        raise errors.OutOfRange("base_url is an address such as https://api.example.com/v1.", param="base_url")
    if told["key_env"] and not _KEY_ENV.fullmatch(told["key_env"]):
        raise errors.OutOfRange(
            "key_env names an environment variable that ends in _API_KEY; it is not the key itself.",
            param="key_env",
        )


def _check_models(value: Any) -> None:
    if type(value) is not dict or not value:
        raise errors.InvalidType("models maps one or more of the catalog's ids to the upstream's.", param="models")
    if len(value) > MODELS_MAX:
        raise errors.OutOfRange(f"models holds at most {MODELS_MAX} entries.", param="models")
    for slug, upstream_id in value.items():
        _check_text(slug, "models")
        _check_text(upstream_id, "models")
    if value.get(ANY, ANY) != ANY:
        raise errors.OutOfRange('"*" stands for every id, unchanged: "*": "*".', param="models")


def _check_texts(value: Any, name: str, *, most: int) -> None:
    if type(value) is not list:
        raise errors.InvalidType(f"{name} must be a list of strings.", param=name)
    if len(value) > most:
        raise errors.OutOfRange(f"{name} holds at most {most} entries.", param=name)
    for text in value:
        _check_text(text, name)


def _check_text(value: Any, name: str) -> None:
    if type(value) is not str:
        raise errors.InvalidType(f"{name} must hold strings.", param=name)
    if not 0 < len(value) <= 128 or not value.isprintable():
        raise errors.OutOfRange(f"{name} holds strings of 1 to 128 printable characters.", param=name)


def _check_whole(value: Any, name: str, low: int, high: int) -> None:
    if type(value) is not int:
        raise errors.InvalidType(f"{name} must be a whole number.", param=name)
    if not low <= value <= high:
        raise errors.OutOfRange(f"{name} must lie between {low} and {high}.", param=name)
