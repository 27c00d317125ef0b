"""``manage.py load_prices``: drafts of price lists, our own file, and files that must change nothing."""

import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import clock, ids
from metering import catalog, pricebook, rating
from metering.models import Price, PriceDraft, PriceDraftLine
from ops import approvals
from ops.models import Approval
from orgs import caches
from orgs.models import AuditEntry
from tests.billing import world
from tests.billing.world import rows
from tests.books import Books
from tests.metering import world as metering
from tests.metering.importers import garbage
from tests.metering.test_pricebook import ADA, BOB
from tests.orgs import world as people

HOUR = timedelta(hours=1)
# In force for deepseek-chat: 0.27 / 0.07 / 1.10.
LITELLM = {
    "deepseek/deepseek-chat": {
        "mode": "chat", "litellm_provider": "deepseek", "input_cost_per_token": 5.4e-07,
        "cache_read_input_token_cost": 7e-08, "output_cost_per_token": 1.1e-06,
    },
    "perplexity/sonar": {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06},
}  # fmt: skip
OPENROUTER = {
    "data": [
        {
            "id": "deepseek/deepseek-chat",
            "pricing": {"prompt": "0.00000028000000000000003", "completion": "0.0000011", "input_cache_read": "0"},
        }
    ]
}
SOON = clock.now().replace(microsecond=0) + timedelta(days=3)
TOLLBOOK: dict[str, Any] = {
    "format": catalog.FORMAT,
    "models": [
        {
            "id": "nimbus", "name": "Nimbus", "vendor": "Acme", "brand": "Acme", "provider": "Acme", "owned_by": "acme",
            "released_at": 1735689600, "context_window": 1000, "aliases": ["nimbus-1"], "capabilities": ["tools"],
            "prices": [
                {
                    "effective_from": SOON.isoformat(), "effective_to": None, "source": "https://example.com",
                    "rates": {
                        "terms": [
                            {"when": {}, "rates": {"input": "2", "output": "4.5"}},
                            {"when": {"batch": True, "service_tier": "flex"}, "rates": {"input": "1"}},
                        ],
                        "units": {"web_search_requests": "0.01"},
                        "request": "0",
                    },
                }
            ],
        }
    ],
}  # fmt: skip
SMALL = {"litellm": LITELLM, "openrouter": OPENROUTER, "tollbook": TOLLBOOK}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., str]:
    """What the command says of a document."""

    def run(document: Any, *words: str) -> str:
        path = tmp_path / "list.json"
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        out = io.StringIO()
        call_command("load_prices", str(path), *words, stdout=out)
        return out.getvalue()

    return run


def standing() -> dict[str, Any]:
    """Everything that prices are made of, to the letter."""
    return {
        table: rows(f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t")
        for table in ("model", "price", "price_draft", "price_draft_line", "approval", "audit_entry")
    }


def published() -> dict[str, Any]:
    """What is sold and at what price, to the letter."""
    return {table: held for table, held in standing().items() if table in {"model", "price"}}


def sold(model: str, **changes: Any) -> dict[str, Any]:
    """Our own file's entry for a model of the catalog as it stands, without prices, and changed."""
    entry = next(
        entry for entry in json.loads(Path("metering/seed/catalog.json").read_text())["models"] if entry["id"] == model
    )
    return {**entry, "prices": [], **changes}


def ours(*models: dict[str, Any]) -> dict[str, Any]:
    return {"format": catalog.FORMAT, "models": models}


def price(start: datetime, rate: str, **more: Any) -> dict[str, Any]:
    rates = {"terms": [{"when": {}, "rates": {"input": rate, "output": rate}}], "units": {}, "request": "0"}
    return {"effective_from": start.isoformat(), "effective_to": None, "source": "a page", "rates": rates, **more}


# Lists of other houses


def test_a_list_becomes_one_draft_and_nothing_is_published(db: None, load: Callable[..., str]) -> None:
    before, began = published(), clock.now()
    told = load(LITELLM, "--format", "litellm")
    assert published() == before
    made = PriceDraft.objects.get()
    assert (made.state, made.source, made.created_by) == ("open", "list.json, litellm", "load_prices")
    (line,) = PriceDraftLine.objects.select_related("model").filter(draft=made)
    assert line.model.slug == "deepseek-chat"
    assert began + timedelta(days=1) < line.effective_from <= clock.now() + timedelta(days=1, hours=1)
    assert line.rates == {
        "terms": [{"when": {}, "rates": {"input": "0.54", "output": "1.1", "cached_input": "0.07"}}],
        "units": {},
        "request": "0",
    }
    assert told == f"{made.report}\n\n{ids.show('draft', made.pk)}: 1 lines. Nothing is published.\n"
    for finding in ("input: 0.27 -> 0.54 (+100.00 %)", "0.27 and 0.54, 100.00 %", "perplexity/sonar"):
        assert finding in made.report
    assert AuditEntry.objects.get(verb="price_draft.made").actor_label == "load_prices"


def test_a_person_may_answer_for_a_draft_and_is_the_same_person_as_in_the_admin(
    db: None, load: Callable[..., str]
) -> None:
    ada = people.person()
    load(LITELLM, "--format", "litellm", "--by", "Ada@example.com")
    assert PriceDraft.objects.get().created_by == "ada@example.com"
    note = AuditEntry.objects.get(verb="price_draft.made")
    assert (note.actor_kind, note.actor_id) == ("user", ids.show("user", ada.pk))


def test_nobody_answers_for_a_draft_whom_we_do_not_know(db: None, load: Callable[..., str]) -> None:
    with pytest.raises(CommandError, match=r"--by: Nobody here has the address eve@example\.com"):
        load(LITELLM, "--format", "litellm", "--by", "eve@example.com")
    assert not PriceDraft.objects.exists()


def test_a_floats_noise_is_taken_off_and_the_report_says_so(db: None, load: Callable[..., str]) -> None:
    load(OPENROUTER, "--format", "openrouter")
    assert PriceDraftLine.objects.get().rates["terms"][0]["rates"]["input"] == "0.28"
    assert (
        "assumed: deepseek/deepseek-chat: pricing.prompt: 0.00000028000000000000003 is 0.00000028: what differs is"
        " less than 1E-12 of it, a float's noise"
    ) in PriceDraft.objects.get().report
    # A price that really is finer than a card can say is no noise.
    finer = json.dumps(OPENROUTER).replace("0.00000028000000000000003", "0.00000028333333333333333")
    told = load(finer.encode(), "--format", "openrouter")
    assert "0.28333333333333333 per 1M: more than 6 decimals" in told
    assert PriceDraft.objects.count() == 1


def test_a_list_of_others_is_never_published_by_the_command(db: None, load: Callable[..., str]) -> None:
    before = standing()
    for form in ("litellm", "openrouter"):
        with pytest.raises(CommandError, match="never published unread: leave out --publish, read the draft's report"):
            load(SMALL[form], "--format", form, "--publish")
    assert standing() == before


def test_a_list_that_agrees_makes_no_draft(db: None, load: Callable[..., str]) -> None:
    before = standing()
    same = json.loads(json.dumps(LITELLM).replace("5.4e-07", "2.7e-07"))
    told = load(same, "--format", "litellm")
    assert "Nothing to draft." in told
    assert told.endswith("No draft was made.\n")
    assert standing() == before


def test_a_check_reports_the_same_and_keeps_nothing(db: None, load: Callable[..., str]) -> None:
    before = standing()
    told = load(LITELLM, "--format", "litellm", "--check")
    assert "input: 0.27 -> 0.54 (+100.00 %)" in told
    assert told.endswith("No draft was made.\n")
    assert standing() == before


def test_lines_are_narrowed_and_dated_by_options(db: None, load: Callable[..., str]) -> None:
    both = {**LITELLM, "gpt-4o": {"mode": "chat", "input_cost_per_token": 3e-06, "output_cost_per_token": 1e-05}}
    load(both, "--format", "litellm", "--models", "gpt-4o-2024-08-06, ", "--starts-at", SOON.isoformat())
    line = PriceDraftLine.objects.select_related("model").get()
    assert (line.model.slug, line.effective_from) == ("gpt-4o", SOON)
    with pytest.raises(CommandError, match="a new one starts after"):
        load(both, "--format", "litellm", "--starts-at", clock.now().isoformat())
    with pytest.raises(CommandError, match="starts-at"):
        load(both, "--format", "litellm", "--starts-at", "2026-12-01T00:00:00")
    assert PriceDraft.objects.count() == 1


def test_two_lists_are_set_side_by_side(db: None, load: Callable[..., str], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(OPENROUTER))
    told = load(LITELLM, "--format", "litellm", "--compare", str(other), "--compare-format", "openrouter")
    assert (
        "Differences of more than 1 % from other.json, which has the second figure: 1\n"
        "  deepseek/deepseek-chat, input: 0.54 and 0.28, 92.86 %\n"
    ) in told
    assert "92.86 %" in PriceDraft.objects.get().report
    agreeing = load(OPENROUTER, "--format", "openrouter", "--compare", str(other), "--compare-format", "openrouter")
    assert "Differences of more than 1 % from other.json, which has the second figure: none\n" in agreeing


def test_a_second_list_that_is_garbage_makes_no_draft_of_the_first(
    db: None, load: Callable[..., str], tmp_path: Path
) -> None:
    before = standing()
    other = tmp_path / "other.json"
    other.write_text('{"data": [')
    with pytest.raises(CommandError, match=r"other\.json: the document is not JSON"):
        load(LITELLM, "--format", "litellm", "--compare", str(other), "--compare-format", "openrouter")
    assert standing() == before


def test_a_published_draft_prices_events_from_its_start(
    books: Books, load: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = world.organization("acme", usd="1")
    load(LITELLM, "--format", "litellm")
    made = PriceDraft.objects.get()
    with pytest.raises(approvals.ApprovalNeeded):
        pricebook.publish(made, by=ADA)
    approvals.decide(approval_id=Approval.objects.get().pk, by=BOB, grant=True)
    (new,) = pricebook.publish(made, by=ADA)
    start = new.effective_from
    monkeypatch.setattr(clock, "now", lambda: start + HOUR)
    before, after = (metering.event(occurred_at=start + shift) for shift in (-HOUR, timedelta(0)))
    verdicts = world.charge(acme, before, after)
    # 360 × 0.27 + 640 × 0.07 + 200 × 1.10 = 362 millionths; with 0.54 for the input 459.2.
    assert [verdict.cost_usd for verdict in verdicts] == [Decimal("0.000362"), Decimal("0.0004592")]


def test_a_model_without_a_price_gets_one_at_once(books: Books, load: Callable[..., str]) -> None:
    acme = world.organization("acme", usd="1")
    assert world.statuses(world.charge(acme, metering.event(model="deepseek-coder"))) == ["quarantined"]
    load({"deepseek/deepseek-coder": LITELLM["deepseek/deepseek-chat"]}, "--format", "litellm")
    pricebook.publish(PriceDraft.objects.get(), by=ADA)
    (verdict,) = world.charge(acme, metering.event(model="deepseek-coder", occurred_at=clock.now()))
    # 360 × 0.54 + 640 × 0.07 + 200 × 1.10.
    assert verdict.cost_usd == Decimal("0.0004592")


# Our own file


def test_our_own_file_is_drafted_without_publish_as_its_prices_stand(db: None, load: Callable[..., str]) -> None:
    before = published()
    end = SOON + timedelta(days=30)
    told = load(ours(sold("deepseek-chat", prices=[price(SOON, "0.3", effective_to=end.isoformat())])))
    assert published() == before
    line = PriceDraftLine.objects.select_related("model").get()
    assert (line.model.slug, line.effective_from, line.effective_to, line.source) == (
        "deepseek-chat", SOON, end, "a page",
    )  # fmt: skip
    # Complete as it stands: nothing is kept of what was before.
    assert line.rates == price(SOON, "0.3")["rates"]
    assert "1 new prices, 0 published before." in told
    assert "cached_input: 0.07 -> 0.3" in told


def test_a_draft_adds_no_models_and_changes_no_words_and_says_so(db: None, load: Callable[..., str]) -> None:
    before = standing()
    told = load(ours(*TOLLBOOK["models"], sold("gpt-4o", name="Another name")))
    assert standing() == before
    assert (
        "Left out, for their models are new and a draft adds none (--publish brings in both): 1\n"
        f"  nimbus, from {SOON.isoformat().replace('+00:00', 'Z')}\n"
    ) in told
    assert "1 models are described differently: a draft changes prices only." in told
    assert told.endswith("No draft was made.\n")


def test_the_shipped_catalog_has_nothing_to_draft_and_nothing_to_publish(db: None, load: Callable[..., str]) -> None:
    before = published()
    seed = Path("metering/seed/catalog.json").read_bytes()
    assert "Nothing to draft." in load(seed)
    assert load(seed, "--publish") == (
        f"published: 0 models added, 0 changed; 0 prices added, {Price.objects.count()} known\n"
    )
    assert published() == before


def test_our_own_file_is_published_when_told_to(books: Books, load: Callable[..., str]) -> None:
    assert load(TOLLBOOK, "--publish") == "published: 1 models added, 0 changed; 1 prices added, 0 known\n"
    caches.forget_all()
    version = catalog.listing().price_at("nimbus", SOON)
    assert version is not None
    assert [terms.rates.input for terms in version.card.terms if rating.is_base(terms)] == [2_000_000]
    assert not PriceDraft.objects.exists()


def test_a_late_price_of_our_own_file_is_refused_or_left_out_and_named(db: None, load: Callable[..., str]) -> None:
    before = standing()
    late = ours(sold("deepseek-chat", prices=[price(clock.now() - HOUR, "0.3"), price(SOON, "0.4")]))
    with pytest.raises(CommandError, match=r"list\.json: deepseek-chat: a price is in force"):
        load(late)
    assert standing() == before
    assert "Left out, for they would change what is in force: 1" in load(late, "--skip-late")
    assert PriceDraftLine.objects.get().effective_from == SOON


def test_a_published_price_told_differently_is_refused(db: None, load: Callable[..., str]) -> None:
    start = Price.objects.get(model__slug="deepseek-chat").effective_from
    for words in ((), ("--publish",), ("--skip-late", "--publish")):
        before = standing()
        if "--skip-late" in words:
            assert "left out: deepseek-chat: the price from" in load(
                ours(sold("deepseek-chat", prices=[price(start, "9")])), *words
            )
        else:
            with pytest.raises(CommandError, match="is published and never changes"):
                load(ours(sold("deepseek-chat", prices=[price(start, "9")])), *words)
        assert standing() == before


def test_several_prices_of_the_past_are_published_together_where_none_was_in_force(
    books: Books, load: Callable[..., str]
) -> None:
    now = clock.now()
    load(ours(sold("deepseek-coder", prices=[price(now - 3 * HOUR, "1"), price(now - HOUR, "2")])))
    pricebook.publish(PriceDraft.objects.get(), by=ADA)
    caches.forget_all()
    versions = [catalog.listing().price_at("deepseek-coder", now - hours * HOUR) for hours in (4, 2, 0)]
    rates = [version and rating.per_million(version.card.terms[0].rates.input or 0) for version in versions]
    assert rates == [None, Decimal(1), Decimal(2)]


def test_lines_of_our_own_file_may_be_narrowed(db: None, load: Callable[..., str]) -> None:
    both = ours(sold("deepseek-chat", prices=[price(SOON, "0.3")]), sold("gpt-4o", prices=[price(SOON, "3")]))
    told = load(both, "--models", "gpt-4o")
    assert PriceDraftLine.objects.select_related("model").get().model.slug == "gpt-4o"
    assert "These are new too and were not asked for: 1\n  deepseek-chat, from" in told


# What changes nothing


@pytest.mark.parametrize("form", SMALL)
def test_a_document_cut_off_at_any_byte_is_refused_and_changes_nothing(
    db: None, load: Callable[..., str], form: str
) -> None:
    before = standing()
    raw = json.dumps(SMALL[form]).encode()
    for length in range(len(raw)):
        for words in ((), ("--publish",)) if form == "tollbook" else ((),):
            with pytest.raises(CommandError, match="the document is not JSON"):
                load(raw[:length], "--format", form, *words)
    assert standing() == before


@pytest.mark.parametrize(
    ("form", "old", "new", "why"),
    [
        ("litellm", "5.4e-07", "-5.4e-07", "deepseek/deepseek-chat: input_cost_per_token: -0.00000054 is negative"),
        ("litellm", "5.4e-07", "NaN", r'\$\["deepseek/deepseek-chat"\]\.input_cost_per_token: NaN is not JSON'),
        ("litellm", '"mode": "chat"', '"x": 1, "x": 2', r'\["deepseek/deepseek-chat"\]\.x: it stands there more than'),
        ("litellm", "perplexity/sonar", "deepseek/deepseek-chat", "deepseek-chat.*: it stands there more than once"),
        ("openrouter", '"0.0000011"', '"-0.1"', "pricing.completion: -0.1 is negative"),
        ("openrouter", '"0.0000011"', "Infinity", r"\$\.data\[0\]\.pricing\.completion: Infinity is not JSON"),
        ("openrouter", '"data"', '"models"', 'one list of models, "data"'),
        ("openrouter", '{"data": ', '{"data": 5, "data": ', "the document is an object with one list of models"),
        ("tollbook", '"4.5"', '"-4.5"', r"nimbus: prices\[0\]\.rates: terms\[0\]\.rates\.output: -4\.5 is negative"),
        ("tollbook", '"4.5"', "4.5", r"nimbus: prices\[0\]: 4\.5 is a number"),
        ("tollbook", "1000,", "NaN,", r"\$\.models\[0\]\.context_window: NaN is not JSON"),
        ("tollbook", "1000,", "-1,", "nimbus: .*context_window must be a whole number"),
        ("tollbook", '"Nimbus"', '"Nimbus", "name": "Other"', r"\$\.models\[0\]\.name: it stands there more than once"),
        ("tollbook", '["nimbus-1"]', '["gpt-4o"]', "nimbus: it or one of its aliases is a name of another model"),
        ("tollbook", "web_search_requests", "\\u0000", "the database refuses it"),
        ("tollbook", '"nimbus"', '"catalog"', "the database refuses it: .*model_slug_not_reserved"),
        ("tollbook", "catalog-1", "catalog-2", 'the document needs "format"'),
    ],
)
def test_garbage_is_named_in_its_place_and_changes_nothing(
    db: None, load: Callable[..., str], form: str, old: str, new: str, why: str
) -> None:
    before = standing()
    text = json.dumps(SMALL[form])
    assert old in text
    for words in ((), ("--publish",)) if form == "tollbook" else ((),):
        with pytest.raises(CommandError, match=why):
            load(text.replace(old, new, 1).encode(), "--format", form, *words)
    assert standing() == before


@pytest.mark.parametrize("form", SMALL)
@pytest.mark.parametrize("document", [[], None, "x", 7, [LITELLM], ""])
def test_what_is_no_object_is_refused(db: None, load: Callable[..., str], form: str, document: Any) -> None:
    before = standing()
    with pytest.raises(CommandError, match="the document"):
        load(document, "--format", form)
    assert standing() == before


def test_a_file_that_cannot_be_read_is_named(db: None, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(CommandError, match=str(path)):
            call_command("load_prices", str(path))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--publish", "--check"), "--check is for drafts"),
        (("--publish", "--models", "gpt-4o"), "--models is for drafts"),
        (("--publish", "--by", "a@example.com"), "--by is for drafts"),
        (("--starts-at", "2027-01-01T00:00:00Z"), "our own dates its prices"),
        (("--format", "litellm", "--skip-late"), "--skip-late is for our own format"),
        (("--format", "tsv"), "invalid choice"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    db: None, load: Callable[..., str], words: tuple[str, ...], why: str
) -> None:
    before = standing()
    with pytest.raises(CommandError, match=why):
        load(TOLLBOOK, *words)
    assert standing() == before


@pytest.mark.parametrize("form", SMALL)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_lists_are_refused_or_drafted_and_publish_nothing(
    db: None, load: Callable[..., str], form: str, data: st.DataObject
) -> None:
    before, sold_before = standing(), published()
    raw = data.draw(garbage.damaged(json.dumps(SMALL[form])))
    try:
        load(raw, "--format", form)
    except CommandError as refused:
        why = str(refused).partition("list.json: ")[2]
        assert why
        assert standing() == before
    else:
        assert published() == sold_before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_part_of_our_own_file_may_be_anything(db: None, load: Callable[..., str], data: st.DataObject) -> None:
    """With --publish, which is the way that could do harm: all of it is loaded, or nothing."""
    before = standing()
    text = json.dumps(TOLLBOOK)
    parts = json.loads(text)["models"][0]
    key = data.draw(st.sampled_from([*sorted(parts), "encoding", "kind", "max_stop_sequences", "max_output_tokens"]))
    value = data.draw(garbage.anything(st.sampled_from(["effective_from", "rates", "when"])))
    entry = ",".join([*(f"{json.dumps(name)}:{json.dumps(part)}" for name, part in parts.items() if name != key),
                      f"{json.dumps(key)}:{value}"])  # fmt: skip
    raw = f'{{"format":"{catalog.FORMAT}","models":[{{{entry}}}]}}'
    try:
        told = load(raw.encode("utf-8", "surrogatepass"), "--publish")
    except CommandError as refused:
        why = str(refused).partition("list.json: ")[2]
        assert why
        assert standing() == before
    else:
        assert told.startswith("published: ")
        after = standing()
        assert {after[table][0][0] - before[table][0][0] for table in ("model", "price")} <= {0, 1}
        assert all(after[table] == before[table] for table in before if table not in {"model", "price"})
