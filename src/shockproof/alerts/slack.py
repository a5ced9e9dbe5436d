"""
Slack, by an incoming webhook: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shockproof.alerts.incident import Notice
from shockproof.alerts.posting import check_url, post, secrets_in
from shockproof.vocabulary.arguments import Seconds, a_name, seconds

__all__ = ["Slack"]

_SIGNS: Final = {"critical": ":rotating_light:", "error": ":red_circle:", "warning": ":warning:"}
# What Slack asks to be escaped; so no text of an error can mention a channel or a person.
_ESCAPED: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Slack:
    """
    A channel of Slack. What is due at the same time is one message.

    Args:
        url: of the incoming webhook: a secret, kept out of every log.
        name: of this target, when there are several. Default ``"slack"``.
        timeout: seconds that one attempt may take, more than 0. Default 10.

    Raises:
        TypeError, ValueError: a value that is not allowed.
    """

    at_once = 20

    def __init__(self, url: str, *, name: str = "slack", timeout: Seconds = 10.0) -> None:
        self._url = check_url("url", url)
        self.name = a_name("name", name)
        self.timeout = seconds("timeout", timeout, more_than=0)
        self.secrets = secrets_in(url)

    def send(self, notices: Sequence[Notice]) -> None:
        """Post one message."""
        post(
            self._url,
            {"text": "\n".join(_line(notice) for notice in notices)},
            timeout=self.timeout,
            headers={},
        )

    def __repr__(self) -> str:
        return f"<Slack {self.name!r}>"


def _line(notice: Notice) -> str:
    sign = _SIGNS[notice.incident.severity] if notice.kind == "opened" else ":white_check_mark:"
    return f"{sign} {notice.text.translate(_ESCAPED)} ({notice.source.translate(_ESCAPED)})"
