"""Copy the files that an address names to this machine, to be read there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from onward.bundle.storage import Address, AddressError, ObjectStore, StorageError, place_of, run_together
from onward.training.errors import InputError

FILES_AT_ONCE = 8


def local_files(argument: str, scratch: Path, is_wanted: Callable[[str], bool]) -> Path:
    """Return the path that an argument names; of an address a copy below `scratch`.

    An address is that of one object, or of a folder with all objects below it of whose names `is_wanted` is true.

    Raises InputError.
    """
    try:
        place = place_of(argument)
        return place if isinstance(place, Path) else _copied(place, scratch, is_wanted)
    except (AddressError, StorageError) as error:
        raise InputError(str(error)) from error


@contextmanager
def local_file(argument: str) -> Iterator[str]:
    """Yield the path of the file that an argument names; of an address a temporary copy. Raises InputError.

    InputErrors of the block name the argument, not the copy.
    """
    with TemporaryDirectory(prefix="onward-file-") as scratch:
        path = local_files(argument, Path(scratch), lambda _name: False)
        if not path.is_relative_to(scratch):
            yield argument if path == Path(argument) else str(path)
            return
        try:
            yield str(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), argument)) from error


def _copied(address: Address, scratch: Path, is_wanted: Callable[[str], bool]) -> Path:
    folder = scratch / f"fetched-{len(list(scratch.iterdir()))}"
    folder.mkdir()
    store = ObjectStore(address)
    below = [found for found in store.list() if not found.name.endswith("/")]
    if not below:
        file = folder / address.name
        _parent(address).download(address.name, file)
        return file
    run_together(
        FILES_AT_ONCE,
        [partial(_download, store, found.name, folder, found.size) for found in below if is_wanted(found.name)],
    )
    return folder


def _download(store: ObjectStore, name: str, folder: Path, size: int) -> None:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise StorageError(f"{store.address / name}: no name of a file")
    file.parent.mkdir(parents=True, exist_ok=True)
    store.download(name, file, size)


def _parent(address: Address) -> ObjectStore:
    return ObjectStore(address._replace(key=address.key.rpartition("/")[0]))
