"""An S3 service on loopback, and what is behind a URL."""

import contextlib
import tempfile
from collections.abc import Iterator

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from read_cache.meters.readings import FOLDER as METERS

BUCKET = "bucket"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # a service that is away is away at once
}  # fmt: skip


def serve(port: int = 0) -> ThreadedMotoServer:
    """An S3 service on loopback; what it holds outlives it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    return server


@contextlib.contextmanager
def serving() -> Iterator[None]:
    """The service that AWS_ENDPOINT_URL names, with one bucket."""
    server = serve()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as copies:
        given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "XDG_CACHE_HOME": copies}
        for name, value in (ENVIRONMENT | given).items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        if not fsspec.filesystem("s3").exists(BUCKET):  # left by another of this process
            fsspec.filesystem("s3").mkdir(BUCKET)
        yield
        S3FileSystem.clear_instance_cache()
    server.stop()


def objects(url: str) -> dict[str, bytes]:
    """Every object below a URL by name, without readings, as in `contents`."""
    system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    found = (path for path in system.find(root) if f"/{METERS}/" not in path)
    return {path.removeprefix(root).lstrip("/"): system.cat_file(path) for path in found}
