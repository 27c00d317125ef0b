from django.test import RequestFactory

from portal import onward


def test_a_page_leads_on_and_its_address_is_escaped() -> None:
    page = onward.lead(RequestFactory().post("/"), to='https://pay.example/?a=1&b="><script>', what="Go <on>")
    text = page.content.decode()
    address = "https://pay.example/?a=1&amp;b=&quot;&gt;&lt;script&gt;"
    assert f'<meta http-equiv="refresh" content="0;url={address}">' in text
    assert f'<a class="button" href="{address}">Go &lt;on&gt;</a>' in text
    assert (page.status_code, "<script>" in text) == (200, False)
