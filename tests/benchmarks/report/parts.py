"""The section on the cost of each part of a request in the running service."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tests.benchmarks.report.markdown import figure, table
from tests.benchmarks.report.record import Record, RecordPart
from tests.benchmarks.report.section import Section

LABELS = {
    "body read and validated": "body parsed and validated",
    "answer found: store, encoder, index, items, record": "recommender: store, encoder, index, items, record",
    "events told to counters and popularity": "counters and popularity updated",
    "record of the answer": "answer recorded",
    "answer in JSON": "answer serialized",
}
"""What the page calls parts whose names in records need explanation."""

DISCUSSION = """\
HTTP is the smallest part. The session store, the search, the encoder and the recording of the answer are nearly half
of a request; the rest is Python between them, in many functions of which none takes more than 3 %. According to
`perf record -e cpu-clock`, 63 % of the time is spent inside the interpreter, 9 % in the system, 7 % in FAISS, 4 % in
the kernel of the encoder and 4 % in pydantic. Much of it is waiting for memory: called in a loop by themselves, the
same steps take about half as long, and an interpreter that runs a loop of plain Python a quarter faster hardly makes
a request cheaper. A request by itself costs about three times as much as one of sixteen: after each wait for the
network, the code of a request has left the processor's caches. The first request after a pause is processed alone,
which is why sixteen connections are served as one request and a micro-batch of fifteen.

Tried without gain, and left out: running the coroutines of requests by hand, without a task and a future for each; a
kernel that adds two messages at a time; serializing all answers of a micro-batch before the first is sent; other
settings of the garbage collector. A kernel that prefetches its rows of the table and multiplies with hand-written
vector instructions takes a sixth less for 20 items, and so 1 % less for a request, for eighty lines of instructions
instead of loops.

The servers against which aims are missed spend their time elsewhere. mosec with batches has HTTP and its queue in
Rust, on the other core; its Python parses JSON, reads an array and writes JSON for each request, but stores no
answers, counts nothing and has no attributes. Ray Serve is measured in its high-throughput mode, behind HAProxy."""


class PartCost(RecordPart):
    """How much less a request costs without a part."""

    cpu_us: float
    share: float
    middle_half_us: tuple[float, float]
    """The first and third quartiles of the rounds."""


class Parts(Record):
    """A record of the costs of parts."""

    benchmark: Literal["parts"]
    items: int
    connections: int
    rounds: int
    cpu_us_per_request: float
    parts: Mapping[str, PartCost] = Field(min_length=1)


def _tables(record: Parts) -> str:
    rows = [
        [
            LABELS.get(part, part),
            figure(cost.cpu_us),
            " to ".join(map(figure, cost.middle_half_us)),
            f"{cost.share:.0%}",
        ]
        for part, cost in record.parts.items()
    ]
    request = ["**a request**", f"**{figure(record.cpu_us_per_request)}**", "", ""]
    return table(["disabled part", "cost, µs", "middle half of the rounds, µs", "share of a request"], [*rows, request])


PARTS = Section(
    title="Cost of the parts of a request",
    introduction=(
        "An ablation: the running service with one part disabled, measured in turn with the complete service. The "
        "part's results for the first requests are replayed for all later ones. Unlike the stages above, which are "
        "called in a loop by themselves, these costs include what a part evicts from the caches, and the service's "
        "sleep where it waits. Some parts contain others; if the middle half of the rounds spans 0, the cost of a part "
        "is below what can be measured."
    ),
    kind=Parts,
    usage="python -m tests.benchmarks.parts BUNDLES",
    label=lambda record: f"{record.items:,} items, {record.connections} connections",
    command=lambda record: (
        f"python -m tests.benchmarks.parts BUNDLES --rounds {record.rounds} --connections {record.connections}"
    ),
    tables=_tables,
    discussion=DISCUSSION,
)
