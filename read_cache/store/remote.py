"""A store's files behind any URL that fsspec opens: s3://, gs://, memory:// …

An object store knows no locks. What two extractions may both write is therefore the same bytes, or is written only
where nothing lies yet (`RemoteFiles.settle`): by a conditional put, which S3, Google's and most services like them keep
to; where a client or a service knows none, a moment is left between the look and the write.

Where to find an S3 service that is not Amazon's, and by what name to greet it, s3fs and botocore take from their own
places: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and their like, or fsspec's configuration.
"""

import contextlib
import errno
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import fsspec
import numpy as np
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from read_cache.errors import StoreError

FRESH = {"use_listings_cache": False}
"""Other processes fill the store too: what was listed a moment ago is not what is there."""


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what a client library raises, which every one has names of its own for, into StoreError.

    That a file is not there, or ends too early, is for the caller to judge: FileNotFoundError, or OSError with EINVAL.
    """
    try:
        yield
    except (StoreError, FileNotFoundError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EINVAL:
            raise
        why = str(error) or type(error).__name__
        raise StoreError(
            f"{url} cannot be reached: {why}. What was complete is kept: look at the network, the credentials and "
            "AWS_ENDPOINT_URL or its like, and run the same command again"
        ) from error


class RemoteFiles:
    """Files below a URL. One put is one commit: object stores show an object whole or not at all."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self.system, self.root = fsspec.core.url_to_fs(self.url, **FRESH)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"{url} cannot be opened: {error}. s3:// needs the package s3fs, gs:// gcsfs; a local store is a path"
            ) from error

    def exists(self, name: str) -> bool:
        with self._reaching(name):
            return self.system.exists(self._at(name))

    def read(self, name: str) -> bytes:
        with self._reaching(name):
            return self.system.cat_file(self._at(name))

    def write(self, name: str, data: bytes | np.ndarray) -> None:
        with self._reaching(name):
            self.system.pipe_file(self._at(name), data if isinstance(data, bytes) else data.tobytes())

    def settle(self, name: str, data: bytes) -> bool:
        at = self._at(name)
        with self._reaching(name):
            try:
                self.system.pipe_file(at, data, mode="create")
                return True
            except FileExistsError:
                pass
            except TypeError:  # a client that knows no such mode: a look has to do
                if not self.system.exists(at):
                    self.system.pipe_file(at, data)
            return self.system.cat_file(at) == data

    def remove(self, name: str) -> None:
        with self._reaching(name), contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self._at(name))

    def map(self, name: str) -> np.ndarray:
        return np.frombuffer(self.read(name), np.uint8)

    def stamp(self, name: str, image: np.ndarray) -> None:
        return None

    def ranges(self, name: str, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
        starts, ends = zip(*ranges, strict=True)
        with self._reaching(name):
            pieces = self.system.cat_ranges([self._at(name)] * len(ranges), list(starts), list(ends), on_error="raise")
        return [np.frombuffer(piece, np.uint8) for piece in pieces]

    def sizes(self, folder: str) -> dict[str, int]:
        with self._reaching(folder), contextlib.suppress(FileNotFoundError):
            found = self.system.find(self._at(folder), detail=True)
            return {self._relative(path): int(entry["size"]) for path, entry in found.items()}
        return {}

    def find(self, name: str) -> Iterator[str]:
        return iter(sorted(path.removesuffix(f"/{name}") for path in self.sizes("") if path.endswith(f"/{name}")))

    def group(self, name: str, mode: Any) -> zarr.Group:
        system = AsyncFileSystemWrapper(self.system, asynchronous=True)  # not a second client with sessions of its own
        store = FsspecStore(system, read_only=mode == "r", path=self._at(name))
        return zarr.open_group(ReachedStore(store, self._url(name)), mode=mode)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}".rstrip("/")

    def _reaching(self, name: str) -> contextlib.AbstractContextManager[None]:
        return reaching(self._url(name))

    def _relative(self, path: str) -> str:
        return path.strip("/").removeprefix(self.root.strip("/")).lstrip("/")


class ReachedStore(WrapperStore[FsspecStore]):
    """Zarr's store over fsspec, whose errors are ours."""

    def __init__(self, store: FsspecStore, url: str) -> None:
        super().__init__(store)
        self._url = url

    def _with_store(self, store: FsspecStore) -> Self:
        return type(self)(store, self._url)

    def _reaching(self, key: str) -> contextlib.AbstractContextManager[None]:
        return reaching(f"{self._url}/{key}")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with self._reaching(key):
            return await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        with self._reaching(key):
            await self._store.set(key, value)

    async def exists(self, key: str) -> bool:
        with self._reaching(key):
            return await self._store.exists(key)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with self._reaching(prefix):
            async for key in self._store.list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with self._reaching(prefix):
            async for key in self._store.list_dir(prefix):
                yield key
