from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from wszoo.training.meeting import fresh_store

PATIENCE = timedelta(seconds=10)


def meet(store: Store, size: int) -> list[Store]:
    with ThreadPoolExecutor(size) as pool:
        waiting = [pool.submit(fresh_store, store, rank, size, PATIENCE) for rank in range(size)]
        return [each.result() for each in waiting]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_that_meet_share_their_words(size: int) -> None:
    parts = meet(HashStore(), size)

    parts[0].set("address", "here")

    assert [part.get("address") for part in parts] == [b"here"] * size


def test_what_earlier_ranks_wrote_is_not_read() -> None:
    store = HashStore()
    earlier = meet(store, 3)
    earlier[0].set("address", "of the dead")

    later = meet(store, 3)

    assert not any(part.check(["address"]) for part in later)
    later[2].set("address", "of the living")
    assert later[0].get("address") == b"of the living"


def test_a_rank_that_died_while_it_waited_is_not_taken_for_one_that_came() -> None:
    store = HashStore()
    store.set("hello/1", "a number of the dead")

    with pytest.raises(TimeoutError, match="rank 1 did not come; start again"):
        fresh_store(store, 0, 2, timedelta(seconds=0.2))


def test_the_first_rank_is_not_waited_for_without_end() -> None:
    with pytest.raises(TimeoutError, match="rank 0 did not come"):
        fresh_store(HashStore(), 1, 2, timedelta(seconds=0.2))
