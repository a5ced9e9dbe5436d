"""
httpx: what its errors and responses say about the request.

```python
import shockproof.integrations.httpx
from shockproof import ErrorRecoveryService

recovery = ErrorRecoveryService()
orders = recovery.service("orders", effect="unsafe", classify=shockproof.integrations.httpx.classify)
```
"""

from __future__ import annotations

from typing import Final

from shockproof.integrations.httpx_outcomes import table_of
from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning
from shockproof.vocabulary.outcomes import CallInfo, Verdict

try:
    import httpx
except ImportError as error:
    raise missing("httpx", "httpx", error) from error

__all__ = ["TABLE", "classify", "meaning_of"]

TABLE: Final = table_of(httpx)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of httpx means; None for what is not its own, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers."""
    return TABLE.classify(value, call)
