from typing import Any

import pytest

from tests.support.service.tenant_builders import tenant_keys
from veltair.service.keys.tenant_keys import AdmissionKeys
from veltair.service.tenancy.admission import Admission, Asked, Rates
from veltair.service.tenancy.tenants import Refusal, Ticket

NO_BUFFER = AdmissionKeys(buffer_ms=0.0)


def asked(tenant: str = "shop", **others: Any) -> Asked:
    given = {"alone_s": 1.0, "core_s": 1.0, "input_bytes": 0, "output_bytes": 0} | others
    return Asked(tenant, "net", **given)


def admission(*names: str, keys: AdmissionKeys = NO_BUFFER, **quotas: Any) -> Admission:
    tenants = [tenant_keys(name, token=name, **quotas) for name in names or ("shop",)]
    return Admission(tenants, keys, 1, 0.0)


def test_a_request_holds_its_quotas_until_it_leaves() -> None:
    made = admission(queued_mb=1.0)
    ticket = made.enter(asked(input_bytes=600_000, output_bytes=400_000), 0.0)
    assert isinstance(ticket, Ticket)
    assert isinstance(made.enter(asked(input_bytes=1), 0.0), Refusal)
    made.leave("shop", ticket, 0.0, 0.0)
    assert isinstance(made.enter(asked(input_bytes=1), 0.0), Ticket)


def test_a_request_that_would_be_late_is_told_when_it_would_end() -> None:
    made = admission()
    number, first = made.offer(asked(), 1.0, 0.0)
    assert first.in_time
    _, second = made.offer(asked(), 1.9, 0.0)
    assert (second.in_time, second.finish_s) == (False, 2.0)
    made.ended(number, 1.0, 1.0)
    assert made.offer(asked(), 2.0, 1.0)[1].in_time


def test_the_buffer_is_kept_free_before_each_deadline() -> None:
    made = admission(keys=AdmissionKeys(buffer_ms=100.0))
    assert not made.offer(asked(), 1.05, 0.0)[1].in_time
    assert made.offer(asked(), 1.1, 0.0)[1].in_time


def test_a_model_that_is_absent_is_loaded_first() -> None:
    made = admission()
    # 500 MB take a second until a load was measured.
    assert made.offer(asked(load_bytes=500_000_000), 9.0, 0.0)[1].finish_s == 2.0
    made = admission()
    made.rates.loaded("net", 3.0)
    made.rates.loaded("net", 2.0)
    assert made.offer(asked(load_bytes=500_000_000), 9.0, 0.0)[1].finish_s == 4.0
    assert made.offer(asked(alone_s=0.0, core_s=0.0), 9.0, 0.0)[1].finish_s == 1.0


def test_copies_take_what_the_slowest_of_the_last_took() -> None:
    rates = Rates(2, 0.99)
    assert rates.copy_s(1_000_000) == 1e-3
    for seconds in (1.0, 0.004, 0.002):
        rates.copied(1_000_000, seconds)
    rates.copied(10, 5.0)
    assert rates.copy_s(1_000_000) == pytest.approx(0.004)


def test_one_tenants_crowd_does_not_make_anothers_request_late() -> None:
    made = admission("loud", "quiet")
    for _ in range(50):
        made.offer(asked("loud"), 1e9, 0.0)
    assert made.offer(asked("quiet"), 1.0, 0.0)[1].in_time
    assert not made.offer(asked("loud"), 50.0, 0.0)[1].in_time


def test_a_request_ends_once() -> None:
    made = admission()
    number, _ = made.offer(asked(), 9.0, 0.0)
    made.ended(number, None, 0.0)
    with pytest.raises(LookupError, match="query 0 is not inside"):
        made.ended(number, None, 0.0)
