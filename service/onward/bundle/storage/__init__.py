"""Object stores: addresses such as s3://shop/bundles, and what is read from and written to them."""

from onward.bundle.storage.address import Address, AddressError, Place, local_path, place_of
from onward.bundle.storage.object_store import (
    Changed,
    Listed,
    Missing,
    ObjectStore,
    StorageError,
    Stored,
    Version,
    run_together,
)

__all__ = [
    "Address",
    "AddressError",
    "Changed",
    "Listed",
    "Missing",
    "ObjectStore",
    "Place",
    "StorageError",
    "Stored",
    "Version",
    "local_path",
    "place_of",
    "run_together",
]
