"""The pages that a person sees at the fake Stripe; each says that it is one."""

from html import escape

from tests.fakes.stripe.cards import CARDS
from tests.fakes.stripe.shapes import Json

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: #f4f4f6; color: #1c1c28 }
main { max-width: 30rem; margin: 0 auto; padding: 2rem 1rem }
.fake { background: #7a1f3d; color: #fff; padding: .6rem 1rem; text-align: center; font-weight: 600 }
.amount { font-size: 2rem; font-weight: 600; margin: .2rem 0 1.2rem }
label { display: block; background: #fff; border: 1px solid #d5d5de; border-radius: .5rem;
  padding: .6rem .8rem; margin: .4rem 0 }
label:focus-within { outline: 2px solid #4a4ae0 }
.error { background: #fde8ec; border: 1px solid #d0728a; border-radius: .5rem; padding: .6rem .8rem }
button { font: inherit; font-weight: 600; padding: .7rem 1.2rem; border: 0; border-radius: .5rem;
  margin: .8rem .4rem 0 0;  background: #4a4ae0; color: #fff; cursor: pointer }
button.quiet { background: #fff; color: #1c1c28; border: 1px solid #d5d5de }
code { white-space: nowrap }
"""


def _page(title: str, inner: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} – fake Stripe</title><style>{_STYLE}</style></head><body>"
        '<p class="fake" role="note" style="margin:0">This is a fake Stripe for development. No money moves.</p>'
        f"<main>{inner}</main></body></html>"
    )


def dollars(cents: int) -> str:
    """``$1,234.50``."""
    return f"${cents // 100:,}.{cents % 100:02}"


def checkout(session: Json, *, lines: list[tuple[str, int]], error: str = "") -> str:
    """Where a card is chosen."""
    if session["mode"] == "payment":
        title = "Pay"
        head = f'<p class="amount">{dollars(session["amount_total"])}</p>' + "".join(
            f"<p>{escape(name)}: {dollars(amount)}</p>" for name, amount in lines
        )
    else:
        title = "Save a card"
        head = "<p>The card is saved for later payments. Nothing is charged now.</p>"
    cards = "".join(
        f'<label><input type="radio" name="card" value="{number}"{" checked" if at == 0 else ""}>'
        f" <code>{' '.join(number[i : i + 4] for i in range(0, 16, 4))}</code> {escape(card.what)}</label>"
        for at, (number, card) in enumerate(CARDS.items())
    )
    said = f'<p class="error" role="alert">{escape(error)}</p>' if error else ""
    return _page(
        title,
        f'<h1>{title}</h1>{head}{said}<form method="post"><fieldset style="border:0;padding:0;margin:0">'
        f"<legend>Test card</legend>{cards}</fieldset>"
        f'<button name="act" value="pay">{title}</button>'
        '<button class="quiet" name="act" value="cancel" formnovalidate>Back to the shop</button></form>',
    )


def authenticate(*, amount: int | None, action: str) -> str:
    """The card's bank asks its holder."""
    what = f"a payment of {dollars(amount)}" if amount is not None else "saving this card"
    return _page(
        "3-D Secure",
        f"<h1>3-D Secure</h1><p>The card’s bank asks whether you agree to {what}.</p>"
        f'<form method="post" action="{escape(action)}"><button name="act" value="pass">Complete</button>'
        '<button class="quiet" name="act" value="fail">Fail</button></form>',
    )


def message(title: str, text: str) -> str:
    """A page that only says something."""
    return _page(title, f"<h1>{escape(title)}</h1><p>{escape(text)}</p>")
