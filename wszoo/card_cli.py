"""The command ``wszoo card``: the README.md of weights or of a finished run."""

from pathlib import Path

import click

from wszoo.terminal import OneLineErrors, as_json, check_ours, check_trained, report


@click.command(cls=OneLineErrors)
@click.argument("target", metavar="RUN|NAME")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write: that of RUN (RUN/model by default) goes to the Hub with `wszoo push "
    "FOLDER --repo NAMESPACE/NAME`, that of NAME with `wszoo push`; without it, the card of NAME "
    "is printed.",
)
@click.option(
    "--cards",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where NAME/results.json is; by default model_cards of the package or the checkout.",
)
@click.option("--name", metavar="TEXT", help="Of the net of RUN.")
@click.option(
    "--license", metavar="SPDX", help="Of the weights of RUN; that of the weights it began with."
)
@click.option("--data-license", metavar="TEXT", help="Of the data of RUN; not stated by default.")
@click.option("--data-name", metavar="TEXT", help="What to call the data of RUN.")
@click.option("--examples", is_flag=True, help="Of RUN: show photos of the data, too.")
@as_json
def card(
    target: str,
    output: Path | None,
    cards: Path | None,
    name: str | None,
    license: str | None,
    data_license: str | None,
    data_name: str | None,
    examples: bool,
    as_json: bool,
) -> None:
    """Write the model card of RUN, the folder of a finished run, or of NAME, published weights.

    All of it comes from the record, the results, the recipe and the environment that the run left.
    """
    from wszoo.cards.folder import default_cards
    from wszoo.cards.run import record_card, write_record_card, write_run_card
    from wszoo.cards.words import NOT_STATED, Words
    from wszoo.weights import find

    if Path(target).is_dir():
        words = Words(
            name=name,
            license=license or NOT_STATED,
            data_license=data_license or NOT_STATED,
            data_name=data_name,
        )
        written = write_run_card(Path(target), output, words=words, examples=examples)
        report(as_json, written.to_json(), lambda: str(written))
        return
    if any((name, license, data_license, data_name, examples)):
        raise click.UsageError(
            "--name, --license, --data-license, --data-name and --examples are for runs; "
            "the card of published weights is made of their record"
        )
    weights = find(_published(target))
    cards = cards or default_cards() or Path("model_cards")
    if output is None:
        text = record_card(weights, cards)
        report(as_json, {"name": weights.name, "card": text}, lambda: text.rstrip())
        return
    written = write_record_card(weights, cards, output)
    report(as_json, written.to_json(), lambda: str(written))


def _published(target: str) -> str:
    try:
        return check_trained(check_ours(target))
    except click.BadParameter as error:
        raise click.BadParameter(
            f"there is no folder {target!r}, and {error.message}", param_hint="RUN|NAME"
        ) from error
