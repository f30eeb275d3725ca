"""mosec without batching: its Rust server before one Python worker process.

One stage with num=1, a query at a time, JSON in and out by orjson: one pipeline of redis-py, one run of the bundle's
ONNX program and one search of the bundle's FAISS index for each.
"""

from typing import Any

from mosec import Server

from tests.benchmarks.peers.apps.mosec_server import Recommender


class Single(Recommender):
    """One query -> its answer."""

    def forward(self, data: Any) -> Any:
        return super().forward([data])[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Single, num=1, route="/recommendations")
    server.run()
