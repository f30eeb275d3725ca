"""Make the id of one answer."""

from onward.service.records.answers import new_answer_ids


def new_answer_id(session_id: str | None) -> str:
    (answer_id,) = new_answer_ids([session_id])
    return answer_id
