"""Entries of a list that are accepted or rejected one by one."""

from typing import Any, Self

from pydantic import BaseModel, Field, PlainValidator, ValidationError

from onward.service.errors import Fault, InvalidRequest, ServiceError
from onward.service.http.problems import faults_of


class InvalidEntry(BaseModel):
    """Stands in for an entry that violates its schema."""

    errors: list[Any]
    """pydantic's errors, without what was sent."""

    def refusal(self, kind: str, *location: str | int) -> InvalidRequest:
        """Return the error to report; `kind` is what the entry is, `location` its place in the request."""
        return InvalidRequest.of(faults_of(self.errors, *location), kind)


def validated_alone(model: type[BaseModel]) -> PlainValidator:
    """Validate an entry as `model`, or turn it into an InvalidEntry, so that one does not fail the whole list."""

    def validate(entry: Any) -> BaseModel:
        try:
            return model.model_validate(entry)
        except ValidationError as error:
            return InvalidEntry(errors=error.errors(include_url=False, include_input=False))

    return PlainValidator(validate, json_schema_input_type=model)


class EntryProblem(BaseModel):
    """Why an entry of a list was rejected."""

    code: str = Field(examples=["invalid_request"])
    detail: str = Field(examples=["The entry violates the schema in 1 place."])
    errors: list[Fault] | None = Field(
        default=None, examples=[[{"at": "body.events.1.item_id", "message": "Field required"}]]
    )

    @classmethod
    def of(cls, error: ServiceError) -> Self:
        """Describe an error."""
        faults = list(error.faults) if isinstance(error, InvalidRequest) else []
        return cls(code=error.code, detail=error.detail, errors=faults or None)
