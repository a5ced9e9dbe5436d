"""Ways a secret could take to the disk."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_plus

import pytest

from shockproof import ErrorRecoveryService

SECRET = "sUp3rSecretVaLue99"


class Login(NamedTuple):
    """What some clients hand around."""

    user: str
    api_key: str


async def _logged(recovery: ErrorRecoveryService, message: str, **context: object) -> str:
    async def raises() -> None:
        raise ValueError(message)

    with recovery.context(**context), pytest.raises(ValueError):
        await recovery.service("a", max_retries=0).call(raises)
    await recovery.aclose()
    return "".join(file.read_text() for file in recovery.error_log_dir.iterdir())


@pytest.mark.parametrize(
    "message",
    [
        repr({"api_keys": [SECRET, SECRET]}),
        repr({"secret": {"value": SECRET}}),
    ],
)
@pytest.mark.asyncio
async def test_a_secret_in_a_message_is_not_logged(tmp_path: Path, message: str) -> None:
    """Lists and dicts under a secret's name are as secret as strings."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    assert SECRET not in await _logged(recovery, message)


@pytest.mark.parametrize(
    "context",
    [
        {"headers": [("Authorization", SECRET)]},
        {"params": [["api_key", SECRET]]},
        {"login": Login("bob", SECRET)},
    ],
)
@pytest.mark.asyncio
async def test_a_secret_in_the_context_is_not_logged(tmp_path: Path, context: dict[str, object]) -> None:
    """Pairs of name and value, and named tuples, carry names like dicts do."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    assert SECRET not in await _logged(recovery, "down", **context)


@pytest.mark.asyncio
async def test_a_registered_secret_is_not_logged_in_the_form_of_a_query(tmp_path: Path) -> None:
    """A form-encoded query writes blanks as plus signs."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    recovery.register_secret("Re Gi/St")
    assert "Re+Gi" not in await _logged(recovery, f"GET /x?q={quote_plus('Re Gi/St')}")


@pytest.mark.parametrize(
    "configuration",
    [
        {"login": {b"api_key": SECRET}},
        {"headers": [("api_key", SECRET)]},
        {"clientsecret": SECRET},
        {"dbpassword": SECRET},
    ],
)
@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore::shockproof.SecretNotSavedWarning")
async def test_a_secret_in_the_configuration_is_not_saved(
    tmp_path: Path, configuration: dict[str, object]
) -> None:
    """Names are told whatever their spelling and whatever carries them."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    await recovery.save_state(configuration=configuration, force=True)
    for file in recovery.state_dir.iterdir():
        assert SECRET.encode() not in file.read_bytes()
