"""Content codings: compressed request bodies and answers."""

import gzip
import re
import zlib

from starlette.responses import Response
from starlette.types import Scope

from onward.service.errors import BodyTooLarge, MalformedRequest, UnsupportedMediaType

MIN_COMPRESSED_BYTES = 4 * 2**10
"""Shorter answers are sent as they are: they fit in a few packets."""
COMPRESSION_LEVEL = 1
CONTENT_ENCODING = b"content-encoding"
GZIP_WINDOW = 16 + zlib.MAX_WBITS
NAMED_CODING = re.compile(rb"(?:^|[,\s])gzip(?=$|[,;\s])", re.IGNORECASE)
CODED_CONTENT = re.compile(rb"(?:^|[,\s])(?:gzip|\*)(?=$|[,;\s])(?!\s*;\s*q=0(?:\.0*)?(?:$|[,\s]))", re.IGNORECASE)
"""An Accept-Encoding header that admits gzip, unless only its `*` does and gzip is refused by name."""


def decoded(scope: Scope, body: bytes, max_bytes: int) -> bytes:
    """Return a request's body without its content coding.

    Raises UnsupportedMediaType for another coding than gzip, MalformedRequest and BodyTooLarge.
    """
    if CONTENT_ENCODING not in dict(scope["headers"]):
        return body
    codings = [value.strip().lower() for name, value in scope["headers"] if name == CONTENT_ENCODING]
    if codings == [b"identity"]:
        return body
    coding = b", ".join(codings)
    if coding not in (b"gzip", b"x-gzip"):
        raise UnsupportedMediaType("The only known Content-Encoding is gzip.")
    decompressor = zlib.decompressobj(GZIP_WINDOW)
    try:
        content = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedRequest("The body is not valid gzip.") from error
    if len(content) > max_bytes:
        raise BodyTooLarge(f"The decompressed body is longer than {max_bytes} bytes.")
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedRequest("The body is not exactly one gzip stream.")
    return content


def compress(scope: Scope, response: Response) -> None:
    """Compress a response, if the caller accepts gzip."""
    if "content-encoding" in response.headers:
        return
    response.headers.add_vary_header("Accept-Encoding")
    if accepts_gzip(scope):
        response.body = gzip.compress(response.body, COMPRESSION_LEVEL, mtime=0)
        response.headers["content-encoding"] = "gzip"
        response.headers["content-length"] = str(len(response.body))


def accepts_gzip(scope: Scope) -> bool:
    """Return whether a caller accepts gzip."""
    accepted = dict(scope["headers"]).get(b"accept-encoding", b"")
    if NAMED_CODING.search(accepted):
        accepted = accepted.replace(b"*", b"")
    return CODED_CONTENT.search(accepted) is not None
