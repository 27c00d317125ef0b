"""To whom documents are addressed: what of an organization's billing profile its own people may change."""

from typing import Final

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_http_methods

from billing import profiles
from billing.models import BillingProfile
from core import errors
from orgs import permissions
from portal import desk
from portal.accounts import fault
from portal.desk import Desk

# Terms, days, bounds and the legal entity are the seller's to set.
FIELDS: Final = ("name", "address", "country", "vat_id", "email", "grouping")


class ProfileForm(forms.Form):
    """What stands on documents as the buyer."""

    name = forms.CharField(
        label="Legal name", max_length=200, required=False, help_text="Empty: the organization's name."
    )
    address = forms.CharField(
        label="Address", max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": 4}),
    )  # fmt: skip
    country = forms.CharField(
        label="Country", max_length=2, required=False, help_text="Two letters (ISO 3166), such as DE or US.",
        widget=forms.TextInput(attrs={"autocomplete": "country", "class": "short"}),
    )  # fmt: skip
    vat_id = forms.CharField(
        label="VAT id", max_length=50, required=False,
        help_text="Reverse charge applies once we have checked it. Changing it or the country asks for a new check.",
    )  # fmt: skip
    email = forms.EmailField(
        label="E-mail for documents", required=False, help_text="Empty: those here who manage billing.",
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
    )  # fmt: skip
    grouping = forms.ChoiceField(label="Lines of documents", choices=BillingProfile.Grouping.choices)

    def clean_address(self) -> str:
        """With lines as documents break them; browsers end them with CR LF."""
        return "\n".join(str(self.cleaned_data["address"]).splitlines())

    def clean_country(self) -> str:
        """In capitals."""
        return str(self.cleaned_data["country"]).upper()


@require_http_methods(["GET", "HEAD", "POST"])
@desk.page(permissions.BILLING_READ, writes=permissions.BILLING_MANAGE)
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``/portal/{slug}/invoices/profile``: documents that were issued stay as they are."""
    found = profiles.of(here.organization.pk)
    form = ProfileForm(request.POST or None, initial={name: getattr(found, name) for name in FIELDS})
    if request.method == "POST" and form.is_valid():
        try:
            profiles.set_profile(organization_id=here.organization.pk, fields=form.cleaned_data, by=here.actor)
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, "Documents are addressed like this from now on.")
            return HttpResponseRedirect(here.place("invoices-profile"))
    context = {"form": form, "profile": found, "manages": here.may(permissions.BILLING_MANAGE)}
    return desk.render(request, "profile", context, status=422 if form.errors else 200)
