"""Deadlines by regulation, counted from the receipt of a request. All times are UTC."""

import calendar
from datetime import UTC, datetime, timedelta

from tru_core.errors import ConfigError, PolicyError
from workflows.config.ledger import Regulation


def utc_text(time: datetime) -> str:
    """A time as the ledger writes it: UTC, ISO 8601, whole seconds.

    Raises:
        ConfigError: If the time has no zone.
    """
    if time.tzinfo is None:
        raise ConfigError("a time without a zone was given, expected one with a zone. Nothing was written.")
    return time.astimezone(UTC).isoformat(timespec="seconds")


def add_months(time: datetime, num_months: int) -> datetime:
    """The same day and time of day some calendar months later; the month's last day where it has no such day."""
    month = time.month - 1 + num_months
    year, month = time.year + month // 12, month % 12 + 1
    return time.replace(year=year, month=month, day=min(time.day, calendar.monthrange(year, month)[1]))


def add_business_days(time: datetime, num_days: int) -> datetime:
    """The same time of day some business days later. Saturdays and Sundays do not count; holidays are not known."""
    while num_days:
        time += timedelta(days=1)
        num_days -= time.weekday() < 5
    return time


def deadline_of(received: datetime, regulation: Regulation, *, is_extended: bool = False) -> datetime:
    """By when a request must be carried out: one calendar month, 45 days, or whatever the regulation says.

    Args:
        received: With a time zone. The day is that of UTC, so that daylight saving moves nothing.
        is_extended: With all that the regulation allows to extend.
    """
    start = received.astimezone(UTC)
    months, days = regulation.months or 0, regulation.days or 0
    if is_extended:
        months, days = months + regulation.extension_months, days + regulation.extension_days
    return add_months(start, months) + timedelta(days=days)


def acknowledge_by(received: datetime, regulation: Regulation) -> datetime | None:
    """By when the requester must be told that the request was received; None if the regulation asks for nothing."""
    num_days = regulation.acknowledge_business_days
    return None if num_days is None else add_business_days(received.astimezone(UTC), num_days)


def extended_deadline(
    received: datetime, deadline: datetime, regulation: Regulation, *, until: datetime | None, where: str
) -> datetime:
    """The new deadline of a request that is extended: ``until``, or as late as the regulation allows.

    Raises:
        ConfigError: ``until`` has no zone, or is not later than the present deadline.
        PolicyError: The regulation does not allow it, or not so late.
    """
    latest = deadline_of(received, regulation, is_extended=True)
    if latest <= deadline:
        raise PolicyError(
            f"{where}: the deadline {utc_text(deadline)} is the latest that the regulation allows. Nothing was "
            "written. Carry it out: `tru delete run`."
        )
    wanted = latest if until is None else until
    text = utc_text(wanted)
    if wanted <= deadline:
        raise ConfigError(
            f"{where}: {text} is not later than the present deadline {utc_text(deadline)}. Nothing was written. Name a "
            "later time."
        )
    if wanted > latest:
        raise PolicyError(
            f"{where}: {text} is later than the regulation allows, which is {utc_text(latest)}. Nothing was written. "
            "Name an earlier time."
        )
    return wanted
