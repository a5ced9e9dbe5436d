"""
Redis, and Valkey: what several processes and machines share.

```python
from shockproof.integrations.redis import RedisStore

store = RedisStore("redis://localhost:6379", prefix="desk-7")
```
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast
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
    import redis.asyncio
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.connection import SSLConnection, parse_url
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
    from redis.backoff import NoBackoff
    from redis.exceptions import NoScriptError, RedisError
except ImportError as error:
    raise missing("redis", "redis", error) from error

__all__ = ["RedisStore"]

_Options = dict[str, Any]  # Any: redis-py's own keyword arguments


_SILENCE: Final = 60.0
"""Seconds without news, after which a watch goes on waiting: without a number it would end where a connection has a time limit."""

# A value is a hash: v its version, d the bytes, s its length of life in milliseconds. Its key is in a sorted set, too,
# because no list of keys can be had by prefix otherwise; one whose time is over leaves that when it is listed.
# Versions are the server's clock in microseconds, and higher than the last in any case: so they also go on where
# the server has lost its data. As text they stay exact: they are compared and passed on, never calculated with.
_COMMON: Final = """
local prefix = ARGV[1]
local function key_of(key) return prefix .. ':v:' .. key end
local function version_of(key) return redis.call('HGET', key_of(key), 'v') or '0' end
local function other_than(key, expected)
    if expected ~= '' and version_of(key) ~= expected then return {0, key, version_of(key)} end
end
local function next_version()
    local time = redis.call('TIME')
    local version = math.max(time[1] * 1000000 + time[2], (redis.call('GET', prefix .. ':last') or 0) + 1)
    version = string.format('%.0f', version)
    redis.call('SET', prefix .. ':last', version)
    return version
end
local function tell(kind, key, version, value)
    redis.call('PUBLISH', ARGV[2], kind .. ' ' .. version .. ' ' .. #key .. ' ' .. key .. value)
end
"""
_SCRIPTS: Final[Mapping[str, str]] = {
    # key, value, expect, life, guard, its version
    "put": """
local key, value = ARGV[3], ARGV[4]
local other = other_than(key, ARGV[5])
if not other and ARGV[7] ~= '' then other = other_than(ARGV[7], ARGV[8]) end
if other then return other end
local version = next_version()
redis.call('DEL', key_of(key))
redis.call('HSET', key_of(key), 'v', version, 'd', value, 's', ARGV[6])
if ARGV[6] ~= '' then redis.call('PEXPIRE', key_of(key), ARGV[6]) end
redis.call('ZADD', prefix .. ':keys', 0, key)
tell('put', key, version, value)
return {1, version}
""",
    # key, expect, guard, its version
    "delete": """
local key = ARGV[3]
local other
if ARGV[5] ~= '' then other = other_than(ARGV[5], ARGV[6]) end
if other then return other end
if version_of(key) == '0' then return {1, 0} end
other = other_than(key, ARGV[4])
if other then return other end
local version = next_version()
redis.call('DEL', key_of(key))
redis.call('ZREM', prefix .. ':keys', key)
tell('delete', key, version, '')
return {1, 1}
""",
    # key, version
    "renew": """
if version_of(ARGV[3]) ~= ARGV[4] then return 0 end
local life = redis.call('HGET', key_of(ARGV[3]), 's')
if life ~= '' then redis.call('PEXPIRE', key_of(ARGV[3]), life) end
return 1
""",
    # A server that was started again may have read a snapshot of long ago, and a replica that took over knows not all.
    "era": """
if string.find(redis.call('INFO', 'persistence'), 'aof_enabled:1', 1, true) then return '' end
return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
""",
    # from, to
    "entries": """
local found = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', prefix .. ':keys', ARGV[3], ARGV[4])) do
    local kept = redis.call('HMGET', key_of(key), 'v', 'd')
    if kept[1] then
        found[#found + 1] = key
        found[#found + 1] = kept[1]
        found[#found + 1] = kept[2]
    else
        redis.call('ZREM', prefix .. ':keys', key)
    end
end
return found
""",
}


class RedisStore:
    """
    A `StateStore` in Redis 6.2 or newer, or Valkey: one server, one behind Sentinel, or a cluster.

    Made anywhere, also outside a loop; it connects at first need, with connections of their own for each loop. A step
    is a script, which the server runs as a whole, and never repeated by itself. All keys lie in one slot of a cluster.

    What a server that fails over has acknowledged may be lost with it: it copies to its replicas afterwards. Set
    ``maxmemory-policy`` to ``noeviction``, or it throws away leases when its memory is full.

    Args:
        *urls: ``"redis://host:6379/0"``, ``"rediss://..."`` for TLS, ``"unix:///path"``, with user and password if need
            be. Several nodes with *cluster*, all sentinels with *sentinel*; else one.
        prefix: before all keys: stores with another one see nothing of this one. Default ``"shockproof"``.
        username, password: in place of those in the URL. With *sentinel* they are those of the servers, and those in the
            URLs are those of the sentinels.
        tls_ca: a file of certificates that are trusted. Default: those of the system.
        tls_cert, tls_key: files with the certificate and key that the server asks for. Default: none.
        sentinel: the name under which the sentinels know the servers.
        cluster: whether it is a cluster.
        timeout: seconds one step may take in all, more than 0, connecting included. Of that a node of a cluster has half, and a
            sentinel its part, so that one that hangs leaves time for the next. Default 1.0.

    Raises:
        TypeError, ValueError: a value that is not allowed. URLs and passwords are never shown.
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
        sentinel: str | None = None,
        cluster: bool = False,
        timeout: Seconds = 1.0,
    ) -> None:
        if not urls:
            raise ValueError('urls must be at least one, such as "redis://localhost:6379", got none')
        if sentinel is not None and cluster:
            raise ValueError("sentinel and cluster cannot be together: a cluster fails over by itself")
        if len(urls) > 1 and sentinel is None and not cluster:
            raise ValueError(
                "several urls are for cluster=True, or for sentinel= with the name of the service"
            )
        self._sentinel = None if sentinel is None else a_name("sentinel", sentinel, "mymaster")
        self._is_cluster = cluster
        self._timeout = seconds("timeout", timeout, more_than=0)
        self._prefix = a_name("prefix", prefix, "shockproof")
        self._servers = [_server(number, url) for number, url in enumerate(urls, 1)]
        self._options = {
            name: value
            for name, value in {
                "username": username,
                "password": password,
                "ssl_ca_certs": tls_ca,
                "ssl_certfile": tls_cert,
                "ssl_keyfile": tls_key,
            }.items()
            if value is not None
        }
        given = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
        in_vain = ", ".join(name for name, value in given.items() if value is not None)
        if in_vain and not all(server.get("ssl") for server in self._servers):
            raise ValueError(
                f"{in_vain} needs URLs that begin with rediss://, with two s: redis:// speaks no TLS"
            )
        self._shown = ", ".join(_shown(server) for server in self._servers)
        # The braces keep all keys of this store in one slot of a cluster, which a script must not leave.
        self._slot = "{" + self._prefix + "}"
        self._channel = f"{self._slot}:news:{self._servers[0].get('db', 0)}"
        self._connections = Connections(self._connected, _Client.aclose)

    async def get(self, key: str) -> StoreEntry | None:
        """What is under *key* now."""
        check_key("key", key)
        async with self._asked() as client:
            version, value = await client.redis.hmget(f"{self._slot}:v:{key}", ["v", "d"])
            return None if version is None else StoreEntry(key, _bytes(value), int(version))

    async def entries(self, prefix: str) -> list[StoreEntry]:
        """Everything whose key begins with *prefix*, by key."""
        begin = prefix.encode()
        # No key holds the byte 0xff: they are UTF-8.
        bounds = [b"[" + begin, b"(" + begin + b"\xff"] if begin else [b"-", b"+"]
        async with self._asked() as client:
            found = await self._run(client, "entries", *bounds)
            return [
                StoreEntry(_bytes(found[at]).decode(), _bytes(found[at + 2]), int(found[at + 1]))
                for at in range(0, len(found), 3)
            ]

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
        life = check_lifetime(expires_after)
        length = "" if life is None else str(math.ceil(life * 1000))
        words = (check_value(value), _text(check_expected(expect)), length, *_words(check_guard(guard)))
        async with self._asked() as client:
            return int(_done(await self._run(client, "put", key, *words), expect, guard))

    async def renew(self, key: str, version: int) -> bool:
        """Begin the time of what was put anew; False: it is gone, or has another version."""
        check_key("key", key)
        async with self._asked() as client:
            return int(await self._run(client, "renew", key, str(version))) == 1

    async def delete(self, key: str, *, expect: int | None = None, guard: Guard | None = None) -> bool:
        """Remove *key*; False: nothing was there."""
        check_key("key", key)
        words = [key, _text(check_expected(expect)), *_words(check_guard(guard))]
        async with self._asked() as client:
            return int(_done(await self._run(client, "delete", *words), expect, guard)) == 1

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncGenerator[AsyncIterator[StoreChange]]:
        """Be told of what changes under *prefix*."""
        async with self._connections.used() as client:
            async with self._asked():
                if self._is_cluster:
                    # A subscription is not sent on: a step finds out where the channel is, and who is there no longer.
                    await client.redis.get(f"{self._slot}:last")
                news = client.redis.pubsub()
            try:
                async with self._asked():
                    await news.subscribe(self._channel)
                    while (await news.get_message(timeout=self._timeout)) is None:
                        pass  # the answer to the subscription: from here on everything is told
                yield self._changes(news, prefix)
            finally:
                with suppress(RedisError, OSError):
                    await news.aclose()

    async def _changes(
        self, news: Any, prefix: str
    ) -> AsyncIterator[StoreChange]:  # Any: of a cluster or not
        while True:
            try:
                message = await news.get_message(ignore_subscribe_messages=True, timeout=_SILENCE)
                change = None if message is None else _change(message["data"])
            except (RedisError, OSError, *NONSENSE) as error:
                raise self._unavailable(error) from error
            if change is not None and change.key.startswith(prefix):
                yield change

    async def era(self) -> str:
        """That of the server's process; always the same where it writes each change to a file (``appendonly yes``)."""
        async with self._asked() as client:
            return _bytes(await self._run(client, "era")).decode()

    async def aclose(self) -> None:
        """Give the connections of this loop back. The store can be used again afterwards."""
        await self._connections.aclose()

    def __repr__(self) -> str:
        return f"<RedisStore {self._shown}, prefix {self._prefix!r}>"

    # -- inside ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(self) -> AsyncGenerator[_Client]:
        """One step: within the time, and with its errors made ours."""
        try:
            async with self._connections.step() as client, asyncio.timeout(self._timeout):
                if self._is_cluster:
                    # If need be. Else a step would go to any node, which may be down.
                    await client.redis.initialize()
                yield client
        except StoreConflictError:
            raise
        except TimeoutError:
            raise StoreUnavailableError(f"{self!r} has not answered within {self._timeout:g} s") from None
        except (RedisError, OSError, *NONSENSE) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, MasterNotFoundError):  # it shows every sentinel with all of its options
            why = f"no sentinel that answers knows a server {self._sentinel!r} that is up"
        return StoreUnavailableError(f"{self!r}: {why}")

    async def _run(
        self, client: _Client, name: str, *words: str | bytes
    ) -> Any:  # Any: what the script gives
        # The keys say in which slot it runs. The second one is never there: a cluster that is moving the slot refuses whoever
        # names several keys of which one is not; half of the values may be with one node by then, and half with the other.
        arguments = [f"{self._slot}:last", f"{self._slot}:nothing", self._slot, self._channel, *words]
        digest = client.digests.get(name)
        if digest is not None:
            with suppress(NoScriptError):
                return await _awaited(client.redis.evalsha(digest, 2, *arguments))
        answer = await _awaited(client.redis.eval(_COMMON + _SCRIPTS[name], 2, *arguments))
        client.digests[name] = _sha1(_COMMON + _SCRIPTS[name])
        return answer

    def _connected(self) -> _Client:
        # A step is over when our own time is, connecting included; and it is never repeated behind our back, where
        # it may have been done already.
        fixed: _Options = {
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "retry": Retry(NoBackoff(), 0),
        }
        servers = self._servers
        # Of several that can be asked, one that hangs leaves time for the next.
        share = self._timeout / (2 if self._is_cluster else 1 + len(servers))
        shared: _Options = {**fixed, "socket_timeout": share, "socket_connect_timeout": share}
        options: _Options = {**servers[0], **self._options, **fixed}
        if self._is_cluster:
            nodes = [ClusterNode(server["host"], server.get("port", 6379)) for server in servers]
            for name in ("host", "port", "db"):
                options.pop(name, None)
            # Of its slots one is ours: what befalls those of the others is nothing to us.
            options |= {**shared, "require_full_coverage": False}
            return _Client(redis.asyncio.RedisCluster(startup_nodes=nodes, **options))
        if self._sentinel is None:
            return _Client(redis.asyncio.Redis(**options))
        addresses = [(server["host"], server.get("port", 26379)) for server in servers]
        their_own = {name: value for name, value in servers[0].items() if name not in {"host", "port", "db"}}
        if their_own.get("ssl"):
            their_own |= {name: value for name, value in self._options.items() if name.startswith("ssl_")}
        of_servers: _Options = {**self._options, **fixed, "db": servers[0].get("db", 0)}
        if servers[0].get("ssl"):
            of_servers["ssl"] = True
        sentinel = Sentinel(addresses, sentinel_kwargs={**their_own, **shared})  # type: ignore[no-untyped-call]  # redis-py has left this one out
        return _Client(sentinel.master_for(self._sentinel, **of_servers), sentinel)


class _Client:
    """The connections of one loop, and which scripts their server has."""

    def __init__(self, client: Any, sentinel: Any = None) -> None:  # Any: three kinds with the same methods
        self.redis = client
        self.digests: dict[str, str] = {}
        self._sentinel = sentinel

    async def aclose(self) -> None:
        for one in [self.redis, *([] if self._sentinel is None else self._sentinel.sentinels)]:
            with suppress(RedisError, OSError):
                await one.aclose()


def _server(number: int, url: object) -> _Options:
    if not isinstance(url, str):
        raise TypeError(f"urls must be strings, got a value of type {type(url).__name__}")
    try:
        options = cast("_Options", dict(parse_url(url)))
    except ValueError:
        options = {}
    if not options.get("host") and not options.get("path"):
        # Not the URL itself, nor what the parser says of it: there may be a password in it.
        raise ValueError(
            f"URL no. {number} of urls must begin with redis://, rediss:// or unix://, and name a host or a path; "
            "in a user name or a password, write / @ and : as %2F %40 and %3A"
        )
    parts = urlsplit(url)
    if parts.scheme != "unix" and not re.fullmatch("/?[0-9]*/?", parts.path):
        raise ValueError(
            f"URL no. {number} of urls must name its database by a number, such as redis://localhost:6379/0"
        )
    kind = options.pop("connection_class", None)
    if kind is SSLConnection:
        options["ssl"] = True
    if "path" in options:
        options["unix_socket_path"] = options.pop("path")
    return options


def _shown(server: Mapping[str, Any]) -> str:  # Any: redis-py's own keyword arguments
    if "unix_socket_path" in server:
        return f"unix://{server['unix_socket_path']}"
    scheme = "rediss" if server.get("ssl") else "redis"
    return f"{scheme}://{server['host']}:{server.get('port', 6379)}/{server.get('db', 0)}"


def _text(expected: int | None) -> str:
    return "" if expected is None else str(expected)


def _words(guard: Guard | None) -> tuple[str, str]:
    return ("", "") if guard is None else (guard[0], str(guard[1]))


def _done(answer: Any, expect: int | None, guard: Guard | None) -> bytes | int:  # Any: what a script gives
    if answer[0] == 1:
        result: bytes | int = answer[1]
        return result
    key = _bytes(answer[1]).decode()
    expected = guard[1] if guard is not None and guard[0] == key and expect is None else expect or 0
    raise StoreConflictError(key, expected, int(answer[2]))


def _change(data: object) -> StoreChange:
    kind, version, length, rest = _bytes(data).split(b" ", 3)
    key, value = rest[: int(length)].decode(), rest[int(length) :]
    return StoreChange(key, value if kind == b"put" else None, int(version))


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"bytes were expected, got {type(value).__name__}")
    return value


def _sha1(script: str) -> str:
    import hashlib

    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


async def _awaited(answer: Any) -> Any:  # Any: redis-py says of its methods that they may or may not wait
    return await answer
