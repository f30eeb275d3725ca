"""Write the reliability page: `python -m tests.faults.report docs/reliability --out docs/reliability.md`.

The page is generated from docs/reliability/faults.json, which `make faults` writes, and from docs/reliability/soak.json
if `python -m tests.faults.soak` has written it.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.faults.row import CHAPTERS, Row

HEAD = """# Reliability

What happens to callers when something goes wrong, as the callers see it: every row is a test in `tests/faults` that
runs the service as real processes, sends it events and requests for recommendations in turn, makes the fault happen,
and fails if the promise is broken. `make faults` runs all of them (about 6 minutes) and writes this page; CI runs them
too. Faults that need no load are part of `make test`. Measured on {machine}.

*Degraded* answers have status 200 and name what they were made without. *Refused* are 503 and 429: nothing was stored.
*Failed* are all others: lost connections, and any other status. *Lost* are events that were acknowledged and are not in
their session afterwards. *Recovered* is the time from the end of the fault to the last answer that was degraded,
refused or failed. A dash: not counted, or it does not apply.
"""
COLUMNS = ("fault and promise", "requests", "degraded", "refused", "failed", "lost", "p99", "worst", "recovered")


def page(rows: Sequence[Row], machine: str, soak: dict[str, Any] | None) -> str:
    """Return the page as Markdown."""
    chapters = (f"## {name}\n\n{table(row for row in rows if row.chapter == name)}" for name in CHAPTERS)
    parts = [HEAD.format(machine=machine), *chapters]
    if soak is not None:
        parts.append(soak_section(soak))
    return "\n".join(parts)


def table(rows: Iterable[Row]) -> str:
    """Return the rows of a chapter as a table; a broken promise is marked in bold."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|" + "--:|" * (len(COLUMNS) - 1)]
    for row in rows:
        text = f"**{_capitalized(row.fault)}.** {_capitalized(row.promise)}."
        if row.observed:
            text += f" *{_capitalized(row.observed)}.*"
        if not row.kept:
            text += " **Not kept.**"
        elif not row.in_time:
            text += " **Slower than promised.**"
        figures = [
            _whole(row.requests),
            _whole(row.degraded),
            _whole(row.refused),
            _whole(row.failed),
            _whole(row.lost),
        ]
        times = [_with_unit(row.p99_ms, "ms"), _with_unit(row.worst_ms, "ms"), _with_unit(row.recovered_s, "s")]
        lines.append(f"| {' | '.join([text, *figures, *times])} |")
    return "\n".join(lines) + "\n"


def soak_section(soak: dict[str, Any]) -> str:
    """Return the section on the long run."""
    measured = ("rss_mib", "descriptors", "threads", "p99_ms")
    grown = {name: f"{soak[name][0]:,.0f} to {soak[name][1]:,.0f}" for name in measured}
    return f"""## {soak["minutes"]:.0f} minutes at half load

`python -m tests.faults.soak --minutes {soak["minutes"]:.0f}`: two workers at {soak["rate_per_s"]:.0f} requests/s, with
{soak["swaps"]} bundle swaps, {soak["store_restarts"]} restarts of the store, {soak["catalog_changes"]:,} changes of
items and {soak["killed_workers"]} killed worker. Of {soak["requests"]:,} requests {soak["degraded"]:,} were degraded,
{soak["refused"]:,} refused and {soak["failed"]:,} failed; {soak["crossed"]} answers were crossed. From the first to the
last fifth of the time, resident memory went from {grown["rss_mib"]} MiB, file descriptors from {grown["descriptors"]},
threads from {grown["threads"]}, and the p99 from {grown["p99_ms"]} ms. {soak["note"]}

![Memory, descriptors, threads and p99 over time](reliability/soak.png)
"""


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _whole(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _with_unit(number: float | None, unit: str) -> str:
    return "-" if number is None else f"{number:g} {unit}"


def main(
    records: Annotated[Path, typer.Argument(exists=True, help="Folder with faults.json and soak.json.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The page to write.")],
) -> None:
    """Write the reliability page."""
    recorded = json.loads((records / "faults.json").read_text())
    soak_file = records / "soak.json"
    soak = json.loads(soak_file.read_text()) if soak_file.exists() else None
    out.write_text(page([Row(**row) for row in recorded["rows"]], recorded["machine"], soak))


if __name__ == "__main__":
    typer.run(main)
