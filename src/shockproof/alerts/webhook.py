"""
Anything that takes JSON by HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shockproof.alerts.incident import Notice
from shockproof.alerts.posting import check_url, post, secrets_in
from shockproof.vocabulary.arguments import Seconds, a_name, seconds

__all__ = ["Webhook"]


class Webhook:
    """
    A URL that gets ``{"source": ..., "notices": [...]}``, each as `Notice.to_dict` gives it.

    Args:
        url: where it is posted; it may be a secret, and is kept out of every log.
        headers: sent along, for instance ``{"Authorization": "Bearer ..."}``; their values are kept out of every log.
        name: of this target, when there are several. Default ``"webhook"``.
        timeout: seconds that one attempt may take, more than 0. Default 10.

    Raises:
        TypeError, ValueError: a value that is not allowed.
    """

    at_once = 100

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        name: str = "webhook",
        timeout: Seconds = 10.0,
    ) -> None:
        self._url = check_url("url", url)
        self._headers = dict(headers or {})
        self.name = a_name("name", name)
        self.timeout = seconds("timeout", timeout, more_than=0)
        values = list(self._headers.values())
        self.secrets = (
            *secrets_in(url),
            *values,
            *(value.partition(" ")[2] for value in values),
        )  # Bearer ..., Basic ...

    def send(self, notices: Sequence[Notice]) -> None:
        """Post one request."""
        body = {"source": notices[0].source, "notices": [notice.to_dict() for notice in notices]}
        post(self._url, body, timeout=self.timeout, headers=self._headers)

    def __repr__(self) -> str:
        return f"<Webhook {self.name!r}>"
