"""Never run, only type-checked: what type checkers tell users about the service in apps of Starlette and FastAPI."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, TypedDict

from fastapi import Depends, FastAPI
from starlette.applications import Starlette

from shockproof import ErrorRecoveryService
from shockproof.integrations.starlette import answer_refusals, lifespan_of, recovery_of

recovery = ErrorRecoveryService()


class State(TypedDict):
    pool: str


@asynccontextmanager
async def without_state(app: FastAPI) -> AsyncGenerator[None]:
    yield


@asynccontextmanager
async def with_state(app: Starlette) -> AsyncGenerator[State]:
    yield {"pool": "of connections"}


api = FastAPI(lifespan=lifespan_of(recovery))
FastAPI(lifespan=lifespan_of(recovery, without_state))
Starlette(lifespan=lifespan_of(recovery))
Starlette(lifespan=lifespan_of(recovery, with_state))
answer_refusals(api)
lifespan_of(recovery, 5)  # type: ignore[arg-type]  # a lifespan is called with the app


@api.get("/price")
async def price(recovery: Annotated[ErrorRecoveryService, Depends(recovery_of)]) -> list[str]:
    return [*recovery.get_all_service_statuses()]
