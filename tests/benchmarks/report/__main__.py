"""Write the performance page: `python -m tests.benchmarks.report docs/performance --out docs/performance.md`.

The page, and the plots beside the records, are generated from the output of the benchmarks: one JSON file each.
"""

from pathlib import Path
from typing import Annotated

import typer

from onward.training.errors import InputError
from tests.benchmarks.report.page import write_page

cli = typer.Typer(add_completion=False)


@cli.command()
def main(
    records: Annotated[Path, typer.Argument(help="Folder with the output of benchmarks, one *.json each.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The page to write.")],
) -> None:
    """Write the performance page from the records of the benchmarks."""
    try:
        count = write_page(records, out)
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{out}: generated from {count} record{'s' * (count != 1)}")


if __name__ == "__main__":
    cli()
