"""What tests of the engines share."""

import os
from collections.abc import Iterator

import pytest

from tests.support.threads import threads_of_process


@pytest.fixture
def give_back() -> Iterator[None]:
    """Let every thread of this process have its cores again."""
    before = {thread: os.sched_getaffinity(thread) for thread in threads_of_process()}
    yield
    for thread in threads_of_process():
        os.sched_setaffinity(thread, before.get(thread, os.sched_getaffinity(thread)))
