"""The command ``wszoo gallery``: the zoo as a page."""

from pathlib import Path

import click

from wszoo.terminal import CHECK_FAILED, OneLineErrors, as_json, fail, progress, report


@click.command(cls=OneLineErrors)
@click.argument("pattern", default="*", metavar="[GLOB]")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A new or empty folder, or that of an earlier gallery.",
)
@click.option(
    "--cards",
    "cards_folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Holds <model.tag>/README.md; by default model_cards of the package or the checkout.",
)
@click.option("--measure", is_flag=True, help="Time every model on this CPU first; takes minutes.")
@click.option(
    "--speed",
    "speed_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take the speeds that an earlier --measure left in speed.json; by default those of the "
    "machine that the package was made on.",
)
@as_json
def gallery(
    pattern: str,
    output: Path,
    cards_folder: Path | None,
    measure: bool,
    speed_file: Path | None,
    as_json: bool,
) -> None:
    """Write a page to look at: the zoo, or the part GLOB of it, in one HTML file."""
    if measure and speed_file:
        raise click.UsageError("--measure and --speed exclude each other; give one of them")
    from wszoo.cards.folder import default_cards
    from wszoo.gallery.cards import Cards
    from wszoo.gallery.rows import collect
    from wszoo.gallery.site import check_folder, write_site
    from wszoo.gallery.speed import PACKAGED, SPEEDS, read_speeds
    from wszoo.gallery.speed import measure as measure_speeds

    check_folder(output)  # before what takes minutes
    speeds = read_speeds(speed_file or PACKAGED)
    try:
        rows = collect(pattern)
    except ValueError as error:
        fail(error, CHECK_FAILED)
    if measure:
        speeds = measure_speeds(rows, progress=progress)
    cards = Cards(cards_folder or default_cards())
    site = write_site(output, rows, cards, speeds, measured=measure)
    earlier = output / SPEEDS
    if not (measure or speed_file) and earlier.is_file():
        click.echo(f"wszoo: {earlier} was not used; --speed {earlier} takes it", err=True)
    report(as_json, site.to_json(), lambda: str(site))
