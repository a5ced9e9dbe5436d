"""Secrets on their way into what is saved, and out of it."""

from __future__ import annotations

import asyncio
import builtins
import importlib.util
import json
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from cryptography.fernet import Fernet

from shockproof.memory.state.codec import thaw
from shockproof.memory.state.registered_types import register_type
from shockproof.memory.state.secrets import Redacted, SecretCipher, SecretNames
from shockproof.memory.state.state_capture import CapturedState, StateSecrets, capture_state

KEY, OLD_KEY = Fernet.generate_key(), Fernet.generate_key().decode()


@register_type
@dataclass
class Account:
    user: str
    api_key: str


def capture(configuration: object, secrets: StateSecrets) -> CapturedState:
    return asyncio.run(capture_state({"configuration": configuration}, secrets=secrets, timestamp=0.0))


def restored(captured: CapturedState, secrets: StateSecrets) -> Any:
    if secrets.cipher is not None:
        captured.seal(secrets.cipher)
    on_disk = json.loads(json.dumps(captured.fields["configuration"]))
    return thaw(on_disk, open_secret=secrets.open)


WITHOUT_KEY = StateSecrets(SecretNames())
WITH_KEY = StateSecrets(SecretNames(), SecretCipher([KEY]))


@pytest.mark.parametrize(
    "name",
    [
        "api_key", "apiKey", "APIKey", "api-key", "BINANCE_API_KEY", "apikey", "binance.apikey", "api_keys", "secret",
        "client_secret", "clientSecret", "SECRET_2", "secretKey", "apiSecret", "password", "dbPassword", "PASSWORD",
        "passphrase", "okx_passphrase", "private_key", "privateKey", "private key", "passwd", "passwords",
        "clientsecret", "dbpassword", "dbpasswords", "binanceapikey", "BINANCEAPISECRET",
    ],
)  # fmt: skip
def test_name_of_a_secret_is_known_in_any_spelling(name: str) -> None:
    """Words count, not how they are joined."""
    names = SecretNames()

    assert names.may_be_in(name)
    assert names.matches(name)


@pytest.mark.parametrize(
    "name",
    ["secretary", "monkey", "key", "api", "keyboard", "token", "passage", "privateer", "apikeyboard", "", "密码", "public_key", "api_monkey"],
)  # fmt: skip
def test_other_names_are_no_secrets(name: str) -> None:
    """A part of a word is no word."""
    assert not SecretNames().matches(name)


def test_short_names_are_not_found_at_the_end_of_other_words() -> None:
    """Who adds "pin" does not mean "spin"."""
    names = SecretNames(["pin", "token"])

    assert names.matches("card_pin")
    assert not names.matches("spin")
    assert not names.matches("betoken")


def test_names_can_be_chosen_and_switched_off() -> None:
    """`redact=` replaces the list; empty, nothing is looked for."""
    assert SecretNames(["pin code"]).matches("pinCode")
    assert not SecretNames(["pin code"]).matches("api_key")
    off = StateSecrets(SecretNames(()))
    assert capture({"api_key": "k"}, off).fields["configuration"] == {"api_key": "k"}

    with pytest.raises(TypeError, match=r"write \('api_key',\)"):
        SecretNames("api_key")
    with pytest.raises(ValueError, match="without a letter"):
        SecretNames(["--"])


def test_secret_without_a_key_is_left_out_wherever_it_stands() -> None:
    """In nested dicts and lists, in objects, under a name whose value is a container, as bytes."""
    configuration = {
        "api_key": "K-123",
        "venues": [{"secret": "K-456", "url": "https://x"}],
        "password": {"prod": "K-789", "test": ["K-790", 5]},
        "account": Account("me", "K-321"),
        "private_key": b"K-654",
        "by_number": {1: {"passphrase": "K-987"}},
        "mixed": {1: "x", "api_key": "K-111"},
    }

    captured = capture(configuration, WITHOUT_KEY)

    assert "K-" not in json.dumps(captured.fields)
    assert captured.left_out == (
        "configuration.api_key",
        "configuration.venues[0].secret",
        "configuration.password.prod",
        "configuration.password.test[0]",
        "configuration.account.api_key",
        "configuration.private_key",
        "configuration.by_number[1].passphrase",
        "configuration.mixed['api_key']",
    )
    back = restored(captured, WITHOUT_KEY)
    assert repr(back["api_key"]) == "Redacted('configuration.api_key')"
    assert back["venues"][0]["url"] == "https://x"
    assert back["password"]["test"][1] == 5
    assert back["account"].user == "me"


def test_secret_with_a_key_comes_back_and_is_unreadable_on_disk() -> None:
    """Text and bytes, and any character."""
    configuration = {"api_key": "K-123 \ud800 é", "private_key": b"K-\xff", "mode": "paper"}

    captured = capture(configuration, WITH_KEY)

    assert captured.left_out == ()
    assert restored(captured, WITH_KEY) == configuration
    assert "K-123" not in json.dumps(captured.fields)


def test_nothing_that_is_no_text_is_taken_for_a_secret() -> None:
    """Numbers, None and empty strings under such a name stay readable."""
    configuration = {"password": None, "secret": 5, "api_key": "", "private_key": Decimal(1)}

    assert restored(capture(configuration, WITHOUT_KEY), WITHOUT_KEY) == configuration


def test_old_key_still_opens_and_the_first_one_encrypts() -> None:
    """Rotation: the new key in front, the old one behind it until all is saved anew."""
    old = StateSecrets(SecretNames(), SecretCipher([OLD_KEY]))
    both = StateSecrets(SecretNames(), SecretCipher([KEY, OLD_KEY]))

    from_old = restored(capture({"secret": "x"}, old), old)
    captured = capture({"secret": "x"}, old)
    captured.seal(old.cipher)  # type: ignore[arg-type]  # it has one

    assert from_old == {"secret": "x"}
    assert thaw(captured.fields["configuration"], open_secret=both.open) == {"secret": "x"}
    new = capture({"secret": "y"}, both)
    new.seal(both.cipher)  # type: ignore[arg-type]  # it has one
    assert thaw(new.fields["configuration"], open_secret=WITH_KEY.open) == {"secret": "y"}


@pytest.mark.parametrize("without", [WITHOUT_KEY, StateSecrets(SecretNames(), SecretCipher([OLD_KEY]))])
def test_encrypted_secret_survives_a_run_without_its_key(without: StateSecrets) -> None:
    """It restores as Redacted, and saved again it is not lost."""
    captured = capture({"secret": "x"}, WITH_KEY)
    captured.seal(WITH_KEY.cipher)  # type: ignore[arg-type]  # it has one
    unopened = thaw(captured.fields["configuration"], open_secret=without.open)

    assert unopened == {"secret": Redacted("configuration.secret")}
    again = capture(unopened, without)
    assert again.left_out == ()
    assert restored(again, WITH_KEY) == {"secret": "x"}


def test_redacted_stays_redacted_without_a_warning() -> None:
    """Saved again there is nothing more to leave out."""
    captured = capture({"api_key": Redacted("configuration.api_key")}, WITHOUT_KEY)

    assert captured.left_out == ()
    assert restored(captured, WITHOUT_KEY) == {"api_key": Redacted("configuration.api_key")}


def test_redacted_is_false_and_no_string() -> None:
    """Nobody signs an order with it by accident."""
    redacted = Redacted("configuration.api_key", token="t")

    assert not redacted
    assert (redacted or "from the environment") == "from the environment"
    assert not isinstance(redacted, str)
    assert "t'" not in repr(redacted)
    assert redacted == Redacted("configuration.api_key")


@pytest.mark.parametrize("key", ["short", b"x" * 44, "é" * 44, ""])
def test_bad_key_is_refused_without_being_shown(key: str | bytes) -> None:
    """A key with a typing error is nearly a key."""
    with pytest.raises(ValueError, match="key 2 is no Fernet key") as refused:
        SecretCipher([KEY, key])

    assert not key or str(key) not in str(refused.value)
    assert KEY.decode() not in repr(SecretCipher([KEY]))


def test_no_key_and_wrong_type_are_refused() -> None:
    """None is how encryption is switched off, not an empty list."""
    with pytest.raises(ValueError, match="at least one, or None"):
        SecretCipher([])
    with pytest.raises(TypeError, match="key 1 must be a str or bytes, got int"):
        SecretCipher([5])  # type: ignore[list-item]  # the point
    assert SecretCipher(KEY).open(SecretCipher([KEY]).seal(b"x")) == b"x"


def test_missing_cryptography_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out is a command line that can be copied."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ImportError, match=r"pip install 'shockproof\[crypto\]'"):
        SecretCipher([KEY])


def test_cryptography_is_not_loaded_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the cipher happens on the event loop, loading 10 MB of library does not."""
    loaded: list[str] = []
    real = builtins.__import__

    def watch(name: str, *args: Any, **kwargs: Any) -> Any:
        loaded.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", watch)
    cipher = SecretCipher([KEY])
    asyncio.run(
        capture_state({"a": {"secret": "x"}}, secrets=StateSecrets(SecretNames(), cipher), timestamp=0)
    )

    assert not [name for name in loaded if name.startswith("cryptography")]
    cipher.seal(b"x")
    assert [name for name in loaded if name.startswith("cryptography")]


def test_damaged_token_is_no_error() -> None:
    """Text that no key made stays closed."""
    assert SecretCipher([KEY]).open("gAAAA not a token é") is None


class Setting(Enum):
    API_KEY = 1


register_type(Setting)


@pytest.mark.parametrize(
    "login",
    [
        {b"api_key": "K-1"},
        {Setting.API_KEY: "K-1"},
        {("binance", "api_key"): "K-1"},
        OrderedDict(api_key="K-1"),
        [("api_key", "K-1")],
        [["api_key", "K-1"]],
        [(b"X-Api-Key", b"K-1")],
        [("secret", {"value": "K-1", "list": ["K-2"]})],
        [["password", "TopSecret K-1"]],
    ],
)
def test_secret_is_found_whatever_carries_its_name(login: object) -> None:
    """Keys of other types, and pairs of name and value, as HTTP headers are written."""
    captured = capture({"login": login}, WITHOUT_KEY)
    assert "K-" not in json.dumps(captured.fields)
    assert captured.left_out

    back = restored(capture({"login": login}, WITH_KEY), WITH_KEY)
    assert back == {"login": login}


@pytest.mark.parametrize(
    "pairs",
    [
        ["api_key", "password"],
        [["1.10", "2.5"], ["api_keyless", "x"]],
        [("secretary", "Bob")],
        [("api_key", "x", "y")],
    ],
)
def test_other_pairs_are_no_secrets(pairs: object) -> None:
    """Two names tell what to ask for, and prices are prices."""
    captured = capture({"pairs": pairs}, WITHOUT_KEY)

    assert captured.left_out == ()
    assert restored(captured, WITHOUT_KEY) == {"pairs": pairs}


def test_place_of_a_secret_can_be_written_whatever_the_key() -> None:
    """A key that is no UTF-8, as in a file name, would otherwise keep the state from the disk."""
    captured = capture({"api_key\udc80": "K-1"}, WITHOUT_KEY)

    assert captured.left_out == ('configuration["api_key\\udc80"]'.replace('"', "'"),)
    json.dumps(captured.fields, ensure_ascii=False).encode()
