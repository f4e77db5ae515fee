import numpy as np
import pytest

from wszoo.training.sampler import (
    Purpose,
    epoch_order,
    epoch_uniforms,
    sample_generator,
    sample_uniforms,
)


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


def test_the_numbers_of_an_epoch_stay_the_same_from_release_to_release() -> None:
    expected = np.array([[0.19914067, 0.9645594], [0.83673424, 0.3800996]], np.float32)

    np.testing.assert_array_equal(epoch_uniforms(0, 0, 2, 2), expected)


def test_the_numbers_of_an_image_stay_the_same_from_release_to_release() -> None:
    numbers = sample_generator(1, 2, 3, Purpose.MIXING).random(2)

    assert numbers.tolist() == [0.4116958418109472, 0.9671339904177656]


def test_purposes_keep_the_numbers_that_begun_runs_know_them_by() -> None:
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "ORDER": 0,
        "AUGMENT": 1,
        "MIXING": 2,
        "RANDAUGMENT": 3,
        "ERASE": 4,
    }


def test_the_stream_of_an_image_does_not_depend_on_what_ran_before() -> None:
    first = sample_generator(3, 5, 7, Purpose.AUGMENT).random(9)
    np.random.default_rng(0).random(7)
    sample_generator(3, 5, 8, Purpose.AUGMENT).random(1000)

    np.testing.assert_array_equal(sample_generator(3, 5, 7, Purpose.AUGMENT).random(9), first)


def test_no_two_streams_have_a_number_in_common() -> None:
    """Each differs from the first in one argument only; the last two in a word far up."""
    streams = [(0, 0, 0, purpose) for purpose in Purpose]
    streams += [(1, 0, 0, Purpose.ORDER), (0, 1, 0, Purpose.ORDER), (0, 0, 1, Purpose.ORDER)]
    streams += [(2**40, 0, 0, Purpose.ORDER), (0, 0, 2**40, Purpose.ORDER)]

    numbers = [sample_generator(*stream).integers(2**63, size=1000) for stream in streams]

    together = np.concatenate(numbers)
    assert len(np.unique(together)) == len(together) == 1000 * (len(Purpose) + 5)


def test_neighbouring_images_draw_independently() -> None:
    numbers = sample_uniforms(0, 0, np.arange(4000), 3, Purpose.MIXING)

    np.testing.assert_allclose(numbers.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(numbers.var(axis=0), 1 / 12, atol=0.005)
    np.testing.assert_allclose(np.corrcoef(numbers.T), np.eye(3), atol=0.06)
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 0.06


def test_numbers_of_several_images_are_the_first_of_each_stream() -> None:
    indices = np.array([5, 0, 2**40, 5, 99_999])

    together = sample_uniforms(1, 2, indices, 7, Purpose.ERASE)

    alone = [sample_generator(1, 2, int(index), Purpose.ERASE).random(7) for index in indices]
    np.testing.assert_array_equal(together, np.stack(alone))
    assert sample_uniforms(1, 2, indices[:0], 7, Purpose.ERASE).shape == (0, 7)


@pytest.mark.parametrize(
    ("seed", "epoch", "index"), [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (2**64, 0, 0)]
)
def test_what_does_not_fit_into_the_counter_is_refused(seed: int, epoch: int, index: int) -> None:
    said = rf"must be in 0\.\.2\*\*64-1, got {seed}, {epoch} and {index}"

    with pytest.raises(ValueError, match=said):
        sample_generator(seed, epoch, index, Purpose.AUGMENT)
    if index < 0:
        with pytest.raises(ValueError, match=said):
            sample_generator(seed, epoch, np.int64(index), Purpose.AUGMENT)
        with pytest.raises(ValueError, match=said):
            sample_uniforms(seed, epoch, np.array([3, index]), 1, Purpose.AUGMENT)
