"""Re-rating: dry run, differences, resumed after a crash, undone."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from billing import corrections, rerating
from billing.models import Correction, Rerating
from core import clock, errors, ids
from metering import rating, usage
from metering.catalog import Listing, Version
from metering.models import UsageRecord
from ops import approvals
from ops.models import Approval
from orgs import audit
from orgs.audit import system
from orgs.models import AuditEntry
from tests.billing import world
from tests.books import Books
from tests.metering import world as metering
from tests.orgs import world as people
from tests.proofs import proves

BY = system("ada")
DOUBLE = {"terms": [{"when": {}, "rates": {"input": "0.54", "cached_input": "0.14", "output": "2.20"}}]}


@pytest.fixture(autouse=True)
def _all_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    """A period may end now: nothing else writes in these tests."""
    monkeypatch.setattr(usage, "FINAL_AFTER", timedelta(seconds=-1))


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A switch: from then on the book says twice the price."""

    def switch(rates: dict[str, Any] | None = None) -> None:
        price_at = Listing.price_at

        def twice(self: Listing, slug: str, at: datetime) -> Version | None:
            version = price_at(self, slug, at)
            if slug == metering.MODEL and version is not None:
                return version._replace(card=rating.read_card(rates or DOUBLE))
            return version

        monkeypatch.setattr(Listing, "price_at", twice)

    return switch


def planned(**more: Any) -> Rerating:
    now = clock.now()
    return rerating.plan(
        **{
            "start": now - timedelta(hours=1),
            "end": now + timedelta(milliseconds=500),
            "reason": "typo",
            "by": BY,
            **more,
        }
    )


def soon() -> datetime:
    """Enough time for a run."""
    return clock.now() + timedelta(minutes=5)


def test_a_plan_says_what_would_change_and_posts_nothing(books: Books, doubled: Any) -> None:
    acme, other = world.organization("acme", usd="1"), world.organization("other", usd="1")
    world.charge(acme, *(metering.event() for _ in range(3)))
    world.charge(other, metering.event())
    doubled()
    act = planned()
    assert rerating.outcome(act) == (4, Decimal("0.001448"), Decimal("0.002896"), 0)
    assert [(share.organization.slug, share.records) for share in rerating.shares(act)] == [("acme", 3), ("other", 1)]
    assert world.standing(acme).balance == Decimal("0.998914")
    assert Correction.objects.count() == 0
    world.assert_sound()


@proves("I13", guard="corrections_happen_once")
def test_applying_posts_the_differences_once_and_names_what_they_correct(books: Books, doubled: Any) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, *(metering.event() for _ in range(3)))
    doubled()
    act = planned()
    done = rerating.apply(act, by=BY)
    again = rerating.apply(act, by=BY)
    # A run that lost its place, as after a crash between posting and noting it, corrects nothing twice.
    world.rows("UPDATE rerating SET state = 'applying'")
    world.rows("UPDATE rerating_share SET finished = false, last_record_id = NULL")
    rerating.apply(act, by=BY)

    assert done == again == (3, Decimal("0.001086"), Decimal("0.002172"), 0)
    assert world.standing(acme).balance == 1 - Decimal("0.002172")
    corrected = UsageRecord.objects.filter(corrects_id__isnull=False)
    assert sum(record.cost_usd for record in corrected) == done.difference_usd
    assert {record.input_tokens for record in corrected} == {0}
    assert set(corrected.values_list("corrects_id", flat=True)) == set(
        UsageRecord.objects.filter(corrects_id__isnull=True).values_list("id", flat=True)
    )
    world.assert_sound()


def test_a_run_that_was_killed_goes_on_where_it_stopped(
    books: Books, doubled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, *(metering.event() for _ in range(5)))
    doubled()
    act = planned()
    monkeypatch.setattr(rerating, "CHUNK", 2)
    post = corrections.post
    posted: list[int] = []

    def dies(organization_id: UUID, changes: Any, **more: Any) -> Any:
        if len(posted) == 1:
            raise KeyboardInterrupt
        posted.append(len(changes))
        return post(organization_id, changes, **more)

    monkeypatch.setattr(corrections, "post", dies)
    with pytest.raises(KeyboardInterrupt):
        rerating.apply(act, by=BY)
    assert Correction.objects.count() == 2
    assert [one.pk for one in rerating.open_acts()] == [act.pk]

    monkeypatch.setattr(corrections, "post", post)
    assert rerating.apply(act, by=BY).records == 5
    assert Correction.objects.count() == 5
    assert list(rerating.open_acts()) == []
    world.assert_sound()


def test_a_begun_act_is_posted_later_for_who_began_it(books: Books, doubled: Any) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, *(metering.event() for _ in range(3)))
    doubled()
    act = planned()
    assert rerating.resume(until=soon()) == 0
    assert Correction.objects.count() == 0
    bob = system("bob")
    rerating.begin(act, by=bob)
    rerating.begin(act, by=BY)
    assert Correction.objects.count() == 0
    assert rerating.resume(until=soon()) == 0
    assert Rerating.objects.get().state == "applied"
    assert set(Correction.objects.values_list("actor", flat=True)) == {"bob"}
    notes = AuditEntry.objects.filter(verb="rerating.applied").values_list("actor_label", flat=True)
    assert list(notes) == ["bob"]
    world.assert_sound()


def test_a_run_stops_when_its_time_is_over_and_the_next_one_goes_on(
    books: Books, doubled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, *(metering.event() for _ in range(5)))
    doubled()
    act = planned()
    monkeypatch.setattr(rerating, "CHUNK", 2)
    over = clock.now() - timedelta(seconds=1)
    rerating.begin(act, by=BY)
    assert rerating.resume(until=over) == 1
    assert Correction.objects.count() == 0
    assert rerating.apply(act, by=BY, until=over).records == 2
    assert Rerating.objects.get().state == "applying"
    assert rerating.resume(until=soon()) == 0
    assert (Correction.objects.count(), Rerating.objects.get().state) == (5, "applied")
    world.assert_sound()


def test_an_act_that_cannot_go_on_keeps_no_other_waiting_and_is_raised_after_it(
    books: Books, doubled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = [world.organization(slug, usd="1") for slug in ("acme", "other")]
    for owner in owners:
        world.charge(owner, metering.event())
    doubled()
    stuck, good = (planned(organization_ids=[owner.pk]) for owner in owners)
    for act in (stuck, good):
        rerating.begin(act, by=BY)
    post = corrections.post

    def refuse(owner: UUID, *args: Any, **options: Any) -> Any:
        if owner == owners[0].pk:
            raise errors.Conflict("Its month is archived.")
        return post(owner, *args, **options)

    monkeypatch.setattr(corrections, "post", refuse)
    with pytest.raises(errors.Conflict, match="archived"):
        rerating.resume(until=soon())
    assert dict(Rerating.objects.values_list("pk", "state")) == {stuck.pk: "applying", good.pk: "applied"}


def test_an_act_that_is_taken_back_is_posted_by_the_next_run(books: Books, doubled: Any) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, metering.event())
    doubled()
    act = planned()
    rerating.apply(act, by=BY)
    back = rerating.take_back(act, reason="wrong", by=BY)
    assert (back.state, world.standing(acme).balance) == ("applying", Decimal("0.999276"))
    assert rerating.resume(until=soon()) == 0
    assert world.standing(acme).balance == Decimal("0.999638")
    world.assert_sound()


def test_an_applied_act_is_undone_once_by_another(books: Books, doubled: Any) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, *(metering.event() for _ in range(3)))
    doubled()
    act = planned()
    with pytest.raises(errors.Conflict):
        rerating.undo(act, reason="too early", by=BY)
    rerating.apply(act, by=BY)
    back = rerating.undo(act, reason="wrong after all", by=BY)
    assert (back.undoes_id, back.state) == (act.pk, "applied")
    assert world.standing(acme).balance == 1 - Decimal("0.001086")
    with pytest.raises(errors.Conflict):
        rerating.undo(act, reason="again", by=BY)
    acts = AuditEntry.objects.filter(verb__startswith="rerating").order_by("id").values_list("verb", flat=True)
    assert list(acts) == ["rerating.planned", "rerating.applied", "rerating.undone"]
    world.assert_sound()


def test_a_cheaper_price_gives_money_back(books: Books, doubled: Any) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, metering.event())
    doubled({"terms": [{"when": {}, "rates": {"input": "0", "output": "0"}}]})
    assert rerating.apply(planned(), by=BY).difference_usd == Decimal("-0.000362")
    assert world.standing(acme).balance == 1
    assert world.standing(acme).spent == 0
    world.assert_sound()


def test_voided_records_are_left_alone_and_a_void_takes_the_difference_back_too(books: Books, doubled: Any) -> None:
    acme = world.organization("acme", usd="1")
    gone, stays = metering.event(), metering.event()
    world.charge(acme, gone, stays)
    corrections.void(organization_id=acme.pk, event_id=gone.event_id, reason="gone", by=BY)
    doubled()
    assert rerating.apply(planned(), by=BY).records == 1
    corrections.void(organization_id=acme.pk, event_id=stays.event_id, reason="gone too", by=BY)
    assert world.standing(acme).balance == 1
    world.assert_sound()


def test_models_and_organizations_narrow_an_act(books: Books, doubled: Any) -> None:
    acme, other = world.organization("acme", usd="1"), world.organization("other", usd="1")
    for of in (acme, other):
        world.charge(of, metering.event(), metering.event(model="gpt-4o"))
    doubled()
    assert rerating.outcome(planned(organization_ids=[acme.pk])).records == 1
    assert rerating.outcome(planned(model_slugs=["gpt-4o"])).records == 0
    with pytest.raises(errors.OutOfRange):
        planned(model_slugs=["nobody"])


def test_records_without_a_price_today_are_counted_and_left_alone(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, metering.event())
    monkeypatch.setattr(Listing, "price_at", lambda *_: None)
    act = planned()
    assert tuple(rerating.apply(act, by=BY)) == (0, 0, 0, 1)


@pytest.mark.parametrize("reason", ["", " "])
def test_an_act_says_why(db: None, reason: str) -> None:
    with pytest.raises(errors.OutOfRange):
        planned(reason=reason)


def test_a_period_that_can_still_grow_is_refused(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "FINAL_AFTER", timedelta(seconds=60))
    with pytest.raises(errors.OutOfRange):
        planned()


def test_who_asks_at_a_terminal_is_no_second_person_at_the_desk(books: Books, doubled: Any, settings: Any) -> None:
    settings.MONEY_APPROVAL_USD = 0
    ada = people.person("ada@example.com")
    world.charge(world.organization("acme", usd="1"), metering.event())
    doubled()
    act = planned()
    for email, told in (("ada@example.com", "second person"), ("eve@example.com", "Nobody here has the address")):
        with pytest.raises(CommandError, match=told):
            call_command("rerate", "apply", ids.show("rerate", act.pk), "--by", email)
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=Approval.objects.get().pk, by=audit.user(ada), grant=True)
