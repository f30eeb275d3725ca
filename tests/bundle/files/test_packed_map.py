"""A packed map equals a dict after any updates, and finds what differs between two."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from onward.bundle.files.packed_map import MAX_LEAF, PackedMap

keys = st.integers(0, 60).map(lambda number: f"key-{number}")
records = st.tuples(
    st.integers(-(2**60), 2**60), st.binary(max_size=9) | st.none(), st.dictionaries(st.text(), st.text())
)
steps = st.lists(st.tuples(st.dictionaries(keys, records, max_size=30), st.sets(keys, max_size=9)), max_size=6)


@settings(max_examples=40)
@given(steps=steps)
def test_a_packed_map_equals_a_dict(steps: list[tuple[dict[str, Any], set[str]]]) -> None:
    packed, expected = PackedMap[str, Any](), dict[str, Any]()
    for changed, removed in steps:
        before, known = packed, dict(expected)
        packed = packed.updated(changed, removed - changed.keys())
        expected = {key: record for key, record in (expected | changed).items() if key not in removed - changed.keys()}
        assert len(packed) == len(expected)
        assert dict(packed.records()) == expected
        assert all(packed[key] == record for key, record in expected.items())
        assert sorted(packed) == sorted(expected)
        assert dict(before.records()) == known
        differing = {key: (one, other) for key, one, other in before.differences(packed)}
        assert differing == {
            key: (known.get(key), expected.get(key))
            for key in known.keys() | expected.keys()
            if known.get(key) != expected.get(key)
        }


def test_integers_and_keys_of_equal_hashes_are_kept_apart() -> None:
    numbers = [*range(1_000), *(2**61 - 1 + number for number in range(3 * MAX_LEAF))]  # a hash is modulo 2**61 - 1
    packed = PackedMap[int, Any]().updated({number: (number,) for number in numbers})
    colliding = PackedMap[int, Any]().updated({(2**61 - 1) * number: number for number in range(3 * MAX_LEAF)})
    assert [packed[number] for number in numbers] == [(number,) for number in numbers]
    assert dict(colliding) == {(2**61 - 1) * number: number for number in range(3 * MAX_LEAF)}
    assert packed.get(-1) is None


def test_an_update_without_a_difference_gives_the_same_map() -> None:
    packed = PackedMap[str, Any]().updated({f"k{number}": (number, b"x") for number in range(500)})
    assert packed.updated({"k7": (7, b"x"), "k8": (8, b"x")}, ["unknown"]) is packed
    assert list(packed.differences(packed.updated({"k7": (8, b"x")}))) == [("k7", (7, b"x"), (8, b"x"))]
