"""
apprise: alerts by e-mail, Telegram, Discord, SMS and all that it knows, one URL each.

```python
from shockproof import ErrorRecoveryService
from shockproof.alerts import Alerts
from shockproof.integrations.apprise import Apprise

recovery = ErrorRecoveryService()
alerts = Alerts(recovery, [Apprise("json://localhost:8080/alerts")])
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shockproof.alerts.incident import Notice
from shockproof.alerts.target import AlertNotSentError
from shockproof.integrations.optional import missing
from shockproof.vocabulary.arguments import Seconds, a_name, seconds

try:
    import apprise
except ImportError as error:
    raise missing("apprise", "apprise", error) from error

__all__ = ["Apprise"]

_TYPES: Final = {"critical": "failure", "error": "failure", "warning": "warning"}


class Apprise:
    """
    Whatever has a URL of apprise's. What is due at the same time is one message.

    Args:
        *urls: at least one, such as ``"tgram://token/chat"``: secrets, kept out of our logs. With several, the message
            counts as taken when all took it; one for each target of `Alerts` is better, for they are retried together.
        name: of this target, when there are several. Default ``"apprise"``.
        timeout: seconds that one attempt may take, more than 0. Default 20.

    Raises:
        TypeError, ValueError: no URL, or one that apprise does not understand.
    """

    at_once = 20

    def __init__(self, *urls: str, name: str = "apprise", timeout: Seconds = 20.0) -> None:
        self._apprise = apprise.Apprise()
        if not urls:
            raise ValueError('urls must be at least one, such as "tgram://token/chat", got none')
        for number, url in enumerate(urls, 1):
            if not isinstance(url, str):
                raise TypeError(f"urls must be strings, got a value of type {type(url).__name__}")
            if not self._apprise.add(url):
                raise ValueError(
                    f"apprise does not understand URL no. {number}, which begins with {_scheme(url)!r}"
                )
        self.name = a_name("name", name)
        self.timeout = seconds("timeout", timeout, more_than=0)
        self.secrets = urls

    def send(self, notices: Sequence[Notice]) -> None:
        """
        Hand the message over to apprise, which blocks. Its clients are threads however it is called.

        Raises:
            AlertNotSentError: one of the URLs did not take it; apprise does not say why, but its logger does.
        """
        opened = [notice for notice in notices if notice.kind == "opened"]
        taken = self._apprise.notify(
            title=f"shockproof: {notices[0].source}",
            body="\n".join(notice.text for notice in notices),
            notify_type=_TYPES[opened[0].incident.severity] if opened else "success",
            body_format="text",
        )
        if not taken:
            raise AlertNotSentError("apprise could not deliver it; the logger 'apprise' says why")

    def __repr__(self) -> str:
        return f"<Apprise {self.name!r}>"


def _scheme(url: str) -> str:
    return f"{url.partition('://')[0]}://" if "://" in url else "no scheme"
