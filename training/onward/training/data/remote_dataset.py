"""Datasets at an address: written there by `prepare`, and read from a copy on this machine.

The copy lies in a cache, `ONWARD_CACHE` or `onward` in the user's cache folder, under a name that is made of its
content, so that a dataset that was replaced is copied anew. Copies that were not used for a week are removed.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from onward.bundle.storage import Address, Changed, Missing, ObjectStore, Place, StorageError
from onward.training.data.dataset import INFO_FILE, SOURCE_FILE, DatasetInfo, digest
from onward.training.errors import InputError

CACHE = "ONWARD_CACHE"
"""Environment variable of the folder of copies."""
UNUSED_S = 7 * 86_400


def local_dataset(data: Place) -> Path:
    """Return the folder of a dataset: a path itself, of an address a copy of it.

    Raises InputError if there is no dataset at the address, or it is damaged or just being replaced.
    """
    if isinstance(data, Path):
        return data
    try:
        return _copy(data, ObjectStore(data))
    except StorageError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{data}: cannot be copied to {_cache()}: {error.strerror}; {CACHE} names another") from error


@contextmanager
def written_dataset(out: Place, *, force: bool) -> Iterator[Path]:
    """Yield the folder to write a dataset to: a path itself, of an address a temporary one that is uploaded in the end.

    `dataset.json` is uploaded last. If the block raises, nothing is. Raises InputError if there is a dataset, and
    `force` is not set; or if another process writes one meanwhile.
    """
    if isinstance(out, Path):
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="onward-dataset-") as parent, _input_errors():
        store = ObjectStore(out)
        try:
            before = store.read(INFO_FILE).version
        except Missing:
            before = None
        if before is not None and not force:
            raise InputError(f"{out}: exists already; give --force to replace it")
        folder = Path(parent) / out.name
        yield folder
        files = sorted(folder.glob("*.parquet"))
        for file in files:
            store.upload(file, file.name)
        try:
            store.replace(INFO_FILE, (folder / INFO_FILE).read_bytes(), before)
        except Changed as error:
            raise InputError(f"{out}: another process has written it meanwhile; prepare it again") from error
        kept = {INFO_FILE, *(file.name for file in files)}
        store.delete([found.name for found in store.list() if _is_part(found.name) and found.name not in kept])


def _copy(address: Address, store: ObjectStore) -> Path:
    """Return the copy of a dataset, which is made unless there is one."""
    try:
        content = store.read(INFO_FILE).content
    except Missing as error:
        raise InputError(f"{address}: not a dataset, {error}; make one with prepare") from error
    folder = _cache() / sha256(f"{address}\n".encode() + content).hexdigest()[:32]
    if folder.exists():
        os.utime(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_unused(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        for found in store.list():
            if _is_part(found.name):
                store.download(found.name, temporary / found.name, found.size)
        _check(address, content, temporary)
        (temporary / INFO_FILE).write_bytes(content)
        (temporary / SOURCE_FILE).write_text(str(address), encoding="utf-8")
        if not folder.exists():  # another process may have been faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _check(address: Address, content: bytes, folder: Path) -> None:
    """Raise InputError unless the files are those that the content of `dataset.json` describes."""
    try:
        digests = DatasetInfo.model_validate_json(content).digests
    except ValidationError:
        return  # Dataset.open says what is wrong with it
    for name, expected in digests.items():
        if not (folder / name).exists() or digest(folder / name) != expected:
            raise InputError(f"{address}/{name}: is damaged, or is just being replaced; try again, or prepare it again")


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and "/" not in name


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "onward") / "datasets"


def _remove_unused(cache: Path) -> None:
    for folder in cache.iterdir():
        if time.time() - folder.stat().st_mtime > UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise InputError(str(error)) from error
