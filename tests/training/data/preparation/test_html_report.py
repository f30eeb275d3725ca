import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from tests.training.data.conftest import Outcome, log


@pytest.mark.parametrize("split", ["temporal", "leave-one-out", "given"])
def test_the_report_is_one_page_with_the_account_charts_and_sessions(
    onward_training: Callable[..., Outcome], tmp_path: Path, split: str
) -> None:
    log({f"s{n}": "a b <c> a" for n in range(40)}).write_csv(tmp_path / "log.csv")
    (tmp_path / "items.csv").write_text("item_id,title\na,Cup & saucer\nb,Bowl\n")
    arguments = (tmp_path / "log.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "d", "--split", split)
    outcome = onward_training("prepare", *arguments, "--report", tmp_path / "report.html")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report.html").read_text()
    HTMLParser().feed(page)
    assert page.count("<svg") == 3
    assert "read: 160 rows of 1 files" in page
    assert "Cup &amp; saucer → Bowl → &lt;c&gt; → Cup &amp; saucer" in page
    assert 'events on an item that the session has had already</td><td class="n">25.0%' in page
    assert "highest bar: 40 sessions" in page
    assert not re.search(r"https?://|<script|<link", page)


def test_labels_of_days_do_not_meet(onward_training: Callable[..., Outcome], tmp_path: Path) -> None:
    log({f"s{n}": "a b c a" for n in range(40)}, minutes_apart=24 * 60).write_csv(tmp_path / "log.csv")
    arguments = ("prepare", tmp_path / "log.csv", "--out", tmp_path / "d", "--split", "given")
    assert onward_training(*arguments, "--report", tmp_path / "report.html").code == 0
    found = re.findall(
        r'<text x="([0-9.]+)" y="156">(2023-[0-9-]+|2024-[0-9-]+)<', (tmp_path / "report.html").read_text()
    )
    places = [float(place) for place, _ in found]
    assert len(places) >= 5
    assert min(after - before for before, after in pairwise(places)) > 60  # a date is as wide as this


def test_a_report_that_cannot_be_written_is_one_line(onward_training: Callable[..., Outcome], tmp_path: Path) -> None:
    log({f"s{n}": "a b c" for n in range(40)}).write_csv(tmp_path / "log.csv")
    outcome = onward_training(
        "prepare", tmp_path / "log.csv", "--out", tmp_path / "d", "--report", tmp_path / "nowhere" / "r.html"
    )
    assert outcome.code == 2
    assert "r.html: cannot be written" in outcome.err.splitlines()[-1]
