"""
One library, every scenario, three times each: what the worker process does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import warnings
from typing import NamedTuple

from correctness.libraries import load
from correctness.library import Differs, Failed, Library, NotOffered
from correctness.scenarios import Scenario, all_scenarios

PASS, FAIL, DIFFERS, NOT_OFFERED, ERROR, VARIES = "pass", "fail", "differs", "n/a", "error", "varies"
TIMES = 3
ROUNDS = 3
LIMIT = 3.0
STUCK = 3  # the exit code of a worker whose scenario does not even end when it is cancelled


class Verdict(NamedTuple):
    kind: str
    reason: str = ""


async def _once(scenario: Scenario, library: Library) -> Verdict:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    task = asyncio.ensure_future(scenario.body(library))
    done, _ = await asyncio.wait((task,), timeout=LIMIT)
    if not done:
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=1.0)
        if not done:
            raise TimeoutError
        return Verdict(FAIL, "it never ends")
    try:
        task.result()
    except Failed as failed:
        return Verdict(FAIL, str(failed))
    except Differs as differs:
        return Verdict(DIFFERS, str(differs))
    except NotOffered as missing:
        return Verdict(NOT_OFFERED, str(missing))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is shown
        told = re.sub(r" at 0x[0-9a-f]+", "", str(error))
        return Verdict(ERROR, f"{type(error).__name__}: {told}")
    finally:
        await library.close()
    return Verdict(PASS)


def _judge(scenario: Scenario, kind: type[Library]) -> Verdict:
    seen: list[Verdict] = []
    for _ in range(ROUNDS):
        seen = []
        for _ in range(TIMES):
            seen.append(asyncio.run(_once(scenario, kind())))
            if seen[0].kind == NOT_OFFERED:
                return seen[0]
        if len({verdict.kind for verdict in seen}) == 1:
            return seen[0]
    return Verdict(VARIES, "; ".join(f"{verdict.kind} {verdict.reason}".strip() for verdict in seen))


def work(name: str, first: int, match: str) -> None:
    """Judge the library from the scenario of that number on; one line of JSON for each."""
    warnings.simplefilter("ignore")
    kind = load(name)
    for scenario in [found for found in all_scenarios() if match in found.name][first:]:
        try:
            verdict = _judge(scenario, kind)
        except TimeoutError:
            verdict = Verdict(FAIL, "it never ends, cancelled or not")
            print(json.dumps(verdict), flush=True)
            os._exit(STUCK)
        print(json.dumps(verdict), flush=True)
    sys.stdout.flush()
