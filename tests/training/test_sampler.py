import numpy as np
import pytest

from wszoo.training.sampler import epoch_order, epoch_uniforms


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_the_order_of_an_epoch_is_a_permutation(length: int) -> None:
    assert sorted(epoch_order(3, 5, length).tolist()) == list(range(length))


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    first = epoch_order(3, 5, 100)
    np.random.default_rng(0).random(7)
    epoch_order(8, 8, 10)

    np.testing.assert_array_equal(epoch_order(3, 5, 100), first)


def test_the_order_stays_the_same_from_release_to_release() -> None:
    assert epoch_order(0, 0, 8).tolist() == [3, 6, 4, 0, 7, 5, 2, 1]


def test_other_seeds_and_epochs_give_other_orders_and_numbers() -> None:
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]

    orders = {tuple(epoch_order(*pair, 50)) for pair in pairs}
    numbers = {epoch_uniforms(*pair, 5, 3).tobytes() for pair in pairs}

    assert len(orders) == len(numbers) == len(pairs)


def test_the_numbers_of_an_image_do_not_depend_on_how_many_images_there_are() -> None:
    few = epoch_uniforms(1, 2, 7, 5)
    many = epoch_uniforms(1, 2, 1000, 5)

    np.testing.assert_array_equal(many[:7], few)


def test_the_numbers_of_images_differ_and_are_spread_over_0_to_1() -> None:
    numbers = epoch_uniforms(1, 2, 2000, 5)

    assert numbers.shape == (2000, 5)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert len(np.unique(numbers, axis=0)) == 2000
    np.testing.assert_allclose(numbers.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(numbers.T), np.eye(5), atol=0.08)


def test_crops_do_not_follow_from_the_order() -> None:
    order = epoch_order(0, 0, 2000)
    numbers = epoch_uniforms(0, 0, 2000, 1)[:, 0]

    assert abs(np.corrcoef(order, numbers)[0, 1]) < 0.08
