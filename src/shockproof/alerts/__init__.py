"""
Alerts: people are told when something is wrong, and when it is over.

```python
from shockproof import ErrorRecoveryService
from shockproof.alerts import Alerts, PagerDuty, Slack


async def main() -> None:
    recovery = ErrorRecoveryService()
    slack = Slack("https://hooks.slack.com/services/T0/B0/s3cret")
    async with recovery, Alerts(recovery, [slack, PagerDuty("routing-key")]):
        ...
```
"""

from __future__ import annotations

from shockproof.alerts.alerts import Alerts
from shockproof.alerts.incident import Incident, Notice
from shockproof.alerts.pagerduty import PagerDuty
from shockproof.alerts.rules import AlertRules
from shockproof.alerts.slack import Slack
from shockproof.alerts.target import AlertNotSentError, Target
from shockproof.alerts.webhook import Webhook

__all__ = [
    "AlertNotSentError",
    "AlertRules",
    "Alerts",
    "Incident",
    "Notice",
    "PagerDuty",
    "Slack",
    "Target",
    "Webhook",
]
