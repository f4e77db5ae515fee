"""Cards of what a person has at hand: runs, conversions, and records with their files."""

from dataclasses import replace
from pathlib import Path

from wszoo.cards.finetuned_folder import write_finetuned
from wszoo.cards.folder import CARD, copy_into, prepare, write_config
from wszoo.cards.pretrained import is_pretrained_run, write_pretrained
from wszoo.cards.published import render_card
from wszoo.cards.results import RESULTS, read_results
from wszoo.cards.words import Words, Written
from wszoo.files import sha256_of
from wszoo.finetune.outputs import FOLDER, output_folder, require_output
from wszoo.origin import ORIGIN_FILE
from wszoo.weights import WEIGHTS_FILE, Weights, locate, record_of
from wszoo.weights_file import check_file


def write_run_card(
    run: Path, output: Path | None = None, *, words: Words | None = None, examples: bool = False
) -> Written:
    """Make the folder of a run's net one for the Hub: card, configuration, weights, pictures.

    Args:
        run: A finished run of ``wszoo finetune`` or ``train.pretrain``.
        output: Folder to write; ``RUN/model`` where None.
        words: What only a person can say.
        examples: Show photos of the data, too (of a fine-tuned net).

    Raises:
        FileNotFoundError: There is no such run, or it is not finished.
        FileExistsError: The folder holds what is not part of a card.
        ValueError: The run is damaged, or of a net that is not of this zoo, or ``words`` state
            another licence than that of the weights it began with.
        OSError: The folder cannot be written.
    """
    words = words or Words()
    if is_pretrained_run(run):
        folder = output or run / FOLDER
        prepare(folder)
        lacking = write_pretrained(run, folder, words)
    else:
        _refuse_published(run)
        folder = output or require_output(run)
        prepare(folder)
        lacking = write_finetuned(run, folder, words, examples=examples)
    return _written(folder, lacking)


def _refuse_published(folder: Path) -> None:
    name = folder.resolve().name
    record = record_of(name)
    if record and record.name == name and folder.is_dir() and output_folder(folder) is None:
        raise FileNotFoundError(
            f"{folder} holds no run, but published weights; their card is that of the name: "
            f"`wszoo card {name}`"
        )


def write_record_card(weights: Weights, cards: Path, output: Path) -> Written:
    """Write the card of a record and its files, fetched if need be, into a folder to push.

    Args:
        weights: The record.
        cards: Folder that holds ``<model.tag>/results.json`` and pictures, for weights of this zoo.
        output: Folder to write.

    Raises:
        FileNotFoundError: Weights or results are nowhere to be found.
        FileExistsError: The folder holds what is not part of a card.
        ConnectionError: The weights could not be fetched.
        OSError: The folder cannot be written.
    """
    text = record_card(weights, cards)
    path = cards / weights.name / WEIGHTS_FILE
    if path.is_file():
        check_file(path, sha256=weights.sha256, dtype=weights.dtype)
    else:
        path = locate(weights)
    prepare(output)
    beside = [path, path.with_name(ORIGIN_FILE)]
    if weights.origin is None:
        beside += [cards / weights.name / RESULTS, *(cards / weights.name).glob("*.png")]
    copy_into(output, [file for file in beside if file.exists()])
    write_config(output, replace(weights, sha256=sha256_of(output / WEIGHTS_FILE)))
    (output / CARD).write_text(text, encoding="utf-8")
    return _written(output)


def record_card(weights: Weights, cards: Path) -> str:
    """The card of a record.

    Args:
        weights: The record.
        cards: As for ``write_record_card``.

    Raises:
        FileNotFoundError: Weights of this zoo have no results there.
    """
    folder = cards / weights.name
    return render_card(weights, {} if weights.origin else read_results(folder))


def _written(folder: Path, lacking: tuple[str, ...] = ()) -> Written:
    names = sorted(path.name for path in folder.iterdir())
    return Written(folder=folder, files=tuple(names), missing=lacking)
