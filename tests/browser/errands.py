"""Something to do for each act of the desk: rows as people and jobs leave them."""

from datetime import timedelta
from decimal import Decimal

from django.contrib import admin
from django.db.models import Model
from django.urls import reverse
from django.utils import timezone
from django_otp.plugins.otp_totp.models import TOTPDevice

from billing import adjustments, bank, budgets, closures, profiles, provider_bills, refunds, rerating, wallets
from billing.models import BillingPeriod, Difference, Invoice, Rerating
from core import ids
from core.admin import Act, Acting, VerbAdmin
from gateway.models import UnknownOutcome
from metering import pricebook, rules
from metering.pricebook import Line
from ops.models import JobRun, Mail
from orgs import externals, ratelimits
from orgs.models import User
from orgs.ratelimits import Limits
from tests.billing import papers
from tests.billing.paying import paid, save_card
from tests.fakes.stripe import StripeFake
from tests.journeys.neighbours import House
from tests.orgs import world

BY = world.BY


def errands(of: House, fake: StripeFake) -> None:
    """At least one row for each act."""
    owner, now = of.organization, timezone.now()
    wallets.freeze(organization_id=world.organization("frozen-labs").pk, reason="a stolen card", by=BY)
    closures.close(organization_id=world.organization("closed-labs").pk, reason="they have left", by=BY)
    # Waiting for a second person.
    adjustments.ask(
        organization_id=owner.pk, kind="grant", amount_usd=Decimal("812.5"), reason="an outage in May", by=BY
    )
    bill = papers.invoice(owner)
    bank.record(invoice_id=bill.pk, amount_usd=Decimal("900"), statement_reference="SEPA 4711", reason="came in", by=BY)
    save_card(fake, owner)
    payment = paid(fake, owner, "600")
    refunds.ask(payment_id=payment.pk, amount_usd=Decimal("550"), reason="a wrong amount", by=BY)
    paid(fake, owner, "25")
    # Prices, and what records would cost by others.
    rates = {"terms": [{"rates": {"input": "0.31", "output": "1.10"}}]}
    start = now + timedelta(days=30)
    pricebook.draft(lines=[Line("deepseek-chat", start, rates, "vendor's page")], source="by hand", by=BY)
    rules.publish(by=BY, reason="partners of old", effective_from=start, group="partners", factor=Decimal("0.85"))
    rerating.plan(
        start=now - timedelta(days=40), end=now - timedelta(hours=1), reason="a price was wrong", by=BY
    )  # fmt: skip
    Rerating.objects.create(
        start=now - timedelta(days=9), end=now - timedelta(days=8), reason="a price was wrong", actor="ada@example.com",
        state="applied", applied_at=now,
    )  # fmt: skip
    # Limits, ids of others, profiles.
    budgets.set_ceiling(
        organization_id=owner.pk, subject="organization", subject_id=owner.pk, window="month", unit="usd",
        ceiling=Decimal(50), by=BY,
    )  # fmt: skip
    ratelimits.put(subject=owner, limits=Limits(requests=60), by=BY)
    externals.put_shown(kind="team", value="team-7", organization=owner.slug, by=BY)
    profiles.set_profile(organization_id=owner.pk, fields={"vat_id": "PL5260001246"}, by=BY)
    # What others say of our money.
    provider_bills.load(raw=b"provider,model,period,cost_usd\nopenai,gpt-4o,2026-01,12.34\n", name="jan.csv", by=BY)
    Difference.objects.create(
        side="stripe", subject=f"payment:{payment.pk}", organization=owner, ours_usd=Decimal(600),
        theirs_usd=Decimal("599.5"), detail="the amounts differ",
    )  # fmt: skip
    # What went wrong.
    JobRun.objects.create(name="seal", period=now, state="aside", attempts=5, result="ConnectionTimeout")
    Mail.objects.create(
        organization=owner, kind="wallet.low", key="1", recipient="owner@acme-labs.example", subject="Low", text="Low.",
        state="doubtful", attempts=1,
    )  # fmt: skip
    UnknownOutcome.objects.create(
        organization=owner, hold_id=ids.new(), model="gpt-4o", amount_usd=Decimal("0.02"), began_at=now, expired_at=now
    )
    TOTPDevice.objects.create(user=User.objects.create_user("staff@example.com", is_staff=True), confirmed=True)
    _months()


def _months() -> None:
    """A period that is over and open, one that is drafted, one that is parked."""
    for slug, state in (("over-labs", "open"), ("draft-labs", "drafted"), ("parked-labs", "parked")):
        owner = world.organization(slug)
        period = BillingPeriod.objects.create(
            organization=owner, starts_at=papers.FIRST, ends_at=papers.FIRST + timedelta(days=31), zone="UTC",
            anchor_day=1, state=state, parked_for="1000 USD is above the bound of 500" if state == "parked" else "",
            **({"drafted_at": papers.ISSUED, "finalize_at": papers.ISSUED} if state == "drafted" else {}),
        )  # fmt: skip
        if state == "drafted":
            Invoice.objects.create(
                organization=owner, legal_entity=profiles.of(owner.pk).legal_entity, kind="statement", period=period,
                starts_at=period.starts_at, ends_at=period.ends_at, exact_usd=0, subtotal_usd=0, total_usd=0,
            )  # fmt: skip


def places() -> tuple[dict[str, str], list[str]]:
    """The page of each act and each form of the desk, by name; and the acts that no row is there for."""
    found, missing = {}, []
    for page in admin.site._registry.values():
        if isinstance(page, VerbAdmin):
            found[f"{page.page}-add"] = reverse(f"admin:{page.page}_add")
        if isinstance(page, Acting):
            for act in page.list_acts:
                found[f"{page.page}-{act.name}"] = reverse(f"admin:{page.page}_{act.name}")
            for act in page.acts:
                row = _row(page.model, act)
                if row is None:
                    missing.append(f"{page.page}-{act.name}")
                else:
                    found[f"{page.page}-{act.name}"] = page.place_of(row, act.name)
    return found, missing


def _row(model: type[Model], act: Act) -> Model | None:
    return next(filter(act.possible, model._default_manager.order_by("-pk")), None)
