"""How staff get in, in a browser."""

import base64

from django_otp.oath import totp
from playwright.sync_api import Page


def open_desk(page: Page, base_url: str, email: str, password: str) -> None:
    """By password, and with an authenticator app that is set up on the way."""
    page.goto(f"{base_url}/admin/")
    page.fill("[name=username]", email)
    page.fill("[name=password]", password)
    page.click("button[type=submit], input[type=submit]")
    secret = page.locator("code").first.inner_text().replace(" ", "")
    # What an app does with the secret (RFC 6238).
    page.fill("[name=code]", f"{totp(base64.b32decode(secret + '=' * (-len(secret) % 8))):06}")
    page.click("button[type=submit], input[type=submit]")
    page.click("text=I have kept them")
