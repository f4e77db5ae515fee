import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wszoo.datasets.quarantine import read_quarantine
from wszoo.finetune.reader import Reader
from wszoo.training.runlog import RunLog

NAMES = [f"photos/{number}.png" for number in range(12)]
few_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")


class Numbers:
    """Each photo's number, with the random number that it was augmented by."""

    def __init__(self, *broken: int) -> None:
        self.broken = broken

    def __call__(
        self, index: int, generator: np.random.Generator | None
    ) -> tuple[int, float | None]:
        if index in self.broken:
            raise ValueError(f"cannot decode {NAMES[index]}: it is empty")
        return index, None if generator is None else generator.random()


def reader(
    log: RunLog, *broken: int, workers: int = 0, seed: int = 0
) -> Reader[tuple[int, float | None]]:
    return Reader(Numbers(*broken), NAMES, seed=seed, workers=workers, log=log)


def batches(first: int = 0) -> Iterator[np.ndarray]:
    order = np.array([5, 3, 11, 0, 7, 1, 2, 4, 10, 6, 9, 8])
    return iter(order.reshape(4, 3)[first:])


def test_samples_follow_from_seed_epoch_and_index_alone(log: RunLog) -> None:
    one = reader(log)

    whole = [*one.load(0, batches())]

    assert [[index for index, _ in batch] for batch in whole] == [[*b] for b in batches()]
    assert len({number for batch in whole for _, number in batch}) == 12
    assert [*one.load(0, batches())] == whole
    assert [*one.load(0, batches(first=2))] == whole[2:]
    assert [*one.load(0, iter([np.array([3])]))] == [[whole[0][1]]]
    for other in ([*one.load(1, batches())], [*reader(log, seed=1).load(0, batches())]):
        assert not {number for batch in other for _, number in batch} & {
            number for batch in whole for _, number in batch
        }


@few_cores
def test_worker_processes_change_nothing(log: RunLog) -> None:
    alone, helped = reader(log, 5, 0), reader(log, 5, 0, workers=2)

    for epoch in (0, 1):
        assert [*helped.load(epoch, batches())] == [*alone.load(epoch, batches())]
    assert [*helped.load_plain(range(4))] == [*alone.load_plain(range(4))]
    helped.close()


@few_cores
def test_an_epoch_that_was_left_early_leaves_nothing_to_the_next(log: RunLog) -> None:
    helped = reader(log, workers=2)

    next(helped.load(0, batches()))

    assert [*helped.load(1, batches())] == [*reader(log).load(1, batches())]
    helped.close()


def test_the_next_photo_takes_the_place_of_one_that_cannot_be_read(log: RunLog) -> None:
    one = reader(log, 2, 3, 11)

    [batch] = one.load(0, iter([np.array([2, 11, 7])]))

    assert [index for index, _ in batch] == [4, 0, 7]
    lines = (log.output / "quarantine.tsv").read_text().splitlines()
    assert lines[0] == "name\treason"
    assert lines[1:] == [
        f"{NAMES[index]}\tcannot decode {NAMES[index]}: it is empty" for index in (2, 11)
    ]
    events = [json.loads(line) for line in (log.output / "events.jsonl").read_text().splitlines()]
    assert [event["quarantined"] for event in events] == [NAMES[2], NAMES[11]]
    assert events[0]["event"].endswith("2.png: it is empty; the run goes on without it")


def test_in_evaluation_nothing_takes_its_place(log: RunLog) -> None:
    samples = [*reader(log, 1).load_plain(range(3))]

    assert samples == [(0, None), None, (2, None)]
    assert (log.output / "quarantine.tsv").read_text().startswith(f"name\treason\n{NAMES[1]}\t")


def test_a_photo_is_told_once_however_often_the_run_is_begun(log: RunLog) -> None:
    for _ in range(2):
        one = reader(log, 1)
        list(one.load(0, batches()))
        list(one.load(1, batches()))

    assert (log.output / "quarantine.tsv").read_text().count("\n") == 2
    assert (log.output / "events.jsonl").read_text().count("\n") == 1


def test_names_that_are_no_valid_text_are_written_down(tmp_path: Path) -> None:
    name = os.fsdecode(b"photos/\xff.png")
    log = RunLog(tmp_path, title="test", main=False)

    for _ in range(2):
        list(Reader(Numbers(0), [name, "b"], seed=0, workers=0, log=log).load_plain([0]))

    content = (tmp_path / "quarantine.tsv").read_bytes()
    assert content.startswith(b"name\treason\nphotos/\xff.png\tcannot")
    assert content.count(b"\n") == 2


def test_too_many_photos_that_cannot_be_read_end_the_run(log: RunLog) -> None:
    with pytest.raises(
        ValueError, match=r"11 of 12 photos cannot be read; \S+quarantine.tsv names them, the last"
    ):
        list(reader(log, *range(11)).load(0, batches()))


@few_cores
@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_of_which_nothing_can_be_read_is_refused_in_one_line(
    workers: int, log: RunLog
) -> None:
    few = Reader(Numbers(0, 1, 2), NAMES[:3], seed=0, workers=workers, log=log)

    with pytest.raises(ValueError, match=r"^no photo can be read; \S+quarantine.tsv tells why$"):
        list(few.load(0, iter([np.array([1, 2])])))
    few.close()


class Faulty:
    def __call__(self, index: int, generator: np.random.Generator | None) -> int:
        raise KeyError("a mistake in a program")


def test_mistakes_of_programs_are_not_taken_for_broken_photos(log: RunLog) -> None:
    with pytest.raises(KeyError, match="a mistake"):
        list(Reader(Faulty(), NAMES, seed=0, workers=0, log=log).load_plain([0]))


@few_cores
def test_workers_outlive_signals_and_end_with_their_reader(log: RunLog) -> None:
    one = reader(log, workers=2)
    loaded = one.load(0, batches())
    next(loaded), next(loaded)  # one of each, so both have begun
    iterator = one._loader._iterator
    assert iterator is not None
    processes = iterator._workers  # type: ignore[attr-defined]
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGINT)

    assert len([*loaded]) == 2
    one.close()

    for process in processes:
        process.join(10)
        assert not process.is_alive()


@few_cores
def test_a_reader_that_was_never_used_closes(log: RunLog) -> None:
    reader(log, workers=2).close()
    reader(log).close()


def test_what_a_run_wrote_down_can_be_left_out_of_the_next(log: RunLog) -> None:
    list(reader(log, 2, 11).load_plain(range(12)))

    assert read_quarantine(log.output / "quarantine.tsv") == {NAMES[2], NAMES[11]}


class Lost:
    """Photos on a server that is gone."""

    def __call__(self, index: int, generator: np.random.Generator | None) -> int:
        if index == 7:
            raise ConnectionError("cannot fetch http://host/shard-000003.tar: status 404")
        return index


@few_cores
@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_gives_no_more_ends_the_run_in_its_own_words(
    workers: int, log: RunLog
) -> None:
    one = Reader(Lost(), NAMES, seed=0, workers=workers, log=log)

    with pytest.raises(ConnectionError, match=r"^cannot fetch http://host/shard-000003.tar: st"):
        list(one.load(0, iter([np.array([1, 7])])))
    with pytest.raises(ConnectionError, match="^cannot fetch "):
        list(one.load_plain([7]))

    assert not (log.output / "quarantine.tsv").exists()
    one.close()
