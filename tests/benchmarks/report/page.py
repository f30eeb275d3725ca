"""The page of performance: Markdown and pictures, made of records alone."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from tests.benchmarks.report.aims import CORES, aims_table
from tests.benchmarks.report.catalogs import CATALOGS
from tests.benchmarks.report.encoders import ENCODERS
from tests.benchmarks.report.engines import ENGINES
from tests.benchmarks.report.filters import FILTERS
from tests.benchmarks.report.markdown import ABSENT, table
from tests.benchmarks.report.parts import PARTS
from tests.benchmarks.report.peers import PEERS
from tests.benchmarks.report.record import Record
from tests.benchmarks.report.records import read_records
from tests.benchmarks.report.redis_calls import REDIS_CALLS
from tests.benchmarks.report.serving import SERVING
from tests.benchmarks.report.stages import STAGES

SECTIONS = (PEERS, SERVING, STAGES, PARTS, CATALOGS, FILTERS, ENGINES, ENCODERS, REDIS_CALLS)


def write_page(folder: Path, page: Path) -> int:
    """Write the page, and pictures beside the records, and return how many records it tells of.

    Raises InputError where a record is damaged.
    """
    records = read_records(folder)
    sections = [section.text(records, folder, page) for section in SECTIONS]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        "\n\n".join([_head(folder, page), _aims(records), *sections, _elsewhere()]) + "\n", encoding="utf-8"
    )
    return len(records)


def _head(folder: Path, page: Path) -> str:
    return f"""# Performance

Made by `python -m tests.benchmarks.report {quote(folder.as_posix())} --out {quote(page.as_posix())}` from the records
there, each the line of JSON that a benchmark printed; do not edit.

How to read it: the load generator and the session store share the cores with what is measured, as they would on a
small machine of one's own, so processor time and ratios say more than times by the clock. What is compared takes turns
in one run, round by round; a ratio is the median of the rounds' ratios, other figures are medians of rounds. Beside
every latency of a search stands its recall@20, the share of the 20 nearest items that it finds: without it a latency
says nothing. Figures of different records were taken at different times."""


def _aims(records: Sequence[Record]) -> str:
    return "\n\n".join(
        [
            "## Measured on",
            _machines(records) if records else "Nothing is measured yet.",
            "## Aims",
            f"On {CORES} cores; records of machines with more or fewer are not asked. An aim that is missed leads to "
            "the figures that explain it.",
            aims_table(records),
        ]
    )


def _machines(records: Sequence[Record]) -> str:
    """A row for each machine and code, with the libraries that its records name."""
    grounds: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for one in records:
        ground = (one.processor, str(one.cores), f"{one.memory_gib:g} GiB", one.python, one.commit or ABSENT)
        grounds[ground].append(one)
    head = ["processor", "cores", "memory", "Python", "commit", "libraries", "records"]
    rows = [[*ground, _libraries(own), ", ".join(one.file for one in own)] for ground, own in grounds.items()]
    return table(head, rows)


def _libraries(records: Sequence[Record]) -> str:
    """Each library with its version, or versions where records differ."""
    versions: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for library, version in record.versions.items():
            if version not in versions[library]:
                versions[library].append(version)
    return ", ".join(f"{library} {' / '.join(found)}" for library, found in sorted(versions.items()))


def _elsewhere() -> str:
    return (
        "## Published elsewhere\n\nOther models on other machines: points of reference, not comparisons.\n\n"
        + table(
            ["system", "what", "figures", "source"],
            [
                [
                    "Serenade",
                    "session kNN in Rust, 6.5M items, two vCPU",
                    "p90 < 7 ms at 1,000 requests/s",
                    "Kersbergen et al., SIGMOD 2022",
                ],
                [
                    "ETUDE study",
                    "neural session models behind common servers",
                    "asks 1,000 requests/s at p90 ≤ 50 ms; needs five T4 GPUs for 10M items",
                    "the ETUDE study of bol.com",
                ],
            ],
        )
    )
