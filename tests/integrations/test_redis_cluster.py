"""A store in a Redis cluster of three masters: a slot that moves, a node that hangs, and one that dies."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from shockproof import StateStore, StoreUnavailableError, take_lease
from shockproof.integrations.redis import RedisStore
from tests.integrations.store_servers import HOST, PATIENCE, Server, answered, needs_servers, redis_server

pytestmark = [needs_servers, pytest.mark.asyncio, pytest.mark.timeout(2 * PATIENCE)]

SLOTS = 16_384
SEVERAL_PROCESSES = Path(__file__).parents[2] / "docs/how-to/several-processes.md"


async def told(server: Server, *words: object) -> Any:  # Any: what a command answers
    """What one node answers to a command."""
    async with redis.asyncio.Redis.from_url(f"redis://{server.address}", decode_responses=True) as node:
        return await node.execute_command(*words)


class Cluster:
    """Three masters that know each other, each with a third of the slots."""

    def __init__(self, nodes: list[Server]) -> None:
        self.nodes = nodes

    async def join(self) -> None:
        bounds = [SLOTS * number // len(self.nodes) for number in range(len(self.nodes) + 1)]
        for number, node in enumerate(self.nodes):
            await told(node, "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            await told(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            port = (await told(node, "CONFIG", "GET", "cluster-port"))["cluster-port"]
            await told(self.nodes[0], "CLUSTER", "MEET", HOST, node.port, port)
        async with asyncio.timeout(PATIENCE):
            for node in self.nodes:
                while not await self._knows_all(node):  # noqa: ASYNC110 - the event is on the servers
                    await asyncio.sleep(0.02)

    async def _knows_all(self, node: Server) -> bool:
        told_of = await told(node, "CLUSTER", "INFO")
        return "cluster_state:ok" in str(told_of) and len(await told(node, "CLUSTER", "SLOTS")) == len(
            self.nodes
        )

    async def owner_first(self, slot: int) -> list[Server]:
        """All nodes, the owner of the slot first."""
        for low, high, (_, port, *_), *_ in await told(self.nodes[0], "CLUSTER", "SLOTS"):
            if low <= slot <= high:
                return sorted(self.nodes, key=lambda node: node.port != port)
        raise AssertionError(f"nobody has slot {slot}")

    def store(self, prefix: str, *first: Server, timeout: float = PATIENCE) -> RedisStore:
        """That asks these nodes first, and then the others."""
        nodes = [*first, *(node for node in self.nodes if node not in first)]
        return RedisStore(
            *(f"redis://{node.address}" for node in nodes), cluster=True, prefix=prefix, timeout=timeout
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    # Nodes are moved and ended by hand, and none of them takes another one for dead.
    words = (
        *("--cluster-enabled", "yes", "--cluster-node-timeout", "600000"),
        *("--cluster-require-full-coverage", "no"),
    )
    with ExitStack() as stack:
        nodes = [stack.enter_context(redis_server(folder / str(number), *words)) for number in range(3)]
        cluster = Cluster(nodes)
        asyncio.run(cluster.join())
        yield cluster


async def slot_of(cluster: Cluster, prefix: str) -> int:
    return int(await told(cluster.nodes[0], "CLUSTER", "KEYSLOT", f"{{{prefix}}}:last"))


@asynccontextmanager
async def closing(*stores: StateStore) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for store in stores:
            await store.aclose()


async def test_all_keys_of_a_store_lie_together_whichever_node_is_asked_first(cluster: Cluster) -> None:
    """Scripts stay within one slot, however many keys there are; news come, too, and prefixes are spread over the nodes."""
    owners = set()
    for number in range(4):
        prefix = f"desk {number}"
        owner, other, _ = await cluster.owner_first(await slot_of(cluster, prefix))
        owners.add(owner)
        store = cluster.store(prefix, other)
        async with closing(store), asyncio.timeout(PATIENCE), store.watch("") as changes:
            versions = [await store.put(f"key {number}", b"x") for number in range(5)]
            assert [(await anext(changes)).version for _ in versions] == versions
            assert [entry.version for entry in await store.entries("key")] == versions
    assert len(owners) > 1


async def test_a_user_with_the_rights_of_the_docs_may_use_a_cluster(cluster: Cluster) -> None:
    """The rule of the how-to, and what it names for clusters."""
    text = SEVERAL_PROCESSES.read_text()
    rule = next(line for line in text.splitlines() if line.startswith("ACL SETUSER desk-7 "))
    more = re.search(r"In a cluster a user needs two rights more: `(.*?)`", text)
    assert more is not None
    for node in cluster.nodes:
        await told(node, *rule.replace(">PASSWORD", ">hunter2").split(), *more[1].split())
    urls = [f"redis://{node.address}" for node in cluster.nodes]
    store = RedisStore(
        *urls, cluster=True, username="desk-7", password="hunter2", prefix="desk-7", timeout=PATIENCE
    )
    async with closing(store), asyncio.timeout(PATIENCE), store.watch("") as changes:
        lease = await take_lease(store, "journal", length=600.0)
        assert lease is not None
        assert (await anext(changes)).key == "lease/journal"
        assert await lease.renew()
        assert len(await store.entries("")) == 1


async def test_nobody_gets_a_lease_twice_while_its_slot_moves_and_all_goes_on_behind_it(
    cluster: Cluster,
) -> None:
    """Half of the keys are with the new node already: neither knows all, and so neither decides."""
    prefix = "moves"
    slot = await slot_of(cluster, prefix)
    old, new, third = await cluster.owner_first(slot)
    old_id, new_id = await told(old, "CLUSTER", "MYID"), await told(new, "CLUSTER", "MYID")
    store, hasty = cluster.store(prefix), cluster.store(prefix, timeout=1.0)
    async with closing(store, hasty):
        lease = await take_lease(store, "journal", length=600.0)
        assert lease is not None
        await answered(lambda: hasty.put("another", b"x"))

        async def move(*keys: str) -> None:
            await told(old, "MIGRATE", HOST, new.port, "", 0, 5000, "KEYS", *keys)

        await told(new, "CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
        await told(old, "CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
        await move(f"{{{prefix}}}:last", f"{{{prefix}}}:keys")
        for step in (
            take_lease(hasty, "journal", length=600.0),
            hasty.entries(""),
            hasty.renew(*lease.guard),
            hasty.delete("another"),
        ):
            with pytest.raises(StoreUnavailableError):
                await step
        assert await answered(lambda: hasty.get("another")) is not None, "one key is where it is"
        await move(f"{{{prefix}}}:v:lease/journal", f"{{{prefix}}}:v:another")
        for node in (new, old, third):
            await told(node, "CLUSTER", "SETSLOT", slot, "NODE", new_id)

        assert await answered(lambda: take_lease(hasty, "journal", length=600.0)) is None
        assert await lease.renew()
        assert [entry.key for entry in await store.entries("")] == ["another", "lease/journal"]
        async with asyncio.timeout(PATIENCE), store.watch("") as changes:
            version = await answered(lambda: hasty.put("another", b"y"))
            async for change in changes:
                if change.version == version:
                    break


async def test_a_node_that_hangs_is_passed_over_as_soon_as_another_one_has_its_slot(cluster: Cluster) -> None:
    """A machine without power refuses nothing, it is silent: whoever has asked it before asks elsewhere, and whoever comes new."""
    prefix = "hangs"
    slot = await slot_of(cluster, prefix)
    old, new, third = await cluster.owner_first(slot)
    new_id = await told(new, "CLUSTER", "MYID")
    store, late = cluster.store(prefix, timeout=0.5), cluster.store(prefix, old, timeout=0.5)
    async with closing(store, late):
        await answered(lambda: store.put("a", b"x"))
        with old.paused():
            with pytest.raises(StoreUnavailableError):
                await store.put("a", b"y")
            await told(new, "CLUSTER", "BUMPEPOCH")
            for node in (new, third):
                await told(node, "CLUSTER", "SETSLOT", slot, "NODE", new_id)
            async with asyncio.timeout(PATIENCE):
                for one in (store, late):
                    await watches_and_puts(one)


async def watches_and_puts(store: StateStore) -> None:
    """As the fleet does: watch, and again when that was refused, or nothing is told."""
    while True:
        with contextlib.suppress(StoreUnavailableError):
            async with store.watch("") as changes:
                version = await store.put("b", b"z")
                assert (await anext(changes)).version == version
                return


async def test_a_node_that_dies_with_slots_of_others_is_nothing_to_this_store(cluster: Cluster) -> None:
    """Of all slots a store needs one: also who comes new is served."""
    prefix = "lives"
    owner, _, third = await cluster.owner_first(await slot_of(cluster, prefix))
    store = cluster.store(prefix, owner)
    async with closing(store):
        await store.put("a", b"x")
        third.kill()
        assert await store.put("a", b"y") > 0
        late = cluster.store(prefix, third, owner)
        async with closing(late):
            assert await late.get("a") is not None
            await watches_and_puts(late)
