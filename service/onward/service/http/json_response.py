"""JSONBytes: a response of JSON that is written already."""

from starlette.responses import Response

CONTENT_IS_JSON = (b"content-type", b"application/json")


class JSONBytes(Response):
    """It has its body from the first or gets it by `complete`; then it has its length too, as a response must."""

    def __init__(self, body: bytes | None = None, *headers: tuple[bytes, bytes], status_code: int = 200) -> None:
        """Take headers by their names in small letters."""
        self.status_code = status_code
        self.background = None
        self.raw_headers = [CONTENT_IS_JSON, *headers]
        if body is not None:
            self.complete(body)

    def complete(self, body: bytes) -> None:
        """Set the body, once."""
        self.body = body
        self.raw_headers.append((b"content-length", b"%d" % len(body)))
