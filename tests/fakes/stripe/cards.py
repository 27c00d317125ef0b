"""Stripe's documented test cards, as far as we use them. Part of the fake Stripe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """What a test card does.

    ``decline``: (code, decline_code, message) when charged; ``attaches`` whether it can be saved all
    the same. ``authenticate``: "never", "unless_set_up" or "always".
    """

    number: str
    what: str
    brand: str = "visa"
    decline: tuple[str, str, str] | None = None
    attaches: bool = True
    authenticate: str = "never"
    # Stripe's ready-made payment method of this card.
    token: str = ""

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]


DECLINED = ("card_declined", "generic_decline", "Your card was declined.")
POOR = ("card_declined", "insufficient_funds", "Your card has insufficient funds.")
EXPIRED = ("expired_card", "expired_card", "Your card has expired.")

CARDS = {
    card.number: card
    for card in (
        Card("4242424242424242", "pays", token="pm_card_visa"),
        Card("5555555555554444", "pays", brand="mastercard", token="pm_card_mastercard"),
        Card("4000000000000002", "is declined", decline=DECLINED, attaches=False, token="pm_card_visa_chargeDeclined"),
        Card(
            "4000000000009995",
            "is declined for want of funds",
            decline=POOR,
            attaches=False,
            token="pm_card_visa_chargeDeclinedInsufficientFunds",
        ),
        Card(
            "4000000000000069",
            "has expired",
            decline=EXPIRED,
            attaches=False,
            token="pm_card_chargeDeclinedExpiredCard",
        ),
        Card(
            "4000002500003155",
            "needs 3-D Secure until it is saved",
            authenticate="unless_set_up",
            token="pm_card_authenticationRequiredOnSetup",
        ),
        Card(
            "4000002760003184",
            "needs 3-D Secure each time",
            authenticate="always",
            token="pm_card_authenticationRequired",
        ),
        Card(
            "4000000000000341",
            "can be saved and is declined when charged",
            decline=DECLINED,
            token="pm_card_chargeCustomerFail",
        ),
    )
}
TOKENS = {card.token: card for card in CARDS.values()}
