"""
etcd: what several processes and machines share, over its own JSON gateway.

```python
from shockproof.integrations.etcd import EtcdStore

store = EtcdStore("http://localhost:2379", prefix="desk-7")
```
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

from shockproof.integrations.optional import missing
from shockproof.memory.stores.connections import Connections
from shockproof.memory.stores.state_store import (
    NONSENSE,
    Guard,
    StoreChange,
    StoreEntry,
    check_expected,
    check_guard,
    check_key,
    check_lifetime,
    check_value,
)
from shockproof.vocabulary.arguments import Seconds, a_name, seconds
from shockproof.vocabulary.errors import StoreConflictError, StoreUnavailableError

try:
    from shockproof.integrations.httpx2 import httpx2
except ImportError as error:
    # What Python said, and not that the extra of another module would help.
    absent = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    raise missing("httpx2", "etcd", absent) from absent

__all__ = ["EtcdStore"]

_Json = dict[str, Any]  # Any: JSON

_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_UNAUTHENTICATED: Final = 16
"""gRPC's number for a token that is not, or no longer, known."""
_AUTH_CHANGED: Final = "revision of auth store is old"
"""What is said, with another number, of a JWT that was given before somebody changed a user or a role."""
_SERVER_ERROR: Final = 500
_BEGINNING: Final = ""
"""The key, which nobody else can have, of what is lost with all the rest, and then is another one."""
_LOSSES: Final = 3
"""More of them within one step is nonsense."""


class EtcdStore:
    """
    A `StateStore` in etcd 3.4 or newer.

    Made anywhere, also outside a loop; it connects at first need, with connections of their own for each loop. A step
    that changes something is one transaction, and goes to another endpoint only where it has not been sent. etcd counts the
    life of a value in whole seconds, of which there are at least two or three. Its own count of changes begins anew when its data
    is lost: versions are counted from a number that stands beside the values, under the prefix alone, and is made of the clock of
    whoever finds none there.

    Args:
        *urls: the endpoints of one cluster, such as ``"https://etcd-1:2379"``: the next one is asked when one is away.
        prefix: before all keys: stores with another one see nothing of this one. Default ``"shockproof"``.
        username, password: where the cluster asks for them.
        tls_ca: a file of certificates that are trusted. Default: those of the system.
        tls_cert, tls_key: files with the certificate and key that etcd asks for. Default: none. Where there are users, too, etcd
            takes only certificates without a common name here.
        timeout: seconds one step may take in all, more than 0, connecting included. Default 1.0.

    Raises:
        TypeError, ValueError: a value that is not allowed. URLs and passwords are never shown.
        OSError: a file with certificates cannot be read.
    """

    def __init__(
        self,
        *urls: str,
        prefix: str = "shockproof",
        username: str | None = None,
        password: str | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        timeout: Seconds = 1.0,
    ) -> None:
        if not urls:
            raise ValueError('urls must be at least one, such as "http://localhost:2379", got none')
        if (username is None) != (password is None):
            raise ValueError("username and password must be given together")
        self._urls = [_endpoint(number, url) for number, url in enumerate(urls, 1)]
        self._prefix = a_name("prefix", prefix, "shockproof")
        self._timeout = seconds("timeout", timeout, more_than=0)
        self._user = None if username is None else {"name": username, "password": password}
        self._tls: ssl.SSLContext | bool = True
        if tls_ca is not None or tls_cert is not None:
            self._tls = ssl.create_default_context(cafile=tls_ca)
            if tls_cert is not None:
                self._tls.load_cert_chain(tls_cert, tls_key)
        elif not any(url.startswith("https:") for url in self._urls):
            # No endpoint needs one, and reading the system's certificates takes long: this one trusts nobody.
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._token: str | None = None
        self._began: int | None = None
        """What versions are counted from, as it was read last; None: it was not read yet, or is another one by now."""
        self._first = 0  # the endpoint that answered last
        self._connections = Connections(self._connected, httpx2.AsyncClient.aclose)

    async def get(self, key: str) -> StoreEntry | None:
        """What is under *key* now."""
        check_key("key", key)
        async with self._asked() as client:
            began, kept = await self._beginning(client), await self._kept(client, key)
            return None if kept is None else self._entry(kept, began)

    async def entries(self, prefix: str) -> list[StoreEntry]:
        """Everything whose key begins with *prefix*, by key."""
        begin = f"{self._prefix}/{prefix}".encode()
        async with self._asked() as client:
            began = await self._beginning(client)
            answer = await self._ask(
                client,
                "kv/range",
                {"key": _base64(begin), "range_end": _base64(_end_of(begin))},
                is_read=True,
            )
            entries = [self._entry(kept, began) for kept in answer.get("kvs", [])]
            return [entry for entry in entries if entry.key != _BEGINNING]

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expect: int | None = None,
        expires_after: Seconds | None = None,
        guard: Guard | None = None,
    ) -> int:
        """Put *value* under *key*, and return its version."""
        check_key("key", key)
        what: _Json = {"key": self._key(key), "value": _base64(check_value(value))}
        life, expected, guard = check_lifetime(expires_after), check_expected(expect), check_guard(guard)
        async with self._asked() as client:
            if life is not None:
                granted = await self._ask(client, "lease/grant", {"TTL": str(math.ceil(life))})
                what["lease"] = granted["ID"]
            try:
                _, version = await self._change(client, {"request_put": what}, key, expected, guard)
            except StoreConflictError:
                if life is not None:
                    with suppress(StoreUnavailableError):  # it ends by itself
                        await self._ask(client, "lease/revoke", {"ID": what["lease"]})
                raise
            return version

    async def renew(self, key: str, version: int) -> bool:
        """Begin the time of what was put anew; False: it is gone, or has another version."""
        check_key("key", key)
        async with self._asked() as client:
            kept = await self._kept(client, key)
            # Asked anew, and behind it: since the data was lost a lease of another process may have the same number.
            self._began = None
            began = await self._beginning(client)
            if kept is None or began + int(kept["mod_revision"]) != version:
                return False
            if "lease" not in kept:
                return True
            answer = await self._ask(client, "lease/keepalive", {"ID": kept["lease"]})
            return int(answer["result"].get("TTL", 0)) > 0

    async def delete(self, key: str, *, expect: int | None = None, guard: Guard | None = None) -> bool:
        """Remove *key*; False: nothing was there."""
        check_key("key", key)
        expected, guard = check_expected(expect), check_guard(guard)
        async with self._asked() as client:
            try:
                answer, _ = await self._change(
                    client, {"request_delete_range": {"key": self._key(key)}}, key, expected, guard
                )
            except StoreConflictError as conflict:
                if conflict.key == key and not conflict.found and (guard is None or guard[0] != key):
                    return False
                raise
            return int(answer["responses"][0]["response_delete_range"].get("deleted", 0)) > 0

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncGenerator[AsyncIterator[StoreChange]]:
        """Be told of what changes under *prefix*."""
        begin = f"{self._prefix}/{prefix}".encode()
        wanted = {"key": _base64(begin), "range_end": _base64(_end_of(begin))}
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._connections.used())
            async with self._asked():
                self._began = None
                began = await self._beginning(client)  # and with it who answers, and the token
                answer = await stack.enter_async_context(
                    client.stream(
                        "POST",
                        f"{self._urls[self._first]}/v3/watch",
                        json={"create_request": wanted},
                        headers=await self._headers(client),
                    )
                )
                lines = answer.aiter_lines()
                if not json.loads(await anext(lines))["result"].get("created"):
                    raise ValueError("the watch was not created")
            yield self._changes(lines, began)

    async def _changes(self, lines: AsyncIterator[str], began: int) -> AsyncIterator[StoreChange]:
        while True:
            try:
                result = json.loads(await anext(lines))["result"]
                if result.get("canceled"):
                    raise ValueError(f"the watch was cancelled: {result.get('cancel_reason')}")
                changes = [self._told(event, began) for event in result.get("events", [])]
            except StopAsyncIteration:
                raise StoreUnavailableError(f"{self!r}: it has ended the watch") from None
            except (httpx2.HTTPError, OSError, *NONSENSE) as error:
                raise self._unavailable(error) from error
            for change in changes:
                if change.key != _BEGINNING:
                    yield change

    async def era(self) -> str:
        """Another one only when all of its data was lost: etcd keeps what it has acknowledged."""
        async with self._asked() as client:
            self._began = None
            return str(await self._beginning(client))

    async def aclose(self) -> None:
        """Give the connections of this loop back. The store can be used again afterwards."""
        await self._connections.aclose()

    def __repr__(self) -> str:
        return f"<EtcdStore {', '.join(self._urls)}, prefix {self._prefix!r}>"

    # -- inside ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(self) -> AsyncGenerator[httpx2.AsyncClient]:
        """One step: within the time, and with its errors made ours."""
        try:
            async with self._connections.step() as client, asyncio.timeout(self._timeout):
                yield client
        except (StoreConflictError, StoreUnavailableError):
            raise
        except TimeoutError:
            raise StoreUnavailableError(f"{self!r} has not answered within {self._timeout:g} s") from None
        except StopAsyncIteration:
            raise StoreUnavailableError(f"{self!r} has ended the watch") from None
        except (httpx2.HTTPError, OSError, *NONSENSE) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self!r}: {type(error).__name__}: {error}")

    async def _kept(self, client: httpx2.AsyncClient, key: str) -> _Json | None:
        answer = await self._ask(client, "kv/range", {"key": self._key(key)}, is_read=True)
        found: list[_Json] = answer.get("kvs", [])
        return found[0] if found else None

    async def _beginning(self, client: httpx2.AsyncClient) -> int:
        """What versions are counted from, as far as is known; read if it is not, and written down where nothing is."""
        if self._began is not None:
            return self._began
        kept = await self._kept(client, _BEGINNING)
        if kept is None:
            where, now = self._key(_BEGINNING), str(time.time_ns() // 1000)
            answer = await self._ask(
                client,
                "kv/txn",
                {
                    "compare": [self._compared(_BEGINNING, 0)],
                    "success": [{"request_put": {"key": where, "value": _base64(now.encode())}}],
                },
            )
            if answer.get("succeeded"):
                self._began = int(now)
                return self._began
            kept = await self._kept(client, _BEGINNING)
            if kept is None:
                raise ValueError("what others have just written down is gone")
        self._began = int(b64decode(kept["value"]))
        return self._began

    async def _change(
        self, client: httpx2.AsyncClient, change: _Json, key: str, expected: int | None, guard: Guard | None
    ) -> tuple[_Json, int]:
        """What etcd answers, and the version that its change has made."""
        wanted = [] if expected is None else [(key, expected)]
        if guard is not None:
            wanted.append(guard)
        for _ in range(_LOSSES):
            began = await self._beginning(client)
            is_as_known = {
                "key": self._key(_BEGINNING),
                "target": "VALUE",
                "result": "EQUAL",
                "value": _base64(str(began).encode()),
            }
            looked_at = [_BEGINNING, *(name for name, _ in wanted)]
            answer = await self._ask(
                client,
                "kv/txn",
                {
                    # Of a key that is not there the revision is 0.
                    "compare": [
                        is_as_known,
                        *(self._compared(name, version and version - began) for name, version in wanted),
                    ],
                    "success": [change],
                    "failure": [{"request_range": {"key": self._key(name)}} for name in looked_at],
                },
            )
            if answer.get("succeeded"):
                return answer, began + int(answer["header"]["revision"])
            found = [response["response_range"].get("kvs") for response in answer["responses"]]
            if not found[0] or int(b64decode(found[0][0]["value"])) != began:
                self._began = None  # the data was lost since that was read
                continue
            for (name, version), kept in zip(wanted, found[1:], strict=True):
                there = began + int(kept[0]["mod_revision"]) if kept else 0
                if there != version:
                    raise StoreConflictError(name, version, there)
            raise ValueError("a transaction failed although everything it asked for was so")
        raise ValueError("its data was lost again and again")

    def _compared(self, key: str, revision: int) -> _Json:
        return {"key": self._key(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}

    async def _ask(
        self, client: httpx2.AsyncClient, path: str, body: _Json, *, is_read: bool = False
    ) -> _Json:
        token = self._token
        answer = await self._post(client, path, body, await self._headers(client), is_read=is_read)
        if not answer.is_success and token is not None and _is_over(_json_of(answer)):
            self._token = None  # it is over; the request was refused, and so nothing was done
            answer = await self._post(client, path, body, await self._headers(client), is_read=is_read)
        told = _json_of(answer)
        if not answer.is_success:
            raise ValueError(f"answered {answer.status_code}: {told.get('message')}")
        return told

    async def _post(
        self,
        client: httpx2.AsyncClient,
        path: str,
        body: Mapping[str, object],
        headers: dict[str, str],
        *,
        is_read: bool,
    ) -> httpx2.Response:
        first = self._first
        for tried in range(len(self._urls)):
            at = (first + tried) % len(self._urls)
            is_last = tried == len(self._urls) - 1
            try:
                # Each endpoint has its share: one that hangs leaves time for the next.
                async with asyncio.timeout(None if is_last else self._timeout / len(self._urls)):
                    answer = await client.post(f"{self._urls[at]}/v3/{path}", json=body, headers=headers)
            except (httpx2.HTTPError, OSError) as error:
                if is_last or not (is_read or isinstance(error, _NOT_SENT)):
                    self._first = (at + 1) % len(self._urls)
                    raise
            else:
                is_well = answer.status_code < _SERVER_ERROR
                if is_well or is_last or not is_read:
                    # One that has no leader, or stands before nobody, answers, and would be asked for ever.
                    self._first = at if is_well else (at + 1) % len(self._urls)
                    return answer
        raise AssertionError("there is at least one endpoint")

    def _connected(self) -> httpx2.AsyncClient:
        # A step is over when our own time is; a watch has none.
        return httpx2.AsyncClient(verify=self._tls, timeout=None, trust_env=False)

    async def _headers(self, client: httpx2.AsyncClient) -> dict[str, str]:
        if self._user is None:
            return {}
        if self._token is None:
            answer = await self._post(client, "auth/authenticate", self._user, {}, is_read=True)
            told = _json_of(answer)
            if not answer.is_success:
                raise ValueError(f"answered {answer.status_code}: {told.get('message')}")
            self._token = str(told["token"])
        return {"Authorization": self._token}

    def _key(self, key: str) -> str:
        return _base64(f"{self._prefix}/{key}".encode())

    def _entry(self, kept: _Json, began: int) -> StoreEntry:
        version = began + int(kept["mod_revision"])
        return StoreEntry(self._name(kept["key"]), b64decode(kept.get("value", "")), version)

    def _told(self, event: _Json, began: int) -> StoreChange:
        kept = event["kv"]
        value = None if event.get("type") == "DELETE" else b64decode(kept.get("value", ""))
        return StoreChange(self._name(kept["key"]), value, began + int(kept["mod_revision"]))

    def _name(self, key: str) -> str:
        return b64decode(key).decode()[len(self._prefix) + 1 :]


def _endpoint(number: int, url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"urls must be strings, got a value of type {type(url).__name__}")
    try:
        parts = urlsplit(url)
        is_known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
        is_bare = parts.path in {"", "/"} and not parts.query and parts.port != 0
    except ValueError:
        is_known = is_bare = False
    if not (is_known and is_bare):
        # Not the URL itself: there may be a password in it.
        raise ValueError(
            f"URL no. {number} of urls must be like https://host:2379, without a path; user and password are arguments"
        )
    return url.rstrip("/")


def _is_over(told: _Json) -> bool:
    """Whether the token is of no use any more."""
    return told.get("code") == _UNAUTHENTICATED or _AUTH_CHANGED in str(told.get("message"))


def _json_of(answer: httpx2.Response) -> _Json:
    try:
        read = answer.json()
    except ValueError:
        said = " ".join(answer.text[:200].split())
        raise ValueError(f"answered {answer.status_code}, and no JSON: {said!r}") from None
    if not isinstance(read, dict):
        raise TypeError(f"an object was expected, got {type(read).__name__}")
    return read


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin with *prefix*, which ends in no 0xff: it is UTF-8, and has a slash."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
