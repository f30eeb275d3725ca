"""The exports of shops, analytics and data sets that docs/your-data.md lists, each with a made-up file of its form.

Every file holds the sessions "a b c" and "b c", of the users or sessions u and v.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onward.training.data.dataset import Dataset
from tests.training.data.conftest import Outcome

CLICKS = [("u", "a", 0), ("u", "b", 60), ("u", "c", 120), ("v", "b", 10_000), ("v", "c", 10_060)]
START_S = 1_700_000_000
"""2023-11-14 22:13:20 UTC"""
DOCUMENT = Path(__file__).parents[4] / "docs" / "your-data.md"


@dataclass(frozen=True)
class Export:
    """A file, the options that its row of the table names, and the types of events that are left out."""

    name: str
    content: str
    options: tuple[str, ...] = ()
    left_out: int = 0


def clock(seconds: int, pattern: str = "{}:{}:{}") -> str:
    total = 22 * 3600 + 13 * 60 + 20 + seconds
    day, rest = divmod(total, 86_400)
    return f"2023-11-{14 + day} " + pattern.format(f"{rest // 3600:02}", f"{rest // 60 % 60:02}", f"{rest % 60:02}")


def text(header: str, row: Callable[[str, str, int], str]) -> str:
    lines = [row(user, item, START_S + offset) for user, item, offset in CLICKS]
    return "\n".join([*([header] if header else []), *lines]) + "\n"


def jsonl(row: Callable[[str, str, int], dict[str, Any]]) -> str:
    return text("", lambda *click: json.dumps(row(*click)))


def dated(header: str, row: Callable[[str, str, str], str]) -> str:
    lines = [row(user, item, clock(offset)) for user, item, offset in CLICKS]
    return "\n".join([header, *lines]) + "\n"


EXPORTS = {
    "Amazon reviews 2014, 2018": Export(
        "reviews.json",
        jsonl(
            lambda u, i, t: {"reviewerID": u, "asin": i, "overall": 5.0, "unixReviewTime": t, "style": {"Size:": "L"}}
        ),
    ),
    "Amazon reviews 2023": Export(
        "Beauty.jsonl",
        jsonl(
            lambda u, i, t: (
                {"rating": 5.0, "title": 'say "x"', "images": [], "asin": "child"}
                | {"parent_asin": i, "user_id": u, "timestamp": t * 1000, "helpful_vote": 0}
            )
        ),
    ),
    "REES46": Export(
        "2019-Nov.csv",
        dated(
            "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session",
            lambda u, i, t: f"{t} UTC,view,{i},2053,,samsung,489.07,5,{u}",
        ),
    ),
    "Retailrocket": Export(
        "events.csv",
        text("timestamp,visitorid,event,itemid,transactionid", lambda u, i, t: f"{t}000,{u},view,{i},"),
    ),
    "H&M": Export(
        "transactions_train.csv",
        "t_dat,customer_id,article_id,price,sales_channel_id\n"
        + "".join(f"2018-09-{20 if u == 'u' else 25},{u},{i},0.05,2\n" for u, i, _ in CLICKS),
        ("--gap", "12h"),
    ),
    "MovieLens (`.dat`)": Export("ratings.dat", text("", lambda u, i, t: f"{u}::{i}::5::{t}")),
    "MovieLens (`.csv`)": Export(
        "ratings.csv", text("userId,movieId,rating,timestamp", lambda u, i, t: f"{u},{i},5.0,{t}")
    ),
    "Gowalla": Export(
        "checkins.txt",
        "".join(f"{u}\t{clock(o).replace(' ', 'T')}Z\t30.2\t-97.7\t{i}\n" for u, i, o in CLICKS),
        ("--columns", "user_id,timestamp,latitude,longitude,item_id"),
    ),
    "Last.fm-1K": Export(
        "userid-timestamp.tsv",
        "".join(f'{u}\t{clock(o).replace(" ", "T")}Z\tx\tThe "Artist\t{i}\tA "song\n' for u, i, o in CLICKS),
        ("--columns", "user_id,timestamp,artist_id,artist,track_id,track"),
    ),
    "KuaiRec": Export(
        "big_matrix.csv",
        text(
            "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio",
            lambda u, i, t: f"{u},{i},13838,10867,2020-07-05 00:08:23.438,20200705,{t}.438,1.27",
        ),
    ),
    "Yelp": Export(
        "review.json",
        "".join(
            json.dumps({"review_id": "r", "user_id": u, "business_id": i, "stars": 3.0, "date": clock(o)}) + "\n"
            for u, i, o in CLICKS
        ),
    ),
    "Steam": Export(
        "recommendations.csv",
        "app_id,helpful,funny,date,is_recommended,hours,user_id,review_id\n"
        + "".join(f"{i},0,0,2022-12-{12 if u == 'u' else 14},true,36.3,{u},0\n" for u, i, _ in CLICKS),
        ("--gap", "12h"),
    ),
    "Goodreads": Export(
        "interactions.json",
        "".join(
            json.dumps(
                {
                    "user_id": u,
                    "book_id": i,
                    "date_added": f"{'Tue' if u == 'u' else 'Wed'} Nov {clock(o)[8:]} -0800 2017",
                }
            )
            + "\n"
            for u, i, o in CLICKS
        ),
    ),
    "Coveo": Export(
        "browsing_train.csv",
        text(
            "session_id_hash,event_type,product_action,product_sku_hash,server_timestamp_epoch_ms,hashed_url",
            lambda u, i, t: f"{u},event_product,detail,{i},{t}000,x",
        )
        + f"u,pageview,,,{START_S}500,x\n",
        left_out=1,
    ),
    "Globo": Export(
        "clicks_hour_000.csv",
        text(
            "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,click_environment",
            lambda u, i, t: f"9,{u},{t}000,2,{i},{t}000,4",
        ),
    ),
    "Trivago": Export(
        "train.csv",
        text(
            "user_id,session_id,timestamp,step,action_type,reference,platform,impressions",
            lambda u, i, t: f"9,{u},{t},{t - START_S + 1},clickout item,{i},AU,a|b|c",
        )
        + f"9,u,{START_S},1,search for destination,Sydney,AU,\n",
        ("--weights", "clickout item=3,interaction item image=1"),
        left_out=1,
    ),
    "GA4 (BigQuery)": Export(
        "events.jsonl",
        jsonl(
            lambda u, i, t: (
                {"event_date": "20231114", "event_timestamp": t * 10**6, "event_name": "view_item"}
                | {"user_pseudo_id": u, "event_params": [{"key": "page", "value": {"string_value": "x"}}]}
                | {"items": [{"item_id": i, "item_name": "n"}]}
            )
        )
        + json.dumps(
            {"event_date": "20231114", "event_timestamp": START_S * 10**6, "event_name": "view_item_list"}
            | {"user_pseudo_id": "u", "items": [{"item_id": "c", "item_name": "n"}, {"item_id": "a", "item_name": "n"}]}
        )
        + "\n",
        left_out=2,
    ),
    "Matomo": Export(
        "visits.json",
        json.dumps(
            [
                {
                    "idVisit": s,
                    "visitorId": "9",
                    "actionDetails": [
                        {"type": "action", "productViewSku": i, "timestamp": START_S + o}
                        for u, i, o in CLICKS
                        if u == s
                    ],
                }
                for s in ("u", "v")
            ]
        ),
    ),
    "Shopify": Export(
        "orders_export.csv",
        dated(
            "Name,Email,Created at,Lineitem quantity,Lineitem name,Lineitem sku",
            lambda u, i, t: f'#1,{u},{t} +0000,1,"Cup, ""L""",{i}',
        ),
    ),
    "Amazon Personalize": Export(
        "interactions.csv",
        text("USER_ID,ITEM_ID,EVENT_TYPE,TIMESTAMP", lambda u, i, t: f"{u},{i},click,{t}"),
    ),
    "Recombee": Export(
        "views.csv", dated("userId,itemId,timestamp", lambda u, i, t: f"{u},{i},{t.replace(' ', 'T')}Z")
    ),
    "Gorse": Export(
        "feedback.csv",
        dated(
            "feedback_type,user_id,item_id,time_stamp",
            lambda u, i, t: f"star,{u},{i},{t} +0000 UTC".replace(" UTC", ""),
        ),
    ),
    "Metarank": Export(
        "events.jsonl",
        jsonl(
            lambda u, i, t: (
                {"event": "interaction", "id": "x", "timestamp": str(t * 1000), "user": "9", "session": u}
                | {"type": "click", "item": i}
            )
        )
        + json.dumps({"event": "ranking", "timestamp": str(START_S * 1000), "session": "u", "items": [{"id": "a"}]})
        + "\n",
        left_out=1,
    ),
    "OTTO": Export(
        "train.jsonl",
        "".join(
            json.dumps(
                {
                    "session": s,
                    "events": [
                        {"aid": i, "ts": (START_S + o) * 1000, "type": "clicks"} for u, i, o in CLICKS if u == s
                    ],
                }
            )
            + "\n"
            for s in ("u", "v")
        ),
    ),
    "MIND": Export(
        "behaviors.tsv",
        "1\tu\t11/14/2023 9:05:58 AM\ta b\tc-1 b-0\n2\tv\t11/15/2023 9:05:58 PM\tb\tc-1\n",
        ("--format", "mind"),
        left_out=1,
    ),
    "RecBole": Export(
        "x.inter", text("user_id:token\titem_id:token\ttimestamp:float", lambda u, i, t: f"{u}\t{i}\t{t}.0")
    ),
    "RecBole (sessions)": Export(
        "x.train.inter",
        "session_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\nv\tb\tc\n",
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_read_as_the_documentation_says(
    onward_training: Callable[..., Outcome], tmp_path: Path, name: str
) -> None:
    export = EXPORTS[name]
    (tmp_path / export.name).write_text(export.content)
    options = ("--split", "given", "--validation", 0)
    outcome = onward_training("prepare", tmp_path / export.name, "--out", tmp_path / "d", *options, *export.options)
    assert outcome.code == 0, outcome.err
    dataset = Dataset.open(tmp_path / "d")
    sessions = dataset.sessions("train")
    cuts = list(zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True))
    assert ["".join(sessions.item_ids[start:end]) for start, end in cuts] == ["abc", "bc"]
    assert sum(dataset.info.dropped.values()) == export.left_out


def test_the_documentation_lists_these_exports() -> None:
    table = DOCUMENT.read_text().partition("## Exports of shops and data sets")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    documented = {name: options for name, _, options in rows[1:]}
    assert list(documented) == list(EXPORTS)
    for name, export in EXPORTS.items():
        for option in export.options:
            assert option in documented[name]
