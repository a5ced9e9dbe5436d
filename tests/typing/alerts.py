"""Never run, only type-checked: what type checkers tell users about alerts and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type

from shockproof import ErrorRecoveryService
from shockproof.alerts import AlertRules, Alerts, Incident, Notice, PagerDuty, Slack, Target, Webhook
from shockproof.integrations.apprise import Apprise

recovery = ErrorRecoveryService()


class Printer:
    name, timeout, at_once, secrets = "printer", 5.0, 10, ()

    async def send(self, notices: Sequence[Notice]) -> None: ...


class Silent:
    name = "silent"


async def alerts() -> None:
    everybody: list[Target] = [Slack("https://x"), PagerDuty("key"), Apprise("json://x"), Printer()]
    Alerts(recovery, [Slack("https://x"), Webhook("https://x")])
    async with Alerts(recovery, everybody, rules=AlertRules(circuit_opened=None), every=1) as running:
        assert_type(running.incidents, tuple[Incident, ...])
    Alerts(recovery, [Silent()])  # type: ignore[list-item]  # a target has a timeout and sends
    Alerts(recovery, [Printer()], sending={"timeouts": 2})  # type: ignore[arg-type]  # timeout is meant
