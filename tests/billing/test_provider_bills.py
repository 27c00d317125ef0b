"""Providers' bills: read strictly, kept once, and held against what the records say."""

import io
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from billing import differences, provider_bills
from billing.models import Difference, ProviderBill, ProviderBillLine
from billing.provider_bills import BadBill
from core import clock, errors
from metering.verdicts import Status
from orgs.audit import system
from orgs.models import AuditEntry
from tests.billing.world import assert_all, charge, organization
from tests.metering.world import event

BY = system("tests")
HEADER = "provider,model,period,cost_usd\n"
MODEL = "deepseek-chat"


def this_month() -> str:
    return f"{clock.now():%Y-%m}"


def load(text: str, name: str = "bill.csv") -> provider_bills.Loaded:
    return provider_bills.load(raw=text.encode(), name=name, by=BY)


def use(slug: str = "acme") -> None:
    """Three requests to DeepSeek of which two cost 0.3 and 0.25 dollars; one did not say."""
    acme = organization(slug, usd="50")
    told = (("one", "0.3"), ("two", "0.25"), ("three", None))
    for name, cost in told:
        made = event(organization=slug, event_id=name, provider="DeepSeek")
        made.provider_cost_usd = None if cost is None else Decimal(cost)
        assert_all(charge(acme, made), Status.CREATED)


def test_a_bill_is_read_whatever_the_order_of_its_columns() -> None:
    text = "cost_usd,Period,model,provider\n1234.56,2026-10,gpt-4o,OpenAI\n\n0.000000000001, 2026-09 ,o3,openai\n"
    assert provider_bills.read(b"\xef\xbb\xbf" + text.encode()) == [
        (2, "openai", "gpt-4o", date(2026, 10, 1), Decimal("1234.56")),
        (4, "openai", "o3", date(2026, 9, 1), Decimal("0.000000000001")),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the header is provider,model,period,cost_usd, not nothing"),
        ("vendor,model,period,cost_usd\n", "line 1: the header is provider,model,period,cost_usd, not vendor,model"),
        (HEADER, "line 2: there is nothing below the header"),
        (f"{HEADER}a,m,2026-10\n", "line 2: 3 columns instead of 4"),
        (f"{HEADER},m,2026-10,1\n", "line 2, column provider: '' is no name"),
        (f"{HEADER}a,m,2026-13,1\n", "line 2, column period: '2026-13' is no month such as 2026-10"),
        (f"{HEADER}a,m,10/2026,1\n", "line 2, column period: '10/2026' is no month"),
        (f'{HEADER}a,m,2026-10,"1,50"\n', "line 2, column cost_usd: '1,50' is no amount such as 1234.56"),
        (f"{HEADER}a,m,2026-10,$5\n", "line 2, column cost_usd: '$5' is no amount"),
        (f"{HEADER}a,m,2026-10,NaN\n", "line 2, column cost_usd: 'NaN' is no amount"),
        (f"{HEADER}a,m,2026-10,-1\n", "line 2, column cost_usd: '-1' is below zero, too large or too fine"),
        (f"{HEADER}a,m,2026-10,1\nA,m,2026-10,2\n", "line 3, column model: m of a stands in line 2 for this period"),
        (f'{HEADER}a,"m,2026-10,1\n', "line 2: unexpected end of data"),
        (f"{HEADER}a,x,2026-1,1\na,y,2026-10,z\n", "line 2, column period: '2026-1' is no month such as 2026-10; li"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_bill_is_refused_by_line_and_column(text: str, said: str) -> None:
    with pytest.raises(BadBill) as refused:
        provider_bills.read(text.encode())
    assert str(refused.value).startswith(said)


def test_bytes_that_are_no_text_are_refused_by_line() -> None:
    with pytest.raises(BadBill, match="line 3: this is not UTF-8"):
        provider_bills.read(HEADER.encode() + b"a,m,2026-10,1\na,\xff,2026-10,1\n")


def test_many_faults_are_told_in_part() -> None:
    with pytest.raises(BadBill, match=r"; and 5 more$"):
        provider_bills.read((HEADER + "a,m,2026-10,x\n" * 25).encode())


def test_the_same_file_is_read_once(db: None) -> None:
    first = load(f"{HEADER}a,m,2026-10,1.5\n")
    again = load(f"{HEADER}a,m,2026-10,1.5\n", "another name.csv")
    assert (first.is_new, again.is_new) == (True, False)
    assert again.bill == first.bill
    assert ProviderBillLine.objects.count() == 1
    (entry,) = AuditEntry.objects.filter(verb="provider_bill.loaded")
    assert entry.details == {"name": "bill.csv", "lines": 1, "cost_usd": "1.5"}


def test_a_bill_that_is_refused_leaves_nothing(db: None) -> None:
    with pytest.raises(BadBill):
        load(f"{HEADER}a,m,2026-10,1.5\na,m,2026-11,x\n")
    assert not ProviderBill.objects.exists()


def test_bills_are_held_against_the_records_of_their_provider_and_month(db: None) -> None:
    use()
    load(f"{HEADER}deepseek,{MODEL},{this_month()},0.55\n")
    assert provider_bills.comparison() == [
        ("deepseek", MODEL, clock.now().date().replace(day=1), Decimal("0.55"), Decimal("0.55"), 1)
    ]
    assert provider_bills.compare() == 0
    # Another bill for the same month adds up.
    load(f"{HEADER}deepseek,{MODEL},{this_month()},0.2\ndeepseek,never-used,{this_month()},3\n")
    assert provider_bills.compare() == 2
    assert list(Difference.objects.order_by("subject").values_list("subject", "ours_usd", "theirs_usd", "detail")) == [
        (
            f"bill:deepseek/{MODEL}/{this_month()}", Decimal("0.55"), Decimal("0.75"),
            "0.55 by our records, 0.75 billed; of 1 records the cost is unknown",
        ),
        (
            f"bill:deepseek/never-used/{this_month()}", None, Decimal(3), "nothing by our records, 3 billed",
        ),
    ]  # fmt: skip


def test_less_than_a_cent_is_no_difference(db: None) -> None:
    use()
    load(f"{HEADER}deepseek,{MODEL},{this_month()},0.559999\n")
    assert provider_bills.compare() == 0
    load(f"{HEADER}deepseek,{MODEL},{this_month()},0.000001\n")
    assert provider_bills.compare() == 1


def test_a_model_that_the_bill_leaves_out_is_listed(db: None) -> None:
    use()
    load(f"{HEADER}deepseek,another,{this_month()},0\n")
    assert provider_bills.compare() == 1
    assert Difference.objects.get().detail.startswith("0.55 by our records, nothing billed")


def test_a_bill_that_is_withdrawn_does_not_count(db: None) -> None:
    use()
    bill = load(f"{HEADER}deepseek,{MODEL},{this_month()},9\n").bill
    assert provider_bills.compare() == 1
    with pytest.raises(errors.OutOfRange):
        provider_bills.withdraw(bill_id=bill.pk, reason="", by=BY)
    provider_bills.withdraw(bill_id=bill.pk, reason="another house's", by=BY)
    with pytest.raises(errors.Conflict):
        provider_bills.withdraw(bill_id=bill.pk, reason="again", by=BY)
    assert provider_bills.compare() == 0
    assert Difference.objects.get().state == "over"


def test_differences_with_providers_and_with_stripe_are_apart(db: None) -> None:
    use()
    differences.keep(differences.Side.STRIPE, [differences.Found("ch_1", None, Decimal(1), "at Stripe")])
    load(f"{HEADER}deepseek,{MODEL},{this_month()},9\n")
    assert provider_bills.compare() == 1
    assert differences.keep(differences.Side.STRIPE, []) == 0
    assert sorted(Difference.objects.values_list("side", "state")) == [("provider", "open"), ("stripe", "over")]


def test_the_command_loads_and_tells(db: None, tmp_path: Path) -> None:
    use()
    path = tmp_path / "october.csv"
    path.write_text(f"{HEADER}deepseek,{MODEL},{this_month()},1\n")
    out = io.StringIO()
    call_command("load_provider_bill", str(path), stdout=out)
    first, *rest = out.getvalue().splitlines()
    assert first.startswith("bill_")
    assert first.endswith(": loaded")
    assert rest == [
        f"bill:deepseek/{MODEL}/{this_month()}: 0.55 by our records, 1 billed; of 1 records the cost is unknown",
        "1 differences with providers are open",
    ]
    path.write_text("nonsense")
    with pytest.raises(CommandError, match="line 1: the header is"):
        call_command("load_provider_bill", str(path))
    with pytest.raises(CommandError, match="No such file"):
        call_command("load_provider_bill", str(tmp_path / "none.csv"))
