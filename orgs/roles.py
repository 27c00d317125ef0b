"""What staff may do at the desk, by role. The only module that writes ``Group`` and its permissions.

``TABLE`` names every model of the product and what each role may do with it; a model that it does not name is a
failing test, not a silent no. ``apply`` makes the groups say exactly that: a migration calls it, and every
``manage.py prepare`` after the migrations of a release, so a new model's row reaches installations that are older.
Superusers may everything; accounts, groups and second factors are theirs alone.
"""

from typing import Final

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db import transaction

FINANCE: Final = "Finance"
SUPPORT: Final = "Support"
CATALOG: Final = "Catalog manager"
AUDITOR: Final = "Auditor"
ROLES: Final = (FINANCE, SUPPORT, CATALOG, AUDITOR)

RIGHTS: Final = {"v": "view", "a": "add", "c": "change"}

# By model: finance, support, catalog manager, auditor; v sees, a makes, c acts on. What is made of an act, or of usage,
# nobody makes by hand: the desk's pages and their verbs say no whatever the role.
TABLE: Final[dict[str, tuple[str, str, str, str]]] = {
    # Who. Accounts, their groups and their devices are for superusers to change.
    "orgs.user": ("v", "v", "", "v"),
    "auth.group": ("v", "", "", "v"),
    "auth.permission": ("", "", "", ""),
    "otp_totp.totpdevice": ("", "", "", "v"),
    "otp_static.staticdevice": ("", "", "", ""),
    "otp_static.statictoken": ("", "", "", ""),
    "orgs.organization": ("vc", "v", "v", "v"),
    "orgs.role": ("v", "v", "", "v"),
    "orgs.member": ("v", "v", "", "v"),
    "orgs.project": ("v", "v", "", "v"),
    "orgs.apikey": ("v", "v", "", "v"),
    "orgs.externalid": ("vc", "v", "", "v"),
    "orgs.ratelimit": ("vc", "v", "", "v"),
    "orgs.auditentry": ("v", "", "", "v"),
    "orgs.cacheepoch": ("", "", "", ""),
    # The machinery. What was answered to a customer may hold what only they should read.
    "ops.jobrun": ("vc", "", "", "v"),
    "ops.jobperiod": ("v", "", "", "v"),
    "ops.approval": ("vc", "", "vc", "v"),
    "ops.outboxmessage": ("v", "v", "", "v"),
    "ops.idempotencykey": ("", "", "", "v"),
    "ops.webhookendpoint": ("v", "v", "", "v"),
    "ops.webhookdelivery": ("vc", "v", "", "v"),
    "ops.mail": ("vc", "", "", "v"),
    # Prices.
    "metering.catalogmodel": ("v", "v", "vac", "v"),
    "metering.price": ("v", "v", "vac", "v"),
    "metering.pricedraft": ("v", "", "vac", "v"),
    "metering.pricedraftline": ("v", "", "vac", "v"),
    "metering.pricerule": ("vac", "", "vac", "v"),
    # Usage.
    "metering.usagerecord": ("v", "v", "", "v"),
    "metering.requestlog": ("v", "v", "", "v"),
    "metering.usageclaim": ("v", "", "", "v"),
    "metering.quarantine": ("vc", "v", "", "v"),
    "metering.usagerollup": ("v", "v", "", "v"),
    "metering.rollupmark": ("", "", "", "v"),
    "metering.archivedmonth": ("v", "", "", "v"),
    "metering.archivedsum": ("v", "", "", "v"),
    "metering.claimhorizon": ("", "", "", "v"),
    "metering.attempt": ("v", "", "", "v"),
    # Wallets.
    "billing.wallet": ("vc", "v", "", "v"),
    "billing.transfer": ("v", "v", "", "v"),
    "billing.grant": ("vc", "v", "", "v"),
    "billing.grantuse": ("v", "v", "", "v"),
    "billing.hold": ("vc", "v", "", "v"),
    "billing.budget": ("vc", "v", "", "v"),
    "billing.budgetspend": ("v", "v", "", "v"),
    "billing.adjustment": ("vac", "", "", "v"),
    "billing.correction": ("va", "", "", "v"),
    "billing.rerating": ("vac", "", "", "v"),
    "billing.reratingshare": ("v", "", "", "v"),
    "billing.ledgerhead": ("v", "", "", "v"),
    "billing.checkrun": ("v", "", "", "v"),
    # Money in.
    "billing.topup": ("v", "v", "", "v"),
    "billing.recharge": ("v", "v", "", "v"),
    "billing.topuplimit": ("vc", "", "", "v"),
    "billing.stripecustomer": ("v", "", "", "v"),
    "billing.paymentcard": ("v", "", "", "v"),
    "billing.payment": ("vc", "", "", "v"),
    "billing.refund": ("vac", "", "", "v"),
    "billing.dispute": ("vc", "", "", "v"),
    "billing.stripeevent": ("vc", "", "", "v"),
    "billing.balancetransaction": ("v", "", "", "v"),
    "billing.reconciliationmark": ("v", "", "", "v"),
    "billing.difference": ("vc", "", "", "v"),
    "billing.providerbill": ("vac", "", "", "v"),
    "billing.providerbillline": ("v", "", "", "v"),
    # Invoices, with names and addresses of people.
    "billing.legalentity": ("vac", "", "", "v"),
    "billing.billingprofile": ("vac", "", "", "v"),
    "billing.taxrate": ("vac", "", "", "v"),
    "billing.numberseries": ("v", "", "", "v"),
    "billing.billingperiod": ("vc", "", "", "v"),
    "billing.invoice": ("vac", "", "", "v"),
    "billing.invoiceline": ("v", "", "", "v"),
    "billing.invoicesettlement": ("v", "", "", "v"),
    "billing.banktransfer": ("vac", "", "", "v"),
    "billing.dunningstep": ("v", "", "", "v"),
    # Providers. How they are reached is for superusers.
    "gateway.channel": ("", "", "", "v"),
    "gateway.route": ("", "", "", "v"),
    "gateway.callterms": ("vc", "v", "", "v"),
    "gateway.callkey": ("", "", "", "v"),
    "gateway.unknownoutcome": ("vc", "", "", "v"),
    # Django's own, which no page shows.
    "admin.logentry": ("", "", "", ""),
    "contenttypes.contenttype": ("", "", "", ""),
    "sessions.session": ("", "", "", ""),
    "axes.accessattempt": ("", "", "", ""),
    "axes.accessattemptexpiration": ("", "", "", ""),
    "axes.accessfailurelog": ("", "", "", ""),
    "axes.accesslog": ("", "", "", ""),
}


def rights_of(role: str) -> frozenset[str]:
    """What a role may do, as Django names it: ``billing.view_wallet``. Raises ``ValueError`` for no role."""
    column = ROLES.index(role)
    return frozenset(
        f"{app}.{RIGHTS[letter]}_{model}"
        for (app, _, model), row in ((label.partition("."), row) for label, row in TABLE.items())
        for letter in row[column]
    )


@transaction.atomic
def apply() -> None:
    """Make the groups say what the table says, no more and no less."""
    # On a new database a migration that needs them comes before Django makes them by itself.
    for app in apps.get_app_configs():
        create_permissions(app, verbosity=0)
    known = {
        f"{app}.{codename}": pk
        for pk, app, codename in Permission.objects.values_list("pk", "content_type__app_label", "codename")
    }
    for role in ROLES:
        group, _ = Group.objects.get_or_create(name=role)
        group.permissions.set([known[right] for right in rights_of(role) if right in known])
