"""Which texts are ids, with any version of Python."""

import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.bundle.files import id_rule
from onward.bundle.files.id_rule import checked_id, id_fault, is_valid_id, stored_id_fault
from tests.bundle.files.id_verdicts import digest

VERDICTS = "9ecf7b00307314df"
"""The digest of all verdicts, the same with any version of Python."""
PYTHONS = [name for name in ("python3.11", "python3.12", "python3.13", "python3.14") if shutil.which(name)]

IDS = {
    "one character": "x",
    "the longest": "x" * 128,
    "the longest in bytes": "\U0001f600" * 128,
    "a space": "SKU 123",
    "spaces around": " a ",
    "a no-break space": "no-break\u00a0space",
    "an emoji of four people": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "a flag by tags": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "a zero width non-joiner": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "an emoji of Unicode 16": "\U0001fae9",
    "an unassigned character": "\U0001faef\u0378",
    "private use": "\uf8ff",
    "composed": "\u00e9",
    "Hangul syllables": "\ud55c\uad6d\uc5b4",
    "signs of URLs, CSV and JSON": "a/b?c=d&e#f;g,h\"i'j\\k%2Fl+m{n}o",
}
FAULTS = {
    "": "an id has 1 to 128 characters",
    "x" * 129: "an id has 1 to 128 characters",
    "a\x07": "an id may not have U+0007, a control character",
    "a\n": "an id may not have U+000A, a control character",
    "\x7f": "an id may not have U+007F, a control character",
    "a\x85b": "an id may not have U+0085, a control character",
    "a\u2028b": "an id may not have U+2028, a line separator",
    "a\u2029b": "an id may not have U+2029, a paragraph separator",
    "\ud83d": "an id may not have U+D83D, a surrogate",
    "\ufdd0": "an id may not have U+FDD0, a noncharacter",
    "\U0010ffff": "an id may not have U+10FFFF, a noncharacter",
    "\ufeffa": "an id may not have U+FEFF, the byte order mark",
    "a\ufffd": "an id may not have U+FFFD, which stands for bytes that were not UTF-8",
    "e\u0301": "an id may not have U+0301 where Unicode normalization (NFC) would change it",
    "x\U0001fae9 e\u0301": "an id may not have U+0301 where Unicode normalization (NFC) would change it",
    "\u212b": "an id may not have U+212B where Unicode normalization (NFC) would change it",
    "a\u0301\u0323": "an id may not have U+0301 where Unicode normalization (NFC) would change it",
    "x\u0301\u0323": "an id may not have U+0323 where Unicode normalization (NFC) would change it",
}


@pytest.mark.parametrize("value", IDS.values(), ids=IDS)
def test_any_text_of_one_line_is_an_id(value: str) -> None:
    assert id_fault(value) is None
    assert is_valid_id(value)
    assert checked_id(value) == value
    assert stored_id_fault(value) is None


@pytest.mark.parametrize(("value", "fault"), FAULTS.items(), ids=map(ascii, FAULTS))
def test_a_fault_names_the_character(value: str, fault: str) -> None:
    assert id_fault(value) == fault
    assert not is_valid_id(value)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # its whole text is compared
        checked_id(value)
    assert str(refused.value) == fault


@given(st.text(max_size=140))
def test_an_id_is_in_nfc_as_far_as_unicode_3_2_knows_it(value: str) -> None:
    known = "".join("?" if unicodedata.ucd_3_2_0.category(char) == "Cn" else char for char in value)
    forbidden = any(
        unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or ord(char) & 0xFFFE == 0xFFFE or char in "\ufeff\ufffd"
        for char in value
    ) or any("\ufdd0" <= char <= "\ufdef" for char in value)
    expected = 0 < len(value) <= 128 and not forbidden and unicodedata.is_normalized("NFC", known)
    assert is_valid_id(value) == (id_fault(value) is None) == expected


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=128))
def test_every_id_by_the_rule_of_0_1_is_accepted_in_files(value: str) -> None:
    assert stored_id_fault(value) is None


def test_the_rule_is_the_same_with_these_unicode_tables() -> None:
    assert digest(id_fault) == VERDICTS


@pytest.mark.parametrize("python", PYTHONS)
def test_the_rule_is_the_same_with_every_python(python: str) -> None:
    if subprocess.run([python, "--version"], capture_output=True).returncode:
        pytest.skip(f"{python} does not run")
    script = Path(__file__).with_name("id_verdicts.py")
    run = subprocess.run([python, script, id_rule.__file__], capture_output=True, text=True, check=True)
    assert run.stdout == VERDICTS


def test_the_rule_needs_the_standard_library_alone() -> None:
    imports = [line.split()[1] for line in Path(id_rule.__file__).read_text().splitlines() if line.startswith("import")]
    assert set(imports) <= sys.stdlib_module_names
