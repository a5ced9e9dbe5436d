"""A service for each host that an HTTP client talks to, and not more of them than was agreed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Unpack

from shockproof.calls.options import check_options
from shockproof.service import check_recovery
from shockproof.vocabulary.arguments import whole_number

if TYPE_CHECKING:
    from shockproof.calls.handle import Handle
    from shockproof.calls.options import ServiceOptions
    from shockproof.service import ErrorRecoveryService

__all__ = ["ServicePerHost"]

_OTHERS: Final = "other hosts"


class ServicePerHost:
    """
    Hands out the service of a host, which is declared when the host is first asked: ``api.venue.com:8443``.

    The first *most* hosts get a service each. All that come later share one, called ``other hosts``, so that a
    client that is sent around by redirects or by its input makes no endless number of services and metrics.

    Args:
        recovery: whose services.
        prefix: what stands before each name, ``"http/"`` for example. Default: nothing.
        most: hosts with a service of their own, at least 1. Default: 100.
        **options: as in `ErrorRecoveryService.service`, the same for each.

    Raises:
        TypeError, ValueError: an argument or an option that is none.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        *,
        prefix: str = "",
        most: int = 100,
        **options: Unpack[ServiceOptions],
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f'prefix must be a string such as "http/", got {prefix!r}')
        self._recovery = check_recovery(recovery)
        check_options(options)  # not only when the first request is made
        self._prefix = prefix
        self._most = whole_number("most", most, minimum=1)
        self._options = options
        self._handles: dict[str, Handle] = {}

    def of(self, host: str) -> Handle:
        """The service of *host*, as it stands in a URL: with its port, where that is not the usual one."""
        known = self._handles.get(host)
        if known is None:
            if len(self._handles) >= self._most:
                host = _OTHERS
            known = self._handles.get(host) or self._recovery.service(self._prefix + host, **self._options)
            self._handles[host] = known
        return known
