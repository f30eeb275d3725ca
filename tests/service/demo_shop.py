"""The items of the synthetic shop of `make demo`, in a bundle that needs no training.

An item's vector is the sum of one random vector per word of its title, so items of the same colour or material are
similar.
"""

from pathlib import Path

import numpy as np

from onward.bundle import publish, stage
from onward.bundle.files.manifest import QUERIES
from onward.training.data.synthetic import Shop, generate
from tests.bundles import add_probes, write_files

DEMO_EVENTS, DEMO_SEED = 60_000, 1
DIMENSION = 32
SCALE = 1.5
QUERIES_KEPT = 10


def demo_shop() -> Shop:
    return generate(DEMO_EVENTS, seed=DEMO_SEED)


def publish_demo_shop(bundles: Path, shop: Shop) -> str:
    """Publish the shop's items and return the digest of the bundle."""
    items = shop.items.to_dicts()
    counts = dict(shop.events["item_id"].value_counts().iter_rows())
    words = [item["title"].split() for item in items]
    random = np.random.default_rng(1)
    vector_of = {word: random.normal(size=DIMENSION) for word in sorted({word for title in words for word in title})}
    vectors_ND = np.array([sum(vector_of[word] for word in title) for title in words], dtype=np.float32)
    vectors_ND *= SCALE / np.sqrt(DIMENSION)
    ids = [item.pop("item_id") for item in items]
    with stage(bundles) as folder:
        manifest = write_files(
            folder,
            ids,
            vectors_ND=vectors_ND,
            attributes=items,
            available=np.array([False, *(item["available"] for item in items)]),
            popularity=np.array([0, *(counts.get(item_id, 0) for item_id in ids)], dtype=np.float32),
        )
        np.save(folder / QUERIES, vectors_ND[:QUERIES_KEPT, np.newaxis])
        return publish(folder, add_probes(folder, manifest, ids), bundles)
