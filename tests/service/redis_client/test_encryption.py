"""A rediss:// connection is encrypted and verified, or refused."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from onward.service.redis_client import connect
from tests.redis_servers import HOST
from tests.service.redis_client.fault_proxy import FaultProxy

TIMEOUT = timedelta(seconds=5)

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for this host, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}", "-days", "2"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", *kind, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def encrypted(valkey: str, certificate: tuple[Path, Path]) -> AsyncIterator[str]:
    """The URL of the test server behind a TLS proxy."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    proxy = FaultProxy(Path(valkey.removeprefix("unix://")))
    listener = await asyncio.start_server(proxy.accept, HOST, 0, ssl=context)
    try:
        yield f"rediss://{HOST}:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await proxy.aclose()


async def test_calls_over_tls_get_their_own_replies(valkey: str, certificate: tuple[Path, Path]) -> None:
    async with encrypted(valkey, certificate) as url:
        client = connect(f"{url}?ssl_ca_certs={certificate[0]}", TIMEOUT)
        texts = [f"{number} " * 2_000 for number in range(100)]
        replies = await asyncio.gather(*(client.execute([("ECHO", text)]) for text in texts))
        assert [reply.decode() for (reply,) in replies] == texts
        await client.aclose()


async def test_a_server_with_an_untrusted_certificate_is_refused(valkey: str, certificate: tuple[Path, Path]) -> None:
    async with encrypted(valkey, certificate) as url:
        client = connect(url, TIMEOUT)
        with pytest.raises(RedisError):
            await client.execute([("ECHO", "text")])
        await client.aclose()
