"""A connection that is to be encrypted is, or there is none."""

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
    """A certificate of this machine that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    of_what = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}", "-days", "2"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", *kind, *of_what, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def encrypted(valkey: str, certificate: tuple[Path, Path]) -> AsyncIterator[str]:
    """The address of the private server behind encryption."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    proxy = FaultProxy(Path(valkey.removeprefix("unix://")))
    listener = await asyncio.start_server(proxy.accept, HOST, 0, ssl=context)
    try:
        yield f"rediss://{HOST}:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await proxy.aclose()


async def test_calls_are_encrypted_and_stay_in_order(valkey: str, certificate: tuple[Path, Path]) -> None:
    async with encrypted(valkey, certificate) as url:
        calls = connect(f"{url}?ssl_ca_certs={certificate[0]}", TIMEOUT)
        texts = [f"{number} " * 2_000 for number in range(100)]
        found = await asyncio.gather(*(calls.replies([("ECHO", text)]) for text in texts))
        assert [reply.decode() for (reply,) in found] == texts
        await calls.aclose()


async def test_a_server_that_nobody_vouches_for_is_not_called(valkey: str, certificate: tuple[Path, Path]) -> None:
    async with encrypted(valkey, certificate) as url:
        calls = connect(url, TIMEOUT)
        with pytest.raises(RedisError):
            await calls.replies([("ECHO", "text")])
        await calls.aclose()
