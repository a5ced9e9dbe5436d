"""Why the venue refuses a request: Binance's codes and texts, which clients recognise."""

from __future__ import annotations

__all__ = ["RejectedError"]


class RejectedError(Exception):
    """
    A definite no: nothing was booked.

    Attributes:
        code: Binance's negative number.
        message: the text that stands beside it.
        status: the HTTP status that carries it.
    """

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return f"{self.code} {self.message}"

    @classmethod
    def missing(cls, name: str) -> RejectedError:
        return cls(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")

    @classmethod
    def illegal(cls, name: str, legal: str) -> RejectedError:
        return cls(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'.")

    @classmethod
    def filter_failure(cls, name: str) -> RejectedError:
        return cls(-1013, f"Filter failure: {name}")

    @classmethod
    def unknown_symbol(cls) -> RejectedError:
        return cls(-1121, "Invalid symbol.")

    @classmethod
    def insufficient_balance(cls) -> RejectedError:
        return cls(-2010, "Account has insufficient balance for requested action.")

    @classmethod
    def duplicate(cls) -> RejectedError:
        return cls(-2010, "Duplicate order sent.")

    @classmethod
    def would_take(cls) -> RejectedError:
        return cls(-2010, "Order would immediately match and take.")

    @classmethod
    def unknown_order(cls) -> RejectedError:
        """For a cancel."""
        return cls(-2011, "Unknown order sent.")

    @classmethod
    def no_such_order(cls) -> RejectedError:
        """For a look-up."""
        return cls(-2013, "Order does not exist.")
