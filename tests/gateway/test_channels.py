"""Channels: what they may be, how they are loaded, and that a change is known everywhere."""

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client, override_settings

from core import errors
from gateway import channels
from gateway.models import Channel, Route
from metering import catalog
from orgs.models import AuditEntry, User
from tests.orgs import world

GOOD = {"base_url": "https://api.example.com/v1", "models": {"gpt-4o": "up"}}

pytestmark = pytest.mark.django_db


def load(tmp_path: Path, text: str, *options: str) -> str:
    file = tmp_path / "channels.yaml"
    file.write_text(text)
    out = io.StringIO()
    call_command("load_channels", str(file), *options, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("base_url", "ftp://x", errors.OutOfRange),
        ("base_url", "https://user:pass@x/v1", errors.OutOfRange),
        ("base_url", "https://x/v1?key=1", errors.OutOfRange),
        ("base_url", 5, errors.InvalidType),
        ("key_env", "SECRET_KEY", errors.OutOfRange),
        ("key_env", "STRIPE_API_KEY", errors.OutOfRange),
        ("key_env", "sk-the-key-itself", errors.OutOfRange),
        ("models", {}, errors.InvalidType),
        ("models", {"a": 1}, errors.InvalidType),
        ("models", {"*": "x"}, errors.OutOfRange),
        ("groups", "gold", errors.InvalidType),
        ("priority", "high", errors.InvalidType),
        ("weight", -1, errors.OutOfRange),
        ("idle_ms", 0, errors.OutOfRange),
        ("concurrency_max", 0, errors.OutOfRange),
        ("enabled", 1, errors.InvalidType),
        ("kind", "soap", errors.OutOfRange),
        ("cap_name", "max_output_tokens", errors.OutOfRange),
        ("key", "sk-in-a-file", errors.OutOfRange),
        ("api_key", "x", errors.OutOfRange),
    ],
)
def test_what_is_wrong_is_named(field: str, value: Any, error: type[errors.ApiError]) -> None:
    with pytest.raises(error) as refusal:
        channels.keep(name="one", fields={**GOOD, field: value}, by=world.BY)
    assert refusal.value.param == field
    assert Channel.objects.count() == 0


def test_a_channel_is_saved_once_and_changes_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_API_KEY", "sk-hidden")
    made, changed = channels.keep(name="one", fields={**GOOD, "key_env": "EXAMPLE_API_KEY"}, by=world.BY)
    assert changed
    assert channels.keep(name="one", fields={**GOOD, "key_env": "EXAMPLE_API_KEY"}, by=world.BY) == (made, False)
    (fact,) = channels.board().channels
    assert (fact.key, fact.upstream_id("gpt-4o"), fact.connect_seconds) == ("sk-hidden", "up", 5)
    assert "sk-hidden" not in repr(fact)
    channels.keep(name="one", fields={**GOOD, "priority": 3}, by=world.BY)
    assert channels.board().channels[0].priority == 3
    channels.switch(channel=made, enabled=False, by=world.BY)
    assert channels.board().channels == ()
    assert [entry.verb for entry in AuditEntry.objects.order_by("id")] == ["channel.created"] + ["channel.changed"] * 2


def test_a_file_is_loaded_whole_or_not_at_all(tmp_path: Path) -> None:
    text = """
channels:
  - name: one
    base_url: https://one.example/v1
    key_env: ONE_API_KEY
    models: {gpt-4o: gpt-4o-2024-08-06, gpt-4o-mini: mini}
    groups: [gold]
    priority: 10
  - {name: echo, kind: echo, models: {"*": "*"}}
routes:
  deepai-chat: {by: price, candidates: [gpt-4o, gpt-4o-mini]}
"""
    assert load(tmp_path, text) == "3 changed, 0 as they were\n"
    assert load(tmp_path, text) == "0 changed, 3 as they were\n"
    assert Route.objects.get().candidates == ["gpt-4o", "gpt-4o-mini"]
    assert Channel.objects.get(name="one").groups == ["gold"]
    with pytest.raises(CommandError, match=r"channels.yaml: channels\[1\].base_url: base_url is an address"):
        load(tmp_path, "channels: [{name: two, kind: echo, models: {'*': '*'}}, {name: three, models: {a: b}}]")
    assert not Channel.objects.filter(name="two").exists()
    only = "channels: [{name: one, base_url: 'https://one.example/v1', models: {gpt-4o: x}}]"
    assert load(tmp_path, only, "--only").endswith("switched off: echo\n")
    assert not Channel.objects.get(name="echo").enabled


def test_a_key_that_is_not_in_the_environment_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_missed", set())
    monkeypatch.setenv("THERE_API_KEY", "sk-1")
    for name in ("THERE_API_KEY", "GONE_API_KEY"):
        channels.keep(name=name[:4].lower(), fields={**GOOD, "key_env": name}, by=world.BY)
    for _ in range(2):
        assert sorted(channel.key for channel in channels._load(["board"])["board"].channels) == ["", "sk-1"]
    assert [record.message for record in caplog.records if record.name == "gateway.channels"] == [
        "channel gone is asked without a key: GONE_API_KEY is not set"
    ]


def test_ids_that_the_catalog_does_not_have_are_told_to_whoever_loads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
channels:
  - {name: one, base_url: "https://one.example/v1", models: {gpt-4o: gpt-4o-2024-08-06, gpt-4q: mini}}
  - {name: echo, kind: echo, models: {"*": "*"}}
routes:
  my-chat: {candidates: [gpt-4o]}
"""
    assert load(tmp_path, text) == "3 changed, 0 as they were\n"
    assert [line.split(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        "warning: the catalog has no model gpt-4q", "warning: the catalog has no model my-chat",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("channels: [", "line 1"),
        ("- 1", "needs a list of channels"),
        ("channels: {a: 1}", "needs a list of channels"),
        ("channels: []\nroute: {}", "route is neither channels nor routes"),
        ("channels: [1]", r"channels\[0\] needs a name"),
        ("channels: [{name: a, kind: echo, models: {'*': '*'}}, {name: a}]", "stands in the file twice"),
        ("channels: [{name: 'a b'}]", r"channels\[0\].name"),
        ("channels: []\nroutes: {m: {by: magic, candidates: [a]}}", r"routes.m.by: by must be one of"),
        ("channels: []\nroutes: {m: {candidates: [m]}}", r"routes.m.candidates"),
        ("channels: []\nroutes: {m: {size: 1}}", "routes.m has by and candidates"),
        ("channels: []\nroutes: [1]", "routes is a mapping"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(CommandError, match=told):
        load(tmp_path, text)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        call_command("load_channels", str(tmp_path / "none.yaml"))


def test_the_catalog_lists_what_leads_somewhere() -> None:
    everything = {model.slug for model in catalog.offered()}
    channels.keep(name="one", fields={**GOOD, "groups": ["gold"]}, by=world.BY)
    channels.keep(name="two", fields={**GOOD, "models": {"deepseek-chat": "d", "no-such": "x"}}, by=world.BY)
    channels.keep_route(model="deepai-chat", by="price", candidates=["gpt-4o"], actor=world.BY)
    assert {model.slug for model in catalog.offered(group="gold")} == {"gpt-4o", "deepseek-chat", "deepai-chat"}
    assert {model.slug for model in catalog.offered(group="standard")} == {"deepseek-chat"}
    channels.keep(name="echo", fields={"kind": "echo", "models": {"*": "*"}}, by=world.BY)
    assert {model.slug for model in catalog.offered(group="standard")} == everything


def test_the_desk_makes_changes_and_shows_channels(client: Client) -> None:
    client.force_login(User.objects.create_superuser("ada@example.com"))
    form = {
        "name": "one", "kind": "openai", "base_url": "https://api.example.com/v1", "key_env": "EXAMPLE_API_KEY",
        "serves": '{"gpt-4o": "up"}', "groups": "gold", "priority": "1", "weight": "1", "enabled": "on",
        "connect_ms": "1", "first_byte_ms": "1", "idle_ms": "1", "total_ms": "1", "concurrency_max": "",
        "reason": "a new provider",
    }  # fmt: skip
    assert client.post("/admin/gateway/channel/add/", form).status_code == 302
    row = Channel.objects.get()
    assert (row.serves, row.groups, row.key_env) == ({"gpt-4o": "up"}, ["gold"], "EXAMPLE_API_KEY")
    page = client.get(f"/admin/gateway/channel/{row.pk}/change/")
    assert b"EXAMPLE_API_KEY" in page.content
    changed = client.post(
        f"/admin/gateway/channel/{row.pk}/change/", {**form, "priority": "9", "key_env": "SECRET_KEY"}
    )
    assert changed.status_code == 302
    assert Channel.objects.get().priority == 1
    assert b"ends in _API_KEY" in client.get("/admin/gateway/channel/").content
    client.post(f"/admin/gateway/channel/{row.pk}/change/", {**form, "priority": "9"})
    assert Channel.objects.get().priority == 9
    told = AuditEntry.objects.get(verb="channel.changed").details
    assert told == {"priority": 9, "before": {"priority": 1}, "reason": "a new provider"}
    assert client.get("/admin/gateway/channel/").status_code == 200
    assert client.post(f"/admin/gateway/channel/{row.pk}/delete/").status_code == 403
    route = {"model": "deepai-chat", "by": "latency", "candidates": "gpt-4o,gpt-4o-mini", "reason": "cheaper"}
    assert client.post("/admin/gateway/route/add/", route).status_code == 302
    assert Route.objects.get().candidates == ["gpt-4o", "gpt-4o-mini"]


SECRET = "sk-live-0123456789abcdef"


def test_a_key_that_is_kept_is_sealed_sent_and_shown_nowhere(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client.force_login(User.objects.create_superuser("ada@example.com"))
    form = {
        "name": "one", "kind": "openai", "base_url": "https://api.example.com/v1", "key_env": "", "cap_name": "",
        "serves": '{"gpt-4o": "up"}', "groups": "", "priority": "1", "weight": "1", "enabled": "on",
        "connect_ms": "1", "first_byte_ms": "1", "idle_ms": "1", "total_ms": "1", "concurrency_max": "",
        "reason": "a new provider",
    }  # fmt: skip
    said = [client.post("/admin/gateway/channel/add/", {**form, "key": SECRET}, follow=True)]
    row = Channel.objects.get()
    page = f"/admin/gateway/channel/{row.pk}/"
    assert row.sealed_key is not None
    assert SECRET.encode() not in bytes(row.sealed_key)
    (fact,) = channels.board().channels
    assert fact.key == SECRET
    # Saved again without one, it stays; what is refused does not come back in the form.
    said.append(client.post(page + "change/", {**form, "priority": "2"}, follow=True))
    assert (channels.board().channels[0].key, channels.board().channels[0].priority) == (SECRET, 2)
    said.append(client.post(page + "change/", {**form, "key": f"{SECRET} x"}, follow=True))
    said.append(client.post(page + "change/", {**form, "key": SECRET, "priority": "many"}, follow=True))
    assert b"printable ASCII" in said[2].content
    assert b"Enter a whole number" in said[3].content
    said += [client.get(place) for place in ("/admin/gateway/channel/", page + "change/", page + "history/")]
    assert b"kept here" in said[4].content
    entry = AuditEntry.objects.order_by("id").first()
    assert entry is not None
    assert (entry.verb, entry.details["key"]) == ("channel.created", "set")
    said += [client.get("/admin/orgs/auditentry/"), client.get(f"/admin/orgs/auditentry/{entry.pk}/change/")]
    assert [answer.status_code for answer in said] == [200] * len(said)
    told = load(tmp_path, f"channels: [{{name: one, base_url: '{GOOD['base_url']}', models: {{gpt-4o: up}}}}]")
    assert told == "1 changed, 0 as they were\n"
    assert channels.board().channels[0].key == SECRET, "a file that names no key takes none away"
    texts = [answer.content.decode() for answer in said]
    texts += [told, caplog.text, repr(fact), repr(channels.board()), repr(row), repr(list(AuditEntry.objects.values()))]
    assert not [text for text in texts if SECRET[8:] in text]


def test_a_key_is_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_API_KEY", "sk-of-the-environment")
    fields = {**GOOD, "key_env": "EXAMPLE_API_KEY"}
    with pytest.raises(errors.OutOfRange) as refusal:
        channels.keep(name="one", fields=fields, key=SECRET, by=world.BY)
    assert refusal.value.param == "key_env"
    channels.keep(name="one", fields=GOOD, key=SECRET, by=world.BY)
    with pytest.raises(CommandError, match=r"channels\[0\].key_env: a channel's key is in one place"):
        load(tmp_path, "channels: [{name: one, key_env: A_API_KEY, base_url: 'https://x/v1', models: {a: b}}]")
    with pytest.raises(CommandError) as wrong:
        load(tmp_path, f"channels: [{{name: one, key: {SECRET}, base_url: 'https://x/v1', models: {{a: b}}}}]")
    assert SECRET[8:] not in str(wrong.value)
    channels.keep(name="one", fields=fields, key="", by=world.BY)
    assert channels.board().channels[0].key == "sk-of-the-environment"
    assert Channel.objects.get().sealed_key is None
    for bad in ("with space", "ü", "x" * 4097):
        with pytest.raises(errors.OutOfRange) as refusal:
            channels.keep(name="two", fields=GOOD, key=bad, by=world.BY)
        assert (refusal.value.param, bad in str(refusal.value)) == ("key", False)
    with pytest.raises(errors.OutOfRange, match="echo has no address and no key"):
        channels.keep(name="two", fields={"kind": "echo", "models": {"*": "*"}}, key=SECRET, by=world.BY)


def test_a_key_that_an_older_secret_sealed_is_opened_and_sealed_anew(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row, _ = channels.keep(name="one", fields=GOOD, key=SECRET, by=world.BY)
    channels.keep(name="two", fields=GOOD, by=world.BY)
    old = settings.SECRET_KEY
    with override_settings(SECRET_KEY="n" * 40, SECRET_KEY_FALLBACKS=[old]):
        assert [channels._key_of(each) for each in Channel.objects.order_by("id")] == [SECRET, ""]
        out = io.StringIO()
        call_command("reseal_channel_keys", stdout=out)
        call_command("reseal_channel_keys", stdout=out)
        assert out.getvalue() == "1 sealed anew\n0 sealed anew\n"
    with override_settings(SECRET_KEY="n" * 40):
        row.refresh_from_db()
        assert channels._key_of(row) == SECRET
    # Under neither: the channel is left out, for nobody is asked without its key.
    with override_settings(SECRET_KEY="o" * 40):
        assert [each.name for each in channels._load(["board"])["board"].channels] == ["two"]
        assert "channel one is left out: its key is sealed under a SECRET_KEY" in caplog.text
        with pytest.raises(CommandError, match="nothing was changed"):
            call_command("reseal_channel_keys")


def test_a_sealed_key_opens_no_other_row() -> None:
    one, _ = channels.keep(name="one", fields=GOOD, key=SECRET, by=world.BY)
    channels.keep(name="two", fields=GOOD, key="sk-other", by=world.BY)
    Channel.objects.filter(name="two").update(sealed_key=one.sealed_key)
    assert [each.name for each in channels._load(["board"])["board"].channels] == ["one"]
