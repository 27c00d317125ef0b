"""Guards of the staff's door: sign-in, second factor, roles, second persons (see ``tests.guards``)."""

import importlib
from datetime import timedelta
from typing import Any

from tests.guards import Disabled, guard, patched


@guard("a_password_alone_opens_nothing")
def _() -> Disabled:
    """A session of the desk has a device that verified it."""
    return patched("orgs.sessions.is_admitted", lambda request: True)


@guard("an_app_belongs_to_its_sign_in")
def _() -> Disabled:
    """Who has an app cannot enrol another: under the person's lock it is looked for again."""
    return patched("orgs.second_factor.is_enrolled", lambda person: False)


@guard("tries_wait_for_each_other")
def _() -> Disabled:
    """Tries of one address from one place are made one after the other."""
    return patched("orgs.sessions._take_turn", lambda *_: None)


@guard("our_proxies_say_where_from")
def _() -> Disabled:
    """Where a try comes from is what our own proxies saw, never what the client says."""

    def believing(request: Any) -> str:
        """What many a guide recommends."""
        told = request.META.get("HTTP_X_FORWARDED_FOR") or request.META["REMOTE_ADDR"]
        return str(told.split(",")[0].strip())

    return patched("orgs.sessions.tried_from", believing)


@guard("a_desk_left_alone_closes")
def _() -> Disabled:
    """A session of the desk ends after a quarter of an hour without a page."""
    return patched("orgs.sessions.STAFF_IDLE", timedelta(days=1))


@guard("a_desk_closes_in_the_evening")
def _() -> Disabled:
    """A session of the desk ends after twelve hours, however busy."""
    return patched("orgs.sessions.STAFF_MAX", timedelta(days=30))


@guard("only_superusers_reset")
def _() -> Disabled:
    """Another person's second factor is reset by a superuser."""
    second_factor = importlib.import_module("orgs.second_factor")
    reset = second_factor.reset

    def by_anybody(*, person: Any, by: Any, reason: str) -> None:
        by.is_superuser = by.is_active = True
        reset(person=person, by=by, reason=reason)

    return patched("orgs.second_factor.reset", by_anybody)


@guard("roles_hold_at_every_page")
def _() -> Disabled:
    """A page and an act are open to whoever has the right for it."""
    return patched("core.admin.Acting.may_act", lambda *_: True)


@guard("a_second_account_is_no_second_person")
def _() -> Disabled:
    """Whoever asked cannot decide through another account that is theirs or was in their hands."""
    return patched("ops.approvals._refuse_second_account", lambda *_: None)


@guard("large_amounts_need_two")
def _() -> Disabled:
    """What is more than the limit waits until somebody else than whoever asked has granted it."""
    return patched("ops.approvals.decision", lambda **_: True)
