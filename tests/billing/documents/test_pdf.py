"""Documents as PDF, read back: every amount is there, on every page what belongs there, nothing is lost in silence."""

import re
import threading
from dataclasses import replace
from decimal import Decimal
from io import BytesIO

import pytest
from pypdf import PdfReader

from billing.documents import pdf
from billing.documents.document import Contradiction, Document, Party
from tests.billing.documents import samples

D = Decimal


def pages(document: Document) -> list[str]:
    """The text of each page."""
    return [page.extract_text() for page in PdfReader(BytesIO(pdf.draw(document))).pages]


def text(document: Document) -> str:
    """All text, in one line."""
    return " ".join(" ".join(pages(document)).split())


def test_an_invoice_says_who_whom_what_how_much_and_until_when() -> None:
    told = text(samples.invoice())
    for part in (
        "Invoice", "TB-2026-000001", "Tollbook GmbH", "Münzstraße 12", "VAT id DE123456789", "Zażółć Gęślą S.A.",
        "ul. Świętokrzyska 7", "2 November 2026", "1 to 31 October 2026", "16 November 2026", "Europe/Berlin",
        "$1,190.00 due by 16 November 2026", "deepseek-chat", "12,345", "requests", "700.003621", "700.00",
        "“Production”", "VAT 19 % of 1,000.00", "190.00", "Total USD", "Amount due USD",
        "Before rounding the lines come to 1,000.004321 USD; 0.004321 USD are carried over to the next document.",
        "IBAN DE02 1203 0000 0000 2020 51", "Please give the number TB-2026-000001 as the reference.", "Page 1 of 1",
    ):  # fmt: skip
        # Whole and decimals of an exact amount are set apart, to stand under each other.
        assert part.replace(" ", "") in told.replace(" ", ""), part


def test_reverse_charge_a_payment_and_what_is_left_are_on_the_invoice() -> None:
    told = text(samples.reverse_charge())
    assert "VAT 19" not in told
    assert "Reverse charge: the recipient is liable for the tax" in told
    assert "Bank transfer RF18 5390" in told
    assert "−400.00" in told
    assert "$600.00 due by 16 November 2026" in told


def test_a_credit_note_names_the_invoice_it_corrects_and_why() -> None:
    told = text(samples.credit_note())
    assert "Credit note" in told
    assert "invoice TB-2026-000001" in told
    assert "The price of deepseek-chat was wrong on 3 October." in told
    assert "$119.00 credited" in told
    assert "due" not in told.lower()


def test_a_statement_goes_from_one_balance_to_the_next() -> None:
    told = text(samples.statement())
    for part in ("Opening balance", "−3.10", "Closing balance", "39.55", "Balance $39.55", "−12.35"):
        assert part in told
    assert "Total" not in told
    assert "Nothing happened in this period." in text(samples.nothing())


def test_what_was_credited_is_between_the_total_and_what_is_due() -> None:
    told = text(samples.invoice(paid_usd=D("400.00"), open_usd=D("600.00")))
    assert "Credited −190.00" in told
    assert "Void −1,190.00" in text(samples.all_of_them()["void"])
    assert "Credited" not in text(samples.reverse_charge())


@pytest.mark.parametrize(("name", "word"), [("draft", "DRAFT"), ("void", "VOID")])
def test_what_may_not_be_paid_says_so_in_large(name: str, word: str) -> None:
    assert word in text(samples.all_of_them()[name])
    assert word not in text(samples.invoice())


def test_three_hundred_lines_are_all_there_with_the_head_on_every_page() -> None:
    found = pages(samples.many(300))
    assert len(found) == 8
    assert re.findall(r"model-\d{3}", " ".join(found)) == [f"model-{place:03}" for place in range(1, 301)]
    for place, page in enumerate(found, start=1):
        assert f"Page {place} of 8" in page
        if "model-" in page:
            assert "Description" in page
            assert "Amount USD" in page
    assert found[-1].count("3.00") >= 2


def test_totals_are_never_torn_from_each_other() -> None:
    for count in range(25, 40):
        last = [page for page in pages(samples.many(count)) if "Subtotal" in page]
        assert len(last) == 1
        assert "Amount due USD" in last[0]


def test_long_names_and_huge_amounts_stay_inside_of_the_page() -> None:
    told = text(samples.long_names())
    assert "99,999,999,999.123456789012" in told
    assert "−1,000,000,000.123456789012" in told
    assert told.replace(" ", "").count("x" * 200) == 1
    reader = PdfReader(BytesIO(pdf.draw(samples.long_names())))
    edges: list[float] = []

    def note(part: str, _: object, matrix: list[float], font: object, size: float) -> None:
        if part.strip():
            edges.append(matrix[4])

    reader.pages[0].extract_text(visitor_text=note)
    assert edges
    assert min(edges) >= 50
    assert max(edges) < 545


def test_letters_that_cannot_be_printed_are_marked_and_the_document_says_so() -> None:
    told = text(samples.long_names())
    # Seven signs of an address in Tokyo, four Hebrew letters; Greek and Cyrillic are there.
    assert "???????" in told
    assert "Αθήνα 105 57" in told
    assert "Москва" in told
    assert pdf.LACKING in told
    assert pdf.LACKING not in text(samples.invoice())


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("€ & £ <b>not bold</b>", "€ & £ <b>not bold</b>"),
        # A letter and its accent apart become one letter.
        ("Ame\u0301lie", "Amélie"),
        ("tab\there\x00\x1b[31m", "tab here[31m"),
        ("\u202egnp.exe", "gnp.exe"),
    ],
)
def test_a_name_is_printed_as_text_and_nothing_else(name: str, printed: str) -> None:
    assert printed in text(samples.invoice(buyer=Party(name=name)))


def test_the_same_document_is_the_same_bytes_also_when_several_are_drawn_at_once() -> None:
    alone = {name: pdf.draw(each) for name, each in samples.all_of_them().items()}
    found: dict[str, bytes] = {}

    def draw(name: str, document: Document) -> None:
        found[name] = pdf.draw(document)

    threads = [threading.Thread(target=draw, args=each) for each in samples.all_of_them().items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == alone
    assert len(set(alone.values())) == len(alone)


def test_a_document_that_does_not_add_up_is_not_drawn() -> None:
    with pytest.raises(Contradiction):
        pdf.draw(replace(samples.invoice(), total_usd=D("1190.01")))


def test_fonts_are_in_the_file_and_so_is_what_it_is() -> None:
    reader = PdfReader(BytesIO(pdf.draw(samples.invoice())))
    assert reader.metadata is not None
    assert reader.metadata.title == "Tollbook GmbH · Invoice TB-2026-000001"
    fonts = reader.pages[0]["/Resources"]["/Font"]  # type: ignore[index]
    assert fonts
    for font in fonts.values():
        descriptor = font.get_object().get("/FontDescriptor")
        assert descriptor is not None, font
        assert "/FontFile2" in descriptor.get_object()
