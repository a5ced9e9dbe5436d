"""
PagerDuty, by its Events API v2: https://developer.pagerduty.com/docs/events-api-v2-overview
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from shockproof.alerts.incident import Notice
from shockproof.alerts.posting import check_url, post
from shockproof.vocabulary.arguments import Seconds, a_name, seconds

__all__ = ["PagerDuty"]

_LONGEST_SUMMARY: Final = 1024


class PagerDuty:
    """
    A service of PagerDuty: triggered when an incident opens, resolved under the same key when it is over.

    Args:
        routing_key: the integration key of the service: a secret, kept out of every log.
        name: of this target, when there are several. Default ``"pagerduty"``.
        url: where events go. Default: the API of the US; for the EU
            ``"https://events.eu.pagerduty.com/v2/enqueue"``.
        timeout: seconds that one attempt may take, more than 0. Default 10.

    Raises:
        TypeError, ValueError: a value that is not allowed.
    """

    at_once = 1

    def __init__(
        self,
        routing_key: str,
        *,
        name: str = "pagerduty",
        url: str = "https://events.pagerduty.com/v2/enqueue",
        timeout: Seconds = 10.0,
    ) -> None:
        if not isinstance(routing_key, str):
            raise TypeError(f"routing_key must be a string, got a value of type {type(routing_key).__name__}")
        if not routing_key:
            raise ValueError(
                "routing_key must be the integration key of a PagerDuty service, got an empty string"
            )
        self._routing_key = routing_key
        self._url = check_url("url", url)
        self.name = a_name("name", name)
        self.timeout = seconds("timeout", timeout, more_than=0)
        self.secrets = (routing_key,)

    def send(self, notices: Sequence[Notice]) -> None:
        """Send one event for each; sent a second time it is the same one, by its key."""
        for notice in notices:
            post(self._url, self._event(notice), timeout=self.timeout, headers={})

    def _event(self, notice: Notice) -> dict[str, Any]:  # Any: JSON
        event: dict[str, Any] = {  # Any: JSON
            "routing_key": self._routing_key,
            "event_action": "trigger" if notice.kind == "opened" else "resolve",
            "dedup_key": notice.dedup_key,
        }
        if notice.kind == "opened":
            incident = notice.incident
            event["payload"] = {
                "summary": incident.summary[:_LONGEST_SUMMARY],
                "source": notice.source,
                "severity": incident.severity,
                "timestamp": notice.to_dict()["opened_at"],
                "component": incident.service_name or "shockproof",
                "class": incident.rule,
            }
        return event

    def __repr__(self) -> str:
        return f"<PagerDuty {self.name!r}>"
