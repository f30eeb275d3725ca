import os

from onward.bundle.memory import available_memory


def test_no_more_memory_is_available_than_the_machine_has() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
