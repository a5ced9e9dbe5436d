"""Stores that are away, hang, are full, talk nonsense or ask who is there: one kind of error, in time, and no secrets."""

from __future__ import annotations

import asyncio
import base64
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shockproof import FileStore, StateStore, StoreConflictError, StoreUnavailableError, take_lease
from shockproof.integrations.etcd import EtcdStore
from shockproof.integrations.redis import RedisStore
from tests.integrations.store_servers import (
    HOST,
    PATIENCE,
    Server,
    answered,
    etcd_server,
    needs_servers,
    redis_server,
    sentinel_server,
    store_at,
    trusted_certificate,
)

if TYPE_CHECKING:
    from tests.integrations.conftest import Misbehaving

pytestmark = [needs_servers, pytest.mark.asyncio]

SECRET = "hunter2/@:"
SEVERAL_PROCESSES = Path(__file__).parents[2] / "docs/how-to/several-processes.md"


Opens = Callable[..., StateStore]


@pytest_asyncio.fixture
async def opens(server_of_its_own: Server) -> AsyncIterator[Opens]:
    """A store at the server that is done harm to; `timeout` may be given."""
    stores: list[StateStore] = []

    def make(**options: Any) -> StateStore:
        stores.append(store_at(server_of_its_own, **{"timeout": PATIENCE, **options}))
        return stores[-1]

    yield make
    for store in stores:
        await store.aclose()


async def test_a_server_that_hangs_costs_the_timeout_and_answers_later(
    server_of_its_own: Server, opens: Opens
) -> None:
    """Nothing waits for longer than it was told, and nothing has to be started again."""
    store, hasty = opens(), opens(timeout=0.05)
    version = await store.put("a", b"x")
    with server_of_its_own.paused():
        for step in (
            hasty.get("a"),
            hasty.put("a", b"y", expect=version - 1 or 1),
            hasty.renew("a", version),
            hasty.delete("a", expect=version - 1 or 1),
            hasty.entries(""),
            take_lease(hasty, "journal"),
        ):
            with pytest.raises(StoreUnavailableError, match=r"has not answered within 0\.05 s"):
                await step
        with pytest.raises(StoreUnavailableError):
            async with hasty.watch(""):
                pass
        waiting = asyncio.create_task(store.get("a"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    found = await store.get("a")
    assert found is not None
    assert found.value == b"x"


async def test_answers_are_never_mixed_up_where_steps_are_cancelled(opens: Opens) -> None:
    """An answer that comes after its question was given up is nobody's."""
    store = opens()
    for number in range(10):
        await store.put(f"key {number}", f"value {number}".encode())

    async def ask(number: int) -> bool:
        found = await store.get(f"key {number}")
        return found is not None and found.value == f"value {number}".encode()

    for number in range(30):
        doomed = asyncio.create_task(ask(number % 10))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        doomed.cancel()
        assert await ask((number + 1) % 10)
        await asyncio.gather(doomed, return_exceptions=True)


async def test_a_watch_ends_with_an_error_when_the_server_dies_and_all_goes_on_with_its_successor(
    server_of_its_own: Server, opens: Opens
) -> None:
    """Whoever watches learns that there may be news that was missed; a server that comes back empty is used at once."""
    store = opens()
    before = await store.put("a", b"x")
    lease = await take_lease(store, "journal", length=600.0)
    assert lease is not None
    era = await store.era()
    async with asyncio.timeout(PATIENCE), store.watch("") as changes:
        server_of_its_own.kill()
        with pytest.raises(StoreUnavailableError):
            await anext(changes)
    with pytest.raises(StoreUnavailableError):
        await store.get("a")
    assert lease.is_held, "until its time is over nobody else can have it"
    with pytest.raises(StoreUnavailableError):
        await lease.renew()
    server_of_its_own.start()
    assert await store.era() != era
    assert await store.get("a") is None
    assert not await lease.renew()
    assert not lease.is_held
    after = await store.put("a", b"y", expect=0)
    assert after > before, "versions and tokens go on although everything is lost"


async def test_who_had_something_before_all_was_lost_has_nothing_of_what_others_took_afterwards(
    server_of_its_own: Server, opens: Opens
) -> None:
    """However few changes there were: a server that begins anew counts as the one before did, and knows it by no id of its own."""
    server_of_its_own.kill()
    server_of_its_own.start()
    store, other = opens(), opens()
    read = await store.put("a", b"x")
    mine = await take_lease(store, "journal", length=600.0)
    server_of_its_own.kill()
    server_of_its_own.start()
    assert await other.put("a", b"y") > read
    theirs = await take_lease(other, "journal", length=600.0)
    assert mine is not None
    assert theirs is not None
    assert theirs.token > mine.token
    steps = (
        partial(store.put, "a", b"z", expect=read),
        partial(store.put, "b", b"z", guard=mine.guard),
        partial(store.delete, "a", expect=read),
    )
    for step in steps:
        with pytest.raises(StoreConflictError):
            await answered(step)
    await answered(mine.release)
    assert not await answered(mine.renew)
    assert await theirs.renew()
    assert [entry.key for entry in await other.entries("")] == ["a", "lease/journal"]


async def test_an_etcd_of_which_somebody_says_that_it_is_an_older_one_counts_as_a_new_one(
    etcd_session: Server,
) -> None:
    """By deleting what versions are counted from: what stands there is of another era, and nothing that was read holds."""
    store = EtcdStore(f"http://{etcd_session.address}", prefix="older", timeout=PATIENCE)
    era, read = await store.era(), await store.put("a", b"x")
    lease = await take_lease(store, "journal", length=600.0)
    assert lease is not None
    admin = EtcdStore(f"http://{etcd_session.address}", prefix="older", timeout=PATIENCE)
    async with admin._asked() as client:
        await admin._ask(client, "kv/deleterange", {"key": base64.b64encode(b"older/").decode()})
    with pytest.raises(StoreConflictError):
        await store.put("a", b"y", expect=read)
    assert not await lease.renew()
    assert await store.era() != era
    entry = await store.get("a")
    assert entry is not None
    assert (entry.value, entry.version > read) == (b"x", True)
    assert await store.put("a", b"y", expect=entry.version) > entry.version
    for one in (store, admin):
        await one.aclose()


async def test_a_redis_that_writes_each_change_down_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """It has lost nothing of what it has acknowledged, so that nobody has to wait."""
    eras = []
    for number in range(2):
        with redis_server(tmp_path / str(number), "--appendonly", "yes") as server:
            store = RedisStore(f"redis://{server.address}", timeout=PATIENCE)
            eras.append(await store.era())
            await store.aclose()
    assert eras[0] == eras[1]


async def test_a_full_redis_refuses_and_still_answers(tmp_path: Path) -> None:
    """What cannot be kept is an error and not a silence."""
    with redis_server(tmp_path / "data", "--maxmemory", "1", "--maxmemory-policy", "noeviction") as full:
        store = RedisStore(f"redis://{full.address}", timeout=PATIENCE)
        with pytest.raises(StoreUnavailableError, match="OutOfMemoryError"):
            await store.put("a", b"x")
        assert await store.get("a") is None
        await store.aclose()


@pytest.mark.parametrize("manner", ["garbage", "close", "reset", "half", "answer", "500", "nests", "no end"])
async def test_an_etcd_that_answers_nonsense_is_away(server: Misbehaving, manner: str) -> None:
    """A proxy's page, half an answer, another language: never another error than the one."""
    answers = {
        "answer": (200, b'{"kvs": [{"key": 7}]}'),
        "500": (500, b"<html>"),
        "nests": (200, b"[" * 100_000),
        "no end": (
            200,
            b'{"kvs": [{"key": "YQ==", "mod_revision": 1e999}], "ID": "7", "header": {"revision": 1e999}}',
        ),
    }
    server.manner = "answer" if manner in answers else manner
    server.status, server.body = answers.get(manner, (200, b""))
    store = EtcdStore(server.url, timeout=PATIENCE)
    with pytest.raises(StoreUnavailableError, match="EtcdStore"):
        await store.entries("")
    with pytest.raises(StoreUnavailableError):
        await store.put("a", b"x", expect=0, expires_after=5.0)
    await store.aclose()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b"*1\r\n:7\r\n", b"*1\r\n" * 5_000, b""],
    ids=["another protocol", "something else", "too little", "nests", "nothing"],
)
async def test_a_redis_that_answers_nonsense_is_away(answer: bytes) -> None:
    """The same."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536) and answer:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", timeout=0.2)
        for step in (store.put("a", b"x"), store.get("a"), store.entries("")):
            with pytest.raises(StoreUnavailableError):
                await step
        await store.aclose()


async def test_what_others_keep_under_our_name_is_an_error_and_not_taken_for_a_value(
    redis_session: Server,
) -> None:
    """A prefix that is somebody's already is found out at the first step."""
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(f"redis://{redis_session.address}") as theirs:
        await theirs.set("{taken}:v:a", "a text")
    store = RedisStore(f"redis://{redis_session.address}", prefix="taken", timeout=PATIENCE)
    with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        await store.get("a")
    await store.aclose()


async def test_a_file_that_is_no_store_is_told_and_not_touched(tmp_path: Path) -> None:
    """Somebody else's file stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 100)
    with pytest.raises(StoreUnavailableError, match="file is not a database"):
        await FileStore(path, timeout=PATIENCE).put("a", b"x")
    assert path.read_text() == "my notes\n" * 100
    with pytest.raises(StoreUnavailableError, match="FileStore"):
        await FileStore(tmp_path / "notes.txt" / "below", timeout=PATIENCE).get("a")


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """An older program does not write what it does not understand."""
    import sqlite3

    store = FileStore(tmp_path / "shared.db", timeout=PATIENCE)
    await store.put("a", b"x")
    with sqlite3.connect(tmp_path / "shared.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StoreUnavailableError, match="newer version"):
        await store.put("a", b"y")


async def test_a_file_that_was_removed_begins_anew_with_higher_versions(tmp_path: Path) -> None:
    """A token of before is never given again."""
    store = FileStore(tmp_path / "shared.db", timeout=PATIENCE)
    before = await store.put("a", b"x")
    (tmp_path / "shared.db").unlink()
    assert await store.get("a") is None
    assert await store.put("a", b"x") > before


# -- who is there ----------------------------------------------------------------------------------------


def told_of(error: BaseException, store: StateStore, caplog: pytest.LogCaptureFixture) -> str:
    return "".join(traceback.format_exception(error)) + repr(store) + caplog.text


async def test_a_redis_with_a_password_and_tls_is_used_and_no_secret_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By URL or by argument; neither a wrong password nor a missing one stands in any text."""
    caplog.set_level(logging.DEBUG)
    certificate, key = trusted_certificate(tmp_path)
    with redis_server(
        tmp_path / "data", "--port", "0", "--tls-port", "PORT", "--tls-cert-file", certificate, "--tls-key-file", key,
        "--tls-ca-cert-file", certificate, "--requirepass", SECRET,
    ) as server:  # fmt: skip
        common: dict[str, Any] = {"tls_ca": certificate, "timeout": PATIENCE}
        by_url = RedisStore(
            f"rediss://:hunter2%2F%40%3A@{server.address}", tls_cert=certificate, tls_key=key, **common
        )
        await by_url.put("a", b"x")
        by_argument = RedisStore(
            f"rediss://{server.address}", password=SECRET, tls_cert=certificate, tls_key=key, **common
        )
        assert await by_argument.get("a") is not None
        wrong = RedisStore(
            f"rediss://{server.address}", password="wr0ng", tls_cert=certificate, tls_key=key, **common
        )
        with pytest.raises(StoreUnavailableError, match="AuthenticationError") as refused:
            await wrong.get("a")
        untrusting = RedisStore(f"rediss://{server.address}", password=SECRET, timeout=PATIENCE)
        with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED") as untrusted:
            await untrusting.get("a")
        text = told_of(refused.value, wrong, caplog) + told_of(untrusted.value, by_url, caplog)
        assert f"rediss://{server.address}/0" in text
        assert not any(secret in text for secret in (SECRET, "hunter2", "wr0ng"))
        for store in (by_url, by_argument, wrong, untrusting):
            await store.aclose()


async def test_an_etcd_with_users_and_tls_is_used_and_no_secret_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that is over is asked for anew, without anybody noticing."""
    import ssl

    import httpx2

    caplog.set_level(logging.DEBUG)
    certificate, key = trusted_certificate(tmp_path)
    with etcd_server(
        tmp_path / "data", "--cert-file", certificate, "--key-file", key, scheme="https"
    ) as server:
        url = f"https://{server.address}"
        async with httpx2.AsyncClient(
            base_url=f"{url}/v3/auth/",
            verify=ssl.create_default_context(cafile=certificate),
            trust_env=False,
            timeout=PATIENCE,
        ) as admin:
            for path, body in (
                ("user/add", {"name": "root", "password": SECRET}),
                ("role/add", {"name": "root"}),
                ("user/grant", {"user": "root", "role": "root"}),
                ("enable", {}),
            ):
                assert (await admin.post(path, json=body)).is_success
        store = EtcdStore(url, username="root", password=SECRET, tls_ca=certificate, timeout=PATIENCE)
        version = await store.put("a", b"x", expect=0)
        store._token = "over"
        assert await store.put("a", b"y", expect=version) > version
        async with asyncio.timeout(PATIENCE), store.watch("") as changes:
            await store.put("b", b"z")
            assert (await anext(changes)).key == "b"
        wrong = EtcdStore(url, username="root", password="wr0ng", tls_ca=certificate, timeout=PATIENCE)
        with pytest.raises(StoreUnavailableError, match="authentication failed") as refused:
            await wrong.get("a")
        untrusting = EtcdStore(url, username="root", password=SECRET, timeout=PATIENCE)
        with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await untrusting.get("a")
        text = told_of(refused.value, wrong, caplog) + repr(store)
        assert not any(secret in text for secret in (SECRET, "wr0ng"))
        for one in (store, wrong, untrusting):
            await one.aclose()


async def test_a_redis_user_with_the_rights_of_the_docs_may_do_all_of_it_and_nothing_else(
    tmp_path: Path,
) -> None:
    """The rule that the how-to gives: what a bot's password is good for, when somebody has found it."""
    import redis.asyncio

    rule = next(
        line for line in SEVERAL_PROCESSES.read_text().splitlines() if line.startswith("ACL SETUSER desk-7 ")
    )
    with redis_server(tmp_path / "data") as server:
        async with redis.asyncio.Redis.from_url(f"redis://{server.address}") as admin:
            await admin.execute_command(*rule.replace(">PASSWORD", f">{SECRET}").split())
            await admin.set("somebody else's", "x")
        store = RedisStore(
            f"redis://{server.address}", username="desk-7", password=SECRET, prefix="desk-7", timeout=PATIENCE
        )
        async with asyncio.timeout(PATIENCE), store.watch("") as changes:
            lease = await take_lease(store, "journal", length=600.0)
            assert lease is not None
            assert (await anext(changes)).key == "lease/journal"
        assert await lease.renew()
        assert await store.put("a", b"x", guard=lease.guard) > 0
        assert [entry.key for entry in await store.entries("")] == ["a", "lease/journal"]
        assert await store.delete("a")
        assert await store.era() != ""
        other = RedisStore(
            f"redis://{server.address}", username="desk-7", password=SECRET, prefix="desk-8", timeout=PATIENCE
        )
        with pytest.raises(StoreUnavailableError, match="NoPermission"):
            await other.get("a")
        with pytest.raises(StoreUnavailableError, match="NoPermission"):
            await other.put("a", b"x")
        async with redis.asyncio.Redis.from_url(
            f"redis://{server.address}", username="desk-7", password=SECRET
        ) as theirs:
            for command in (["GET", "somebody else's"], ["FLUSHALL"], ["CONFIG", "GET", "*"]):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    await theirs.execute_command(*command)
        for one in (store, other):
            await one.aclose()


async def test_an_etcd_user_of_one_prefix_with_a_certificate_may_do_nothing_else(tmp_path: Path) -> None:
    """Whoever shows no certificate is not heard at all."""
    import ssl

    import httpx2

    certificate, key = trusted_certificate(tmp_path)
    with etcd_server(
        tmp_path / "data", "--cert-file", certificate, "--key-file", key, "--client-cert-auth", "--trusted-ca-file",
        certificate, scheme="https",
    ) as server:  # fmt: skip
        url = f"https://{server.address}"
        trust = ssl.create_default_context(cafile=certificate)
        trust.load_cert_chain(certificate, key)
        async with httpx2.AsyncClient(
            base_url=f"{url}/v3/auth/", verify=trust, trust_env=False, timeout=PATIENCE
        ) as admin:
            begin, end = (base64.b64encode(one).decode() for one in (b"desk-7/", b"desk-70"))
            may = {"permType": "READWRITE", "key": begin, "range_end": end}
            for path, body in (
                ("user/add", {"name": "root", "password": "r00t"}),
                ("role/add", {"name": "root"}),
                ("user/grant", {"user": "root", "role": "root"}),
                ("user/add", {"name": "desk-7", "password": SECRET}),
                ("role/add", {"name": "desk-7"}),
                ("role/grant", {"name": "desk-7", "perm": may}),
                ("user/grant", {"user": "desk-7", "role": "desk-7"}),
                ("enable", {}),
            ):
                assert (await admin.post(path, json=body)).is_success
        common: dict[str, Any] = {
            "username": "desk-7", "password": SECRET, "tls_ca": certificate, "timeout": PATIENCE,
        }  # fmt: skip
        with_one = {"tls_cert": certificate, "tls_key": key}
        store = EtcdStore(url, prefix="desk-7", **common, **with_one)
        async with asyncio.timeout(PATIENCE), store.watch("") as changes:
            lease = await take_lease(store, "journal", length=600.0)
            assert lease is not None
            assert (await anext(changes)).key == "lease/journal"
        assert await lease.renew()
        assert await store.put("a", b"x", guard=lease.guard) > 0
        assert [entry.key for entry in await store.entries("")] == ["a", "lease/journal"]
        other = EtcdStore(url, prefix="desk-8", **common, **with_one)
        with pytest.raises(StoreUnavailableError, match="permission denied"):
            await other.put("a", b"x")
        without = EtcdStore(url, prefix="desk-7", **common)
        with pytest.raises(StoreUnavailableError, match="EtcdStore"):
            await without.get("a")
        for one in (store, other, without):
            await one.aclose()


async def test_an_etcd_endpoint_that_is_away_is_passed_over(
    etcd_session: Server, nobody: str, unreachable: str
) -> None:
    """One of several is enough; the one that answered is asked first from then on."""
    for away in (nobody, unreachable):
        store = EtcdStore(away, *[f"http://{etcd_session.address}"] * 9, prefix=away, timeout=6.0)
        assert await answered(partial(store.get, "a")) is None
        assert await answered(partial(store.put, "a", b"x")) > 0
        await store.aclose()


@pytest.mark.parametrize(
    "body", [b'{"code": 14, "message": "etcdserver: no leader"}', b"<html>"], ids=["member", "proxy"]
)
async def test_an_etcd_endpoint_that_answers_for_nobody_is_passed_over(
    etcd_session: Server, server: Misbehaving, body: bytes
) -> None:
    """A member without a leader, a proxy without its member: a step that reads goes on at once, and all later ones."""
    server.answers(503, body)
    here, prefix = f"http://{etcd_session.address}", f"passed over {len(body)}"
    reads = EtcdStore(server.url, here, prefix=prefix, timeout=PATIENCE)
    assert await reads.get("a") is None
    writes = EtcdStore(server.url, here, prefix=prefix, timeout=PATIENCE)
    writes._began = 0  # known: then a change is the first request, and nobody knows what came of it
    with pytest.raises(StoreUnavailableError, match="answered 503"):
        await writes.put("a", b"x")
    assert await writes.put("a", b"y") > 0
    asked = len(server.requests)
    assert await reads.get("a") is not None
    assert len(server.requests) == asked
    for store in (reads, writes):
        await store.aclose()


async def test_an_etcd_whose_users_somebody_changes_goes_on_with_a_new_token(tmp_path: Path) -> None:
    """A JWT is refused from then on, with another word than one that is over."""
    import httpx2

    private = rsa.generate_private_key(65_537, 2_048)
    (tmp_path / "private").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "public").write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    token = f"jwt,pub-key={tmp_path / 'public'},priv-key={tmp_path / 'private'},sign-method=RS256,ttl=1h"
    with etcd_server(tmp_path / "data", "--auth-token", token) as server:
        url = f"http://{server.address}"
        async with httpx2.AsyncClient(base_url=f"{url}/v3/auth/", trust_env=False, timeout=PATIENCE) as admin:

            async def change(path: str, body: dict[str, str], headers: dict[str, str] | None = None) -> None:
                assert (await admin.post(path, json=body, headers=headers)).is_success

            root = {"name": "root", "password": SECRET}
            await change("user/add", root)
            await change("role/add", {"name": "root"})
            await change("user/grant", {"user": "root", "role": "root"})
            await change("enable", {})
            store = EtcdStore(url, username="root", password=SECRET, timeout=PATIENCE)
            version = await store.put("a", b"x")
            told = (await admin.post("authenticate", json=root)).json()
            await change("role/add", {"name": "another"}, {"Authorization": told["token"]})
            assert await store.put("a", b"y", expect=version) > version
            await store.aclose()


async def test_redis_behind_sentinel_is_found_and_watched(tmp_path: Path, redis_session: Server) -> None:
    """The sentinels are asked where the server is."""
    with sentinel_server(tmp_path / "data", redis_session) as sentinel:
        store = RedisStore(
            f"redis://{sentinel.address}", sentinel="desk", prefix="by sentinel", timeout=PATIENCE
        )
        async with asyncio.timeout(PATIENCE), store.watch("") as changes:
            version = await store.put("a", b"x")
            assert (await anext(changes)).version == version
        assert [entry.version for entry in await store.entries("")] == [version]
        unknown = RedisStore(f"redis://{sentinel.address}", sentinel="another", timeout=PATIENCE)
        with pytest.raises(StoreUnavailableError, match="another"):
            await unknown.get("a")
        for one in (store, unknown):
            await one.aclose()


async def test_sentinels_and_servers_with_passwords_lead_to_the_new_server_after_a_failover(
    tmp_path: Path,
) -> None:
    """Each with a password of its own; the watch ends, and the next step goes to the one that was a replica."""
    import redis.asyncio

    words = ("--requirepass", SECRET, "--masterauth", SECRET, "--repl-diskless-sync-delay", "0")
    with (
        redis_server(tmp_path / "first", *words) as first,
        redis_server(tmp_path / "second", *words, "--replicaof", HOST, str(first.port)) as second,
    ):
        async with redis.asyncio.Redis.from_url(
            f"redis://{second.address}", password=SECRET, decode_responses=True
        ) as replica:
            while (await replica.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110 - the event is on the server
                await asyncio.sleep(0.02)
        # It looks for replicas when it starts, and then every 10 seconds.
        with sentinel_server(
            tmp_path / "sentinel", first, "requirepass s3ntinel", f"sentinel auth-pass desk {SECRET}",
            "sentinel down-after-milliseconds desk 600000", "sentinel failover-timeout desk 1000",
        ) as sentinel:  # fmt: skip
            await fails_over(f"redis://:s3ntinel@{sentinel.address}", first)


async def fails_over(url: str, first: Server) -> None:
    import redis.asyncio

    store = RedisStore(url, sentinel="desk", password=SECRET, timeout=PATIENCE)
    hasty = RedisStore(url, sentinel="desk", password=SECRET, timeout=1.0)
    wrong = RedisStore(url.replace("s3ntinel", "wr0ng"), sentinel="desk", password=SECRET, timeout=PATIENCE)
    async with asyncio.timeout(PATIENCE), store.watch("") as changes:
        await store.put("a", b"x")
        assert (await anext(changes)).key == "a"
        async with redis.asyncio.Redis.from_url(f"redis://{first.address}", password=SECRET) as admin:
            while await admin.wait(1, 1000) != 1:  # what only a server had that dies is lost with it
                pass
        async with redis.asyncio.Redis.from_url(
            url
        ) as sentinel:  # not before: a machine that stands still is no server that is down
            await sentinel.execute_command("SENTINEL", "SET", "desk", "down-after-milliseconds", "300")
        first.kill()
        with pytest.raises(StoreUnavailableError):
            await anext(changes)
    async with asyncio.timeout(PATIENCE):
        while not await is_put(hasty):  # noqa: ASYNC110 - the event is on the servers
            await asyncio.sleep(0.05)
    found = await answered(lambda: hasty.get("a"))
    assert found is not None
    assert found.value == b"x"
    with pytest.raises(StoreUnavailableError) as refused:
        await wrong.get("a")
    told = "".join(traceback.format_exception(refused.value))
    assert not any(secret in told for secret in (SECRET, "wr0ng", "s3ntinel"))
    for one in (store, hasty, wrong):
        await one.aclose()


async def is_put(store: StateStore) -> bool:
    try:
        await store.put("b", b"y")
    except StoreUnavailableError:
        return False
    return True


async def test_a_sentinel_that_hangs_leaves_time_for_the_next_one(
    tmp_path: Path, redis_session: Server, unreachable: str
) -> None:
    """A machine without power refuses nothing: with it went the server, perhaps, and the others say who is that now."""
    with sentinel_server(tmp_path / "data", redis_session) as sentinel:
        hangs = unreachable.replace("http:", "redis:")
        store = RedisStore(hangs, f"redis://{sentinel.address}", sentinel="desk", prefix="hangs", timeout=1.5)
        async with asyncio.timeout(PATIENCE):
            while not await is_put(store):
                pass
        await store.aclose()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (RedisStore, "urls must be at least one"),
        (lambda: RedisStore(f"http://:{SECRET}@x"), "URL no. 1 of urls must begin with redis://"),
        (lambda: RedisStore(f"redis://u:{SECRET}@x:1"), "URL no. 1 of urls must begin with redis://"),
        (
            lambda: RedisStore("redis://x/desk"),
            "URL no. 1 of urls must name its database by a number",
        ),
        (lambda: RedisStore("redis://x", tls_ca="ca.pem"), "tls_ca needs URLs that begin with rediss://"),
        (lambda: RedisStore("redis://a", "redis://b"), "several urls are for cluster=True"),
        (lambda: RedisStore("redis://a", cluster=True, sentinel="b"), "cannot be together"),
        (lambda: RedisStore("redis://a", timeout=0), "timeout must be seconds"),
        (lambda: RedisStore(b"redis://a"), "urls must be strings"),  # type: ignore[arg-type]  # the mistake under test
        (EtcdStore, "urls must be at least one"),
        (lambda: EtcdStore(f"http://u:{SECRET}@x"), "URL no. 1 of urls must be like https://host:2379"),
        (lambda: EtcdStore("localhost:2379"), "URL no. 1 of urls must be like https://host:2379"),
        (lambda: EtcdStore("http://x", username="u"), "must be given together"),
        (lambda: EtcdStore("http://x", prefix=""), "prefix must be a string"),
        (lambda: FileStore(""), "path must be a file"),
        (lambda: FileStore(7), "path must be a file"),  # type: ignore[arg-type]  # the mistake under test
    ],
)
async def test_what_names_no_store_is_refused_without_its_secrets(
    make: Callable[[], object], told: str
) -> None:
    """The argument and the way out, when it is made and not when it is needed."""
    with pytest.raises((TypeError, ValueError), match=told) as refused:
        make()
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
