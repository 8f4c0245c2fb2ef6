"""Deadlines by regulation: calendar months, days, business days, extensions; always in UTC."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tru_core.errors import ConfigError, PolicyError
from workflows.config.ledger import CCPA, GDPR, LedgerConfig, Regulation
from workflows.deletions.ledger.deadlines import acknowledge_by, add_months, deadline_of, extended_deadline


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("received", "deadline"),
    [
        ("2026-01-31T08:00:00+00:00", "2026-02-28T08:00:00+00:00"),  # no 31 February
        ("2028-01-31T08:00:00+00:00", "2028-02-29T08:00:00+00:00"),  # a leap year
        ("2028-02-29T08:00:00+00:00", "2028-03-29T08:00:00+00:00"),
        ("2026-03-31T08:00:00+00:00", "2026-04-30T08:00:00+00:00"),
        ("2026-12-31T23:59:59+00:00", "2027-01-31T23:59:59+00:00"),  # the year's end
        ("2026-03-15T12:00:00+01:00", "2026-04-15T11:00:00+00:00"),  # summer time starts between: the hour of UTC stays
        ("2026-03-01T00:30:00+02:00", "2026-03-28T22:30:00+00:00"),  # in UTC it is still February
    ],
)
def test_gdpr_gives_one_calendar_month(received: str, deadline: str) -> None:
    assert deadline_of(at(received), GDPR) == at(deadline)


@pytest.mark.parametrize(
    ("received", "deadline"),
    [
        ("2026-01-31T08:00:00+00:00", "2026-03-17T08:00:00+00:00"),
        ("2028-01-31T08:00:00+00:00", "2028-03-16T08:00:00+00:00"),  # 29 February is one of the days
        ("2026-12-01T08:00:00+00:00", "2027-01-15T08:00:00+00:00"),
    ],
)
def test_ccpa_gives_forty_five_days(received: str, deadline: str) -> None:
    assert deadline_of(at(received), CCPA) == at(deadline)
    assert deadline_of(at(received), CCPA, is_extended=True) - at(received) == timedelta(days=90)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("2026-03-02T10:00:00+00:00", "2026-03-16T10:00:00+00:00"),  # Monday
        ("2026-03-06T10:00:00+00:00", "2026-03-20T10:00:00+00:00"),  # Friday
        ("2026-03-07T10:00:00+00:00", "2026-03-20T10:00:00+00:00"),  # Saturday: Monday is the first business day
        ("2026-12-24T10:00:00+00:00", "2027-01-07T10:00:00+00:00"),
    ],
)
def test_ccpa_asks_for_an_answer_within_ten_business_days(received: str, expected: str) -> None:
    assert acknowledge_by(at(received), CCPA) == at(expected)
    assert acknowledge_by(at(received), GDPR) is None


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda time: time.replace(tzinfo=UTC)),  # noqa: DTZ001
    st.integers(1, 30),
)
def test_months_never_skip_one_and_never_change_the_hour(start: datetime, num_months: int) -> None:
    end = add_months(start, num_months)
    assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == num_months
    assert end.day <= start.day
    assert end.time() == start.time()


@given(st.integers(-12 * 60, 14 * 60), st.sampled_from([GDPR, CCPA]))
def test_the_zone_in_which_a_time_is_written_moves_no_deadline(offset_minutes: int, regulation: Regulation) -> None:
    received = at("2026-02-28T23:30:00+00:00")
    other = received.astimezone(timezone(timedelta(minutes=offset_minutes)))
    assert deadline_of(other, regulation) == deadline_of(received, regulation)


def test_an_extension_goes_as_far_as_asked_and_no_further_than_allowed() -> None:
    received, deadline = at("2026-01-31T08:00:00+00:00"), at("2026-02-28T08:00:00+00:00")
    assert extended_deadline(received, deadline, GDPR, until=None, where="r1") == at("2026-04-30T08:00:00+00:00")
    until = at("2026-03-10T00:00:00+00:00")
    assert extended_deadline(received, deadline, GDPR, until=until, where="r1") == until
    with pytest.raises(PolicyError, match=r"r1: 2026-05-01T00:00:00\+00:00 is later than the regulation allows"):
        extended_deadline(received, deadline, GDPR, until=at("2026-05-01T00:00:00+00:00"), where="r1")
    with pytest.raises(ConfigError, match="is not later than the present deadline"):
        extended_deadline(received, deadline, GDPR, until=deadline, where="r1")
    with pytest.raises(ConfigError, match="time without a zone"):
        extended_deadline(received, deadline, GDPR, until=datetime(2026, 3, 10), where="r1")  # noqa: DTZ001


def test_a_table_of_its_own_stands_beside_the_known_regulations() -> None:
    config = LedgerConfig.model_validate(
        {"default_regulation": "house", "regulations": {"house": {"days": 7}, "gdpr": {"days": 28}}}
    )
    assert set(config.table) == {"house", "gdpr", "ccpa"}
    received = at("2026-01-31T08:00:00+00:00")
    assert deadline_of(received, config.table["gdpr"]) - received == timedelta(days=28)


@pytest.mark.parametrize(
    "values",
    [
        {"regulations": {"x": {"days": 7, "months": 1}}},
        {"regulations": {"x": {}}},
        {"regulations": {"X": {"days": 7}}},
        {"default_regulation": "none"},
        {"sweep_every_days": 46},
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(values: dict) -> None:
    with pytest.raises(ValidationError):
        LedgerConfig.model_validate(values)
