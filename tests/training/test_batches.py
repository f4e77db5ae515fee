import numpy as np
import pytest

from wszoo.training.batches import plan_batches, rank_chunks, steps_per_epoch


@pytest.mark.parametrize(("ranks", "micro"), [(1, None), (2, None), (4, 2), (2, 1), (1, 3)])
def test_the_ranks_share_out_every_image_of_a_batch_once(ranks: int, micro: int | None) -> None:
    plan = plan_batches(24, ranks, micro)
    batch = np.random.default_rng(0).permutation(24)

    shares = [plan.shares(batch, rank) for rank in range(ranks)]

    assert {len(share) for share in shares} == {plan.accumulation_steps}
    assert {len(part) for share in shares for part in share} == {plan.micro_batch_size}
    assert sorted(np.concatenate([part for share in shares for part in share])) == [*range(24)]


def test_the_arithmetic_is_told() -> None:
    assert str(plan_batches(256, 4, 32)) == "256 = 32 per pass x 4 ranks x 2 accumulated"
    assert str(plan_batches(8, 1)) == "8 = 8 per pass x 1 rank x 1 accumulated"


@pytest.mark.parametrize(
    ("batch", "ranks", "micro", "said"),
    [
        (256, 3, None, "a batch of 256 cannot be shared by 3 ranks; take a multiple of 3 images"),
        (256, 2, 48, "256 is not a multiple of 48 images per pass x 2 ranks = 96; choose another"),
        (8, 2, 8, "8 is not a multiple of 8 images per pass x 2 ranks = 16"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    batch: int, ranks: int, micro: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        plan_batches(batch, ranks, micro)


def test_an_epoch_has_whole_batches_only() -> None:
    assert steps_per_epoch(100, 32) == 3
    assert steps_per_epoch(32, 32) == 1
    with pytest.raises(ValueError, match="31 images do not fill one batch of 32; .* at most 31"):
        steps_per_epoch(31, 32)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_image_is_evaluated_once_in_chunks_that_ranks_do_not_change(ranks: int) -> None:
    alone = rank_chunks(103, 10, 0, 1)

    shared = [chunk for rank in range(ranks) for chunk in rank_chunks(103, 10, rank, ranks)]

    assert sorted(shared, key=lambda chunk: chunk.start) == [*alone]
    assert [index for chunk in alone for index in chunk] == [*range(103)]
