from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.service.tenant_builders import digest
from tests.support.service.tenant_builders import tenant_keys as keys
from veltair.config.load import ConfigError, parse_group
from veltair.service.keys.tenant_keys import TenantKeys, TenantsKeys
from veltair.service.tenancy.tenants import Account, Bucket, Refusal, Ticket, Tokens


def parsed(*tenants: dict[str, Any]) -> TenantsKeys:
    return parse_group(TenantsKeys, {"tenants": list(tenants)}, "service.yaml")


def admitted(account: Account, nbytes: int = 0, core_s: float = 0.0, time_s: float = 0.0) -> Ticket:
    ticket = account.admit(nbytes, core_s, time_s)
    assert isinstance(ticket, Ticket)
    return ticket


def refused(account: Account, nbytes: int = 0, core_s: float = 0.0, time_s: float = 0.0) -> Refusal:
    refusal = account.admit(nbytes, core_s, time_s)
    assert isinstance(refusal, Refusal)
    return refusal


def test_a_token_belongs_to_its_tenant_and_any_other_to_nobody() -> None:
    tokens = Tokens([keys("shop", "right"), keys("bank", "other")])
    for header, name in (("Bearer right", "shop"), ("bearer  other", "bank")):
        found = tokens.tenant_of(header)
        assert found is not None
        assert found.name == name
    for header in ("", "right", "Basic right", "Bearer", "Bearer Right", "Bearer right x", "Bearer \udcff"):
        assert tokens.tenant_of(header) is None


def test_while_a_token_is_replaced_both_are_valid() -> None:
    both = TenantKeys(name="shop", token_sha256=(digest("old"), digest("new")))
    tokens = Tokens([both])
    assert tokens.tenant_of("Bearer old") is tokens.tenant_of("Bearer new") is both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_sha256": "abc"}, r"tenants\[0\].token_sha256: 'abc' is refused"),
        ({"weight": 0}, r"tenants\[0\].weight: 0 is refused"),
        ({"rate": "50/s"}, r"tenants\[0\].rate: '50/s' is refused: .* in requests/s"),
        ({"in_flite": 3}, r"tenants\[0\].in_flite: unknown key; did you mean `in_flight`"),
        ({"name": "s" * 65}, r"tenants\[0\].name: 's+' is refused"),
        ({"name": "../shop"}, r"tenants\[0\].name: '../shop' is refused"),
        ({"token_sha256": [digest(one) for one in "abc"]}, r"tenants\[0\].token_sha256: .* is refused"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key_and_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed({"name": "shop", "token_sha256": digest("a")} | change)


def test_two_tenants_have_neither_a_name_nor_a_token_in_common() -> None:
    one = {"name": "shop", "token_sha256": digest("a")}
    with pytest.raises(ConfigError, match="name shop is there twice"):
        parsed(one, one | {"token_sha256": digest("b")})
    with pytest.raises(ConfigError, match="shop and bank have the token_sha256"):
        parsed(one, one | {"name": "bank"})


def test_requests_are_taken_at_the_rate_after_a_burst() -> None:
    account = Account(keys(rate=2.0, burst=3), 0.0)
    for _ in range(3):
        admitted(account)
    refusal = refused(account)
    assert (refusal.quota, refusal.value, refusal.retry_after_s) == ("rate", 2.0, 0.5)
    assert "quota rate of 2 is used up; try again in 0.5 s" in str(refusal)
    admitted(account, time_s=0.5)
    assert refused(account, time_s=0.75).retry_after_s == 0.25


def test_requests_under_way_and_their_bytes_are_bounded_until_they_end() -> None:
    account = Account(keys(in_flight=2, queued_mb=1.0), 0.0)
    first = admitted(account, 600_000)
    assert refused(account, 400_001).quota == "queued_mb"
    admitted(account, 400_000)
    assert refused(account).quota == "in_flight"
    assert (account.in_flight, account.queued_bytes) == (2, 1_000_000)
    account.settle(first, 0.0, 1.0)
    assert (account.in_flight, account.queued_bytes) == (1, 400_000)
    admitted(account, 600_000)


def test_core_seconds_are_paid_as_predicted_and_settled_as_held() -> None:
    account = Account(keys(core_seconds_per_s=1.0), 0.0)
    first = admitted(account, core_s=0.75)
    assert refused(account, core_s=0.5).retry_after_s == 0.25
    account.settle(first, 0.25, 0.0)
    second = admitted(account, core_s=0.5)
    account.settle(second, 3.0, 0.0)  # It held far more than was predicted: 2.25 too much.
    assert refused(account, core_s=0.1).retry_after_s == pytest.approx(2.35)
    admitted(account, core_s=0.1, time_s=2.35)


def test_a_refused_request_takes_nothing() -> None:
    account = Account(keys(rate=1.0, burst=1, queued_mb=1.0), 0.0)
    assert refused(account, 2_000_000).quota == "queued_mb"
    admitted(account, 1_000_000)


def test_a_request_larger_than_all_that_can_be_saved_comes_in_when_it_is_full() -> None:
    account = Account(keys(core_seconds_per_s=0.5), 0.0)
    admitted(account, core_s=4.0)
    # 0.5 - 4 core-seconds are left: 8 s until it is full again.
    assert refused(account, core_s=4.0).retry_after_s == 8.0


def test_a_request_ends_once() -> None:
    account = Account(keys(), 0.0)
    ticket = admitted(account)
    account.settle(ticket, 0.0, 0.0)
    with pytest.raises(LookupError, match="request 0 of shop has ended"):
        account.settle(ticket, 0.0, 0.0)


def test_the_builder_works_so_many_seconds_a_day() -> None:
    account = Account(keys(compile_s_per_day=60.0), 0.0)
    assert account.compile_refusal(0.0) is None
    account.compiled(90.0, 0.0)
    refusal = account.compile_refusal(0.0)
    assert refusal is not None
    # 30 s too many and the one that it asks for first, at 60 s a day.
    assert refusal.retry_after_s == pytest.approx(31 * 1440)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5)), max_size=30))
def test_no_more_comes_out_of_a_bucket_than_came_in(steps: list[tuple[float, float]]) -> None:
    bucket, time_s, taken = Bucket(2.0, 3.0, 0.0), 0.0, 0.0
    for gap_s, amount in steps:
        time_s += gap_s
        if bucket.wait_s(min(amount, 3.0), time_s) == 0:
            bucket.take(min(amount, 3.0), time_s)
            taken += min(amount, 3.0)
    assert taken <= 3.0 + 2.0 * time_s + 1e-9


def test_time_that_goes_back_earns_nothing() -> None:
    bucket = Bucket(1.0, 2.0, 10.0)
    bucket.take(2.0, 10.0)
    assert bucket.wait_s(1.0, 5.0) == 1.0
    assert bucket.wait_s(1.0, 11.0) == 0.0
