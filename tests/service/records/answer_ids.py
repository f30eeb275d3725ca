"""Ids of answers, by a secret of the tests."""

from datetime import timedelta

from onward.service.records.answer_ids import AnswerIds

ANSWER_IDS = AnswerIds(answer_ttl=timedelta(days=1))


def new_answer_id(session_id: str | None) -> str:
    """Make the id of one answer."""
    (answer_id,) = ANSWER_IDS.new([session_id])
    return answer_id


def owner_of(answer_id: str) -> str:
    """Return the digest of the session that an id masks."""
    return ANSWER_IDS.own_key_of(answer_id).owner
