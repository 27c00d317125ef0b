"""Stretches of days that a person can choose on a page."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from django import forms
from django.http import HttpRequest

from portal import days

# A year and a day: any year, a leap year's last day too.
DAYS_MAX: Final = 366
MONTH: Final = "month"
LAST_MONTH: Final = "last-month"
CHOSEN: Final = "days"
ANY: Final = "any"
CHOICES: Final = (
    (MONTH, "This month"),
    (LAST_MONTH, "Last month"),
    ("7", "Last 7 days"),
    ("30", "Last 30 days"),
    ("90", "Last 90 days"),
    (CHOSEN, "From – to"),
)
_DAY = timedelta(days=1)
# Before it nobody used anything.
_FIRST = date(2000, 1, 1)


@dataclass(frozen=True, slots=True)
class Period:
    """Whole days, both of them within."""

    first: date
    last: date

    def edges(self, zone: ZoneInfo) -> list[datetime]:
        """Where its days begin in a zone, and where the last ends."""
        return days.between(self.first, self.last, zone)

    @property
    def query(self) -> dict[str, str]:
        """The period as a page's parameters."""
        return {"period": CHOSEN, "first": self.first.isoformat(), "last": self.last.isoformat()}


class Chosen(forms.Form):
    """A period, by name or by its first and last day; today and one year of days at most."""

    period = forms.ChoiceField(choices=CHOICES)
    first = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, data: Any, *, today: date) -> None:
        """``data``: what was asked for; ``today`` in the zone that the days are of."""
        self.told: dict[str, Any] = dict(data)
        self.today = today
        super().__init__(self.told)

    def clean(self) -> dict[str, Any]:
        """Add ``days``: the period, or None for any time."""
        found: dict[str, Any] = super().clean() or self.cleaned_data
        if "period" in found and not self.errors:
            found["days"] = self._days(found)
            if found["period"] != CHOSEN:
                # Whoever goes on to choose days starts from these.
                begun = found["days"] or Period(self.today, self.today)
                self.told.update(first=begun.first.isoformat(), last=begun.last.isoformat())
        return found

    def _days(self, found: dict[str, Any]) -> Period | None:
        name = found["period"]
        if name == ANY:
            return None
        if name != CHOSEN:
            return named(name, today=self.today)
        first, last = found["first"], found["last"]
        for field, day in (("first", first), ("last", last)):
            if day is None:
                self.add_error(field, "Choose a day.")
            elif day < _FIRST:
                self.add_error(field, "Choose a day of this century.")
        if self.errors:
            return None
        last = min(last, max(self.today, first))
        if first > last:
            self.add_error("last", "This is before the first day.")
        elif (last - first).days >= DAYS_MAX:
            self.add_error("last", f"Choose at most {DAYS_MAX} days.")
        return Period(first, last)


def fault_status(request: HttpRequest) -> int:
    """The status of a page that says what was wrong with a form: htmx would show nothing of an error's."""
    return 200 if getattr(request, "htmx", False) else 400


def named(name: str, *, today: date) -> Period:
    """A period that has a name: a month, or as many days as it says, today's the last."""
    this = days.month(today)
    if name == MONTH:
        return Period(this, today)
    if name == LAST_MONTH:
        return Period(days.month(this - _DAY), this - _DAY)
    return Period(today - timedelta(days=int(name) - 1), today)


def told(period: Period) -> str:
    """A period in words: ``3 May 2026``, ``3–9 May 2026``, ``30 April – 2 May 2026``."""
    first, last = period.first, period.last
    if first == last:
        return f"{last:%-d %B %Y}"
    if first.year != last.year:
        return f"{first:%-d %B %Y} – {last:%-d %B %Y}"
    if first.month != last.month:
        return f"{first:%-d %B} – {last:%-d %B %Y}"
    return f"{first:%-d}–{last:%-d %B %Y}"
