"""The desk's page of wallets, and how one that is overdrawn shows it."""

from django.test import Client

from billing.models import Wallet
from tests import desk
from tests.billing.pages import cells_of_page, root

__all__ = ["root"]


def test_an_overdrawn_wallet_says_so(root: Client) -> None:
    poor = desk.organization("poor", usd="0.0001")
    desk.use(poor, 1)
    shown = desk.read(root, desk.page(Wallet.objects.get(pk=poor.pk))).text
    assert cells_of_page(shown, "balance") == "-0.0002614"
    assert cells_of_page(shown, "overdraft") == "0.0002614"
    assert cells_of_page(shown, "status") == "empty"
