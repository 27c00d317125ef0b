"""The way to a page of somebody else, after a form was sent.

A form of ours may only lead to pages of ours (Content-Security-Policy: form-action), and browsers count redirects
in. So the answer is a page that goes on by itself, with a link for whoever it does not carry along.
"""

from django.http import HttpRequest, HttpResponse

from portal import desk


def lead(request: HttpRequest, *, to: str, what: str) -> HttpResponse:
    """A page that leads to ``to``, whose link says ``what``."""
    return desk.render(request, "onward", {"to": to, "what": what})
