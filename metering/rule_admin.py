"""The desk's pages of rules on prices: what each says, and asking for one, for its end, or for another price group.

Each is shown first: what models cost before and after, and whom it touches. A second person sees the same where they
agree to it, and their yes does it (``metering.agreements``).
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Final

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from core import clock, errors, ids, money
from core.admin import Act, ActsAdmin, Done, QuickList, Section
from core.markup import NOTHING, as_facts, link, paragraphs, percent, refer, stamp, table
from core.reasons import ReasonForm
from metering import agreements, catalog, pricebook, rating, rules
from metering.admin import When, find_organization, rate, rate_card
from metering.agreements import Foreseen, Line, Wish
from metering.models import CatalogModel, PriceRule
from metering.rules import Scope
from ops.admin import FORESEEN, MADE, RIGHTS, SUBJECTS, brief, second_person
from ops.models import Approval
from orgs.admin import actor
from orgs.models import Organization

MODELS_SHOWN: Final = 20
WAITING_SHOWN: Final = 20
GROUPS_SHOWN: Final = 12
# The pools that a contract's own rates are asked for; the others stay as the catalog has them.
OWN: Final = ("input", "cached_input", "cache_write", "output")
PERCENT_DECIMALS: Final = rules.FACTOR_DECIMALS - 2
PERCENT_MAX: Final = (rules.FACTOR_MAX - 1) * 100
SOON: Final = "some minutes after a second person has agreed"

SUBJECTS[agreements.RULE] = SUBJECTS[agreements.END] = ("metering_pricerule", "rule")
SUBJECTS[agreements.GROUP] = ("orgs_organization", "org")
RIGHTS[agreements.RULE] = RIGHTS[agreements.END] = "metering.change_pricerule"
RIGHTS[agreements.GROUP] = "orgs.change_organization"
MADE.add(agreements.RULE)


def pays(factor: Decimal | None) -> str:
    """A factor as finance says it; none is rates of its own."""
    if factor is None:
        return "its own rates"
    if not factor:
        return "nothing: it is free"
    more = (factor - 1).scaleb(2)
    said = f"{'+' if more > 0 else '-'}{money.plain(abs(more))} %: " if more else ""
    return f"{said}{money.plain(factor)} × the catalog's price"


def whom(scope: Scope, organization: Organization | None) -> str:
    """An organization, a group, or everyone."""
    if organization is not None:
        return link("orgs_organization", organization.pk, organization)
    return "everyone" if scope.group is None else f"group {scope.group}"


def what(scope: Scope) -> str:
    """A model, a provider's models, or everything."""
    if scope.model is not None:
        return scope.model
    return "everything" if scope.provider is None else f"provider {scope.provider}"


def line_table(lines: Sequence[Line]) -> SafeString:
    """Ordinary rates of models by the catalog, before and after."""
    rows = [
        (line.model, *_ordinary(line.listed), *_ordinary(line.before), *_ordinary(line.after), _change(line))
        for line in lines[:MODELS_SHOWN]
    ]
    heads = (
        *("model", "catalog: input", "output", "paid now: input", "output", "paid then: input", "output"),
        "change of input",
    )
    count = len(lines)
    told = f"{count:,} model{'s' * (count != 1)} will cost something else. Ordinary rates, USD per 1M tokens."
    more = "" if count <= MODELS_SHOWN else paragraphs(f"The first {MODELS_SHOWN} of {count:,}.")
    return format_html("{}{}{}", paragraphs(told), table(heads, rows), more)


def _ordinary(card: rating.RateCard) -> tuple[str | None, str | None]:
    rates = next(filter(rating.is_base, card.terms)).rates
    return rate(rates.input), rate(rates.output)


def _change(line: Line) -> str | None:
    before, after = (next(filter(rating.is_base, card.terms)).rates.input for card in (line.before, line.after))
    return None if before is None or after is None else percent(Decimal(after - before), Decimal(before), sign=True)


def changed(found: Foreseen, *told: str) -> Section:
    """What would change, as a page shows it, after what is ``told``."""
    if not found.lines:
        nothing = "No model costs anything else: none has a price then, or other rules go before."
        return Section("What it changes", paragraphs(*told, nothing))
    shown = format_html("{}{}", paragraphs(*told), line_table(found.lines))
    if len(found.lines) == 1:
        (line,) = found.lines
        compared = pricebook.compare(line.model, line.before, line.after)
        gone = [change.where.replace("_", " ") for change in compared if change.after is None]
        shown = format_html("{}{}", shown, rate_card(line.after))
        if gone:
            without = f"Without a price then: {', '.join(gone)}. Such use would wait in quarantine."
            shown = format_html("{}{}", shown, paragraphs(without))
    return Section("What it changes", shown)


def changes(found: Foreseen) -> list[Section]:
    """What a rule or its end would change, and whom it touches."""
    what_changes = changed(found, f"From {stamp(found.at)} UTC on, if it were agreed to now.")
    later = [
        format_html(
            "<p>{} holds for the same from {} UTC on, and goes before this one: it starts later.</p>",
            refer("metering_pricerule", "rule", rule.id), stamp(rule.effective_from),
        )
        for rule in found.later
    ]  # fmt: skip
    shown = format_html("{}{}", what_changes.content, format_html_join("", "{}", ((one,) for one in later)))
    return [what_changes._replace(content=shown), Section("Whom it touches", _touched(found))]


def moved(organization: Organization, group: str) -> list[Section]:
    """What another price group would change."""
    found = agreements.foresee_group(organization, group)
    told = [f"It is in the group from the yes on. What that means for {stamp(found.at)} UTC, by the rules of now:"]
    if not PriceRule.objects.filter(price_group=group).exists():
        told.append(f"No rule names the group {group} yet.")
    facts = as_facts({"price group": {"before": organization.price_group, "after": group}})
    return [Section("The group", facts), changed(found, *told)]


def _touched(found: Foreseen) -> SafeString:
    if not found.touched:
        return paragraphs("Nobody yet: no organization is in that group.")
    rows = [
        (
            link("orgs_organization", one.organization.pk, one.organization),
            one.organization.price_group,
            f"{one.models:,}",
        )
        for one in found.touched
    ]
    shown = table(("organization", "price group", "models that change"), rows)
    more = [f"The first {agreements.TOUCHED_MAX}; there are more."] if found.has_more else []
    if found.lines and not all(one.models for one in found.touched):
        more.append("Where none changes, rules of the organization's own go before.")
    return format_html("{}{}", shown, paragraphs(*more))


def wish_facts(wish: Wish) -> Section:
    """A rule that somebody means to publish, in words."""
    facts: dict[str, object] = {
        "for whom": whom(wish.scope, wish.organization),
        "for what": what(wish.scope),
        "pays": pays(wish.factor),
        "from": SOON
        if wish.effective_from is None
        else f"{stamp(wish.effective_from)} UTC, or {SOON} if that is later",
        "until": "for ever" if wish.effective_to is None else f"{stamp(wish.effective_to)} UTC",
    }
    return Section("The rule", as_facts(facts))


class RuleForm(ReasonForm):
    """Whom a rule is for, for what, and what it makes of the price. Its fields are named as the verb names them."""

    field_order = (
        *("organization", "group", "model", "provider", "factor"),
        *OWN,
        *("effective_from", "effective_to", "reason"),
    )
    organization = forms.CharField(
        required=False, help_text="A slug, an org_ id or a person's e-mail address. Empty, with no group: everyone."
    )
    group = forms.CharField(required=False, label="or price group")
    model = forms.CharField(required=False, help_text="An id of the catalog. Empty, with no provider: every model.")
    provider = forms.ChoiceField(required=False, label="or provider")
    factor = forms.DecimalField(
        required=False,
        label="percent on the catalog's price",
        min_value=-100,
        max_value=PERCENT_MAX,
        decimal_places=PERCENT_DECIMALS,
        help_text="20 is a fifth more, -15 is 15 % less, 0 is the catalog's price.",
    )
    input = forms.DecimalField(
        required=False,
        label="or own rates: input",
        help_text="USD per 1M tokens, for one model. What is left empty stays as the catalog has it.",
    )
    cached_input = forms.DecimalField(required=False, label="own rate: cached input")
    cache_write = forms.DecimalField(required=False, label="own rate: cache write")
    output = forms.DecimalField(required=False, label="own rate: output")
    effective_from = When(required=False, label="from (UTC)", help_text=f"Empty, or where that is later: {SOON}.")
    effective_to = When(required=False, label="until (UTC)", help_text="Exclusive. Empty: for ever.")

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        providers = sorted({model.provider for model in catalog.listing().models.values()}, key=str.casefold)
        chosen = self.fields["provider"]
        assert isinstance(chosen, forms.ChoiceField)
        chosen.choices = [("", "Any"), *((name, name) for name in providers)]
        self.fields["group"].help_text = known_groups()

    def clean_organization(self) -> Organization | None:
        """The one that is meant."""
        return _named(self.cleaned_data["organization"])

    def clean_model(self) -> CatalogModel | None:
        """The one that is meant."""
        text = self.cleaned_data["model"].strip()
        found = catalog.listing().find(text)
        if text and found is None:
            raise forms.ValidationError("No model of the catalog has that id.")
        return found

    def clean_factor(self) -> Decimal | None:
        """Percent as a factor."""
        more = self.cleaned_data["factor"]
        return None if more is None else 1 + Decimal(more).scaleb(-2)


def known_groups() -> str:
    """The groups that rules name, for who fills in a form."""
    named = PriceRule.objects.filter(price_group__isnull=False).order_by("price_group").values_list("price_group")
    groups = [str(name) for (name,) in named.distinct()[:GROUPS_SHOWN]]
    return f"Rules name: {', '.join(groups)}." if groups else "No rule names a group yet. New organizations: standard."


def _named(text: str) -> Organization | None:
    found = find_organization(text)
    if text.strip() and found is None:
        raise forms.ValidationError("No organization has that name.")
    return found


def wish_from(told: dict[str, Any]) -> Wish:
    """The rule that a form asks for. Raises ``OutOfRange``."""
    wish = Wish(
        organization=told["organization"],
        group=told["group"].strip() or None,
        provider=told["provider"] or None,
        model=told["model"],
        factor=told["factor"],
        effective_from=told["effective_from"],
        effective_to=told["effective_to"],
    )
    own = {pool: told[pool] for pool in OWN if told[pool] is not None}
    if not own:
        return wish
    if wish.model is None:
        raise errors.OutOfRange("Rates of its own are for one model.", param="model")
    return wish._replace(rates=agreements.contract(wish.model, own, at=wish.starts_at))


def _foresee_rule(_: None, told: dict[str, Any]) -> list[Section]:
    wish = wish_from(told)
    agreements.check(wish, reason=told["reason"])
    return [wish_facts(wish), *changes(agreements.foresee_rule(wish))]


def _ask_rule(request: HttpRequest, _: None, told: dict[str, Any]) -> Done:
    asked = agreements.ask_rule(wish=wish_from(told), reason=told["reason"], by=actor(request))
    return Done(second_person(asked.kind, asked.subject_id), level=messages.WARNING)


class EndForm(ReasonForm):
    """When a rule ends."""

    field_order = ("at", "reason")
    at = When(required=False, label="ends at (UTC)", help_text=f"Empty, or where that is later: {SOON}.")


def _foresee_end(row: PriceRule, told: dict[str, Any]) -> list[Section]:
    return changes(agreements.foresee_end(row, told["at"]))


def _ask_end(request: HttpRequest, row: PriceRule, told: dict[str, Any]) -> Done:
    asked = agreements.ask_end(rule=row, at=told["at"], reason=told["reason"], by=actor(request))
    return Done(second_person(asked.kind, asked.subject_id), level=messages.WARNING)


class GroupForm(ReasonForm):
    """Which group an organization is to be in."""

    field_order = ("group", "reason")
    group = forms.CharField(label="price group")

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.fields["group"].help_text = known_groups()


def _foresee_group(row: Organization, told: dict[str, Any]) -> list[Section]:
    agreements.check_group(row, told["group"])
    return moved(row, told["group"])


def _ask_group(request: HttpRequest, row: Organization, told: dict[str, Any]) -> Done:
    asked = agreements.ask_group(organization=row, group=told["group"], reason=told["reason"], by=actor(request))
    return Done(second_person(asked.kind, asked.subject_id), level=messages.WARNING)


SET_GROUP: Final = Act(
    "price-group",
    "Set the price group",
    "From the moment at which a second person agrees it pays by that group's rules, whatever is charged then.",
    _ask_group,
    form=GroupForm,
    foresee=_foresee_group,
    possible=lambda row: row.closed_at is None,
)


def _asked_rule(asked: Approval) -> list[Section]:
    wish = agreements.wish_of(asked)
    return [wish_facts(wish), *changes(agreements.foresee_rule(wish))]


def _asked_end(asked: Approval) -> list[Section]:
    at = asked.details.get("at")
    row = rules.row(asked.subject_id)
    return changes(agreements.foresee_end(row, None if at is None else datetime.fromisoformat(at)))


def _asked_group(asked: Approval) -> list[Section]:
    return moved(Organization.objects.get(pk=asked.subject_id), asked.details["group"]["after"])


FORESEEN.update({agreements.RULE: _asked_rule, agreements.END: _asked_end, agreements.GROUP: _asked_group})


class RuleList(QuickList):
    """Rules with when each ends: one query more for the page."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page and its ends."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        ends = rules.ends_of(self.result_list)
        for row in self.result_list:
            row.ending = ends[row.pk]


def _ends(row: Any) -> datetime | None:
    """When a rule ends; a list has asked for all of them together."""
    if not hasattr(row, "ending"):
        row.ending = rules.ends_of([row])[row.pk]
    ending: datetime | None = row.ending
    return ending


def can_end(row: PriceRule) -> bool:
    """Whether a rule still holds, or will."""
    ending = _ends(row)
    return row.ends_id is None and (ending is None or ending > clock.now())


@admin.register(PriceRule)
class PriceRuleAdmin(ActsAdmin[PriceRule]):
    """Markups, discounts and contracts."""

    list_display = ("shown_id", "whom", "what", "pays", "effective_from", "until", "reason")
    list_select_related = ("organization", "model")
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A rule_ id, an organization's slug, a group, a provider or a model's id."
    fieldsets: ClassVar[Any] = (
        (
            None,
            {"fields": ("shown_id", "organization", "price_group", "provider", "model", "reason", "created_by")},
        ),
        ("When", {"fields": ("effective_from", "until", "created_at")}),
        ("What it pays", {"fields": ("pays", "card")}),
    )
    list_acts = (
        Act(
            "publish",
            "Publish a rule",
            "A markup, a discount or a contract. It is published when a second person agrees, and never changed then: "
            "it can be ended, or followed by another.",
            _ask_rule,
            form=RuleForm,
            foresee=_foresee_rule,
        ),
    )
    acts = (
        Act(
            "end",
            "End early",
            "It is ended when a second person agrees. From its end on holds what would hold without it: an earlier "
            "rule for the same, one for a group or a provider, or the catalog's price.",
            _ask_end,
            form=EndForm,
            foresee=_foresee_end,
            possible=can_end,
        ),
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """With ends."""
        return RuleList

    def summary(self, request: HttpRequest) -> str:
        """What waits for a second person."""
        if not request.user.has_perm("ops.view_approval"):
            return ""
        kinds = (agreements.RULE, agreements.END, agreements.GROUP)
        waiting = list(Approval.objects.filter(kind__in=kinds, decided_at=None).order_by("pk")[:WAITING_SHOWN])
        rows = [(link("ops_approval", one.pk, one), one.kind.replace("_", " "), brief(one.details)) for one in waiting]
        return table(("waits for a second person", "kind", "what is asked"), rows) if rows else ""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[PriceRule], search_term: str
    ) -> tuple[QuerySet[PriceRule], bool]:
        """By id, or by what a rule is for."""
        text = search_term.strip()
        if not text:
            return queryset, False
        try:
            return queryset.filter(pk=ids.read("rule", text)), False
        except ValueError:
            meant = Q(price_group=text) | Q(provider=text) | Q(model__slug=text)
        if named := find_organization(text):
            meant |= Q(organization_id=named.pk)
        return queryset.filter(meant), False

    @admin.display(description="for whom")
    def whom(self, row: PriceRule) -> str:
        """An organization, a group, or everyone."""
        return whom(rules.scope_of(row), row.organization)

    @admin.display(description="for what")
    def what(self, row: PriceRule) -> str:
        """A model, a provider's models, or everything."""
        if row.model is not None:
            return link("metering_catalogmodel", row.model_id, row.model)
        return what(rules.scope_of(row))

    @admin.display(description="pays")
    def pays(self, row: PriceRule) -> str:
        """The factor, or that there are rates; or which rule it ends."""
        if row.ends_id is not None:
            return format_html("ends {}", refer("metering_pricerule", "rule", row.ends_id))
        return pays(row.factor)

    @admin.display(description="until")
    def until(self, row: PriceRule) -> str:
        """When it ends, by itself or because that was said since."""
        ending = _ends(row)
        return NOTHING if ending is None or row.ends_id is not None else stamp(ending)

    @admin.display(description="rate card")
    def card(self, row: PriceRule) -> str:
        """Rates of its own."""
        return NOTHING if row.rates is None else rate_card(rating.read_card(row.rates))
