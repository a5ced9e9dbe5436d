"""Secrets are found by name, by place and by value, and nothing else is."""

from __future__ import annotations

import pytest

from shockproof.memory.error_log.redaction import DEFAULT_NAMES, Redactor

SECRET = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"

# As the clients really say it.
MESSAGES = {
    "ccxt, signed url": (
        "binance GET https://api.binance.com/api/v3/account?timestamp=1700000000000&recvWindow=10000"
        f"&signature={SECRET} 400 Bad Request {{'code':-1021}}"
    ),
    "ccxt, request headers": f"binance {{'X-MBX-APIKEY': '{SECRET}', 'Content-Type': 'application/json'}}",
    "ccxt, okx headers": f'okx {{"OK-ACCESS-KEY": "{SECRET}", "OK-ACCESS-SIGN":"{SECRET}", "OK-ACCESS-PASSPHRASE": "{SECRET}"}}',
    "ccxt, bybit": f"bybit {{'api_key': '{SECRET}', 'sign': '{SECRET}'}}",
    "aiohttp": (
        f"401, message='Unauthorized', url=URL('https://broker.example/v2/orders?apiKey={SECRET}&symbol=AAPL')"
    ),
    "aiohttp, headers": f"<CIMultiDictProxy('Host': 'x', 'Authorization': 'Bearer {SECRET}')>",
    "httpx": f"Client error '401 Unauthorized' for url 'https://user:{SECRET}@broker.example/v2?token={SECRET}'",
    "httpx, raw headers": f"[(b'authorization', b'Bearer {SECRET}'), (b'x-api-key', b'{SECRET}')]",
    "requests": (
        "HTTPSConnectionPool(host='api.example', port=443): Max retries exceeded with url: "
        f"/v1/order?symbol=X&signature={SECRET} (Caused by NewConnectionError('refused'))"
    ),
    "json body": f'{{"apiKey": "{SECRET}", "secret":"{SECRET}", "n": {{"passphrase" : "a \\" {SECRET}"}}}}',
    "json in json": f'body="{{\\"apiSecret\\": \\"{SECRET}\\", \\"symbol\\": \\"X\\"}}"',
    "header lines": f"Authorization: Bearer {SECRET}\nCookie: sid={SECRET}; theme=dark\nHost: x",
    "digest": f'Authorization: Digest username="bob", response="{SECRET}"\nHost: x',
    "digest, single quotes": f"Authorization: Digest username='bob', response='{SECRET}'",
    "behind a header, quoted": f"Authorization: Bearer abc.def.ghi api_key='{SECRET}'",
    "behind a header, escaped": f'{{"m": "Authorization: Bearer abc api_key=\\"{SECRET}\\""}}',
    "behind a cookie, quoted": f"Cookie: sid='{SECRET}'; b=\"{SECRET}\"",
    "header, quoted credentials": f"Authorization: Bearer '{SECRET}' or authorization: Optional('{SECRET}')",
    "scheme under another name": f"access_token=Bearer {SECRET} or X-MBX-APIKEY: Bearer '{SECRET}'",
    "scheme alone, quoted": f"refused: Bearer '{SECRET}'",
    "source lines": f"api_key=f'{SECRET}', password: str = '{SECRET}', token: str | None = \"{SECRET}\"",
    "bearer alone": f"sent Bearer {SECRET} to the venue",
    "keyword arguments": f"Client(api_key={SECRET}, secret='{SECRET}', password={SECRET})",
    "environment": f"os.environ['BINANCE_SECRET_KEY'] = '{SECRET}'",
    "percent-encoded": f"redirect=https%3A%2F%2Fx%3Fsignature%3D{SECRET}%26y%3D1",
    "percent in the value": f"password=%40{SECRET}&user=x",
    "cut in the middle": f'{{"api_secret": "{SECRET}',
    "requests, a header that it refuses": (
        f"Invalid leading whitespace, reserved character(s), or return character(s) in header value: '{SECRET}\\n'"
    ),
    "httpx, a header that it refuses": f"Illegal header value b'{SECRET}\\n'",
    "the same in a repr": f"LocalProtocolError(\"Illegal header value b\\'{SECRET}\\\\n\\'\")",
    "private key": f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n-----END EC PRIVATE KEY-----",
    "private key, cut": f"bad key -----BEGIN PRIVATE KEY-----\n{SECRET}",
    "listen key": f"wss://stream.binance.com/ws listenKey={SECRET}",
    "comparison": f"assert token == '{SECRET}'",
    "yaml": f"password: {SECRET}",
    "arrow": f"private_key => {SECRET}",
    "list": f"{{'api_keys': ['{SECRET}', '{SECRET}'], 'x': 1}}",
    "dict": f"{{'secret': {{'value': '{SECRET}]', 'n': ('{SECRET}',)}}}}",
    "list, cut": f"cookies: ['a', '{SECRET}",
    "object": f"Client(api_key=Secret('{SECRET}'), token=Token(value='{SECRET}', n=[1]))",
    "brackets": f"params[signature]={SECRET}",
}

HARMLESS = [
    "token bucket is empty",
    'binance {"code":-1022,"msg":"Signature for this request is not valid."}',
    "Invalid API-key, IP, or permissions for action",
    "tokens: 5",
    "max_tokens=4096, token_count: 17",
    "TokenBucket(capacity=5)",
    "api_key=None",
    "tokens: [1, 2, 3], cookies={}",
    '{"password": null, "secret": ""}',
    "if token == other:",
    "design: blue, assign: x",
    "https://broker.example:8443/v2/orders?symbol=AAPL&qty=10",
    "price: 10, sigma=3, past: 4, author: Bob",
]


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_secret_in_a_real_message_is_gone(message: str) -> None:
    """No client's way of putting it lets the secret through, and what is redacted stays as it is."""
    redactor = Redactor()

    text = redactor.text(message)

    assert SECRET not in text
    assert "***" in text
    assert redactor.text(text) == text


@pytest.mark.parametrize("message", HARMLESS)
def test_a_message_without_secrets_stays_as_it_is(message: str) -> None:
    """Words alone are no secrets, and neither are counts, None and empty values."""
    assert Redactor().text(message) == message


def test_a_header_in_quotes_ends_with_them() -> None:
    """A quote opens a value only behind what a value begins behind; else it closes what the header stands in."""
    text = Redactor().text('curl -H "Authorization: Bearer abc.def" -H "Accept: json"')

    assert text == 'curl -H "Authorization: ***" -H "Accept: json"'


def test_what_stands_around_a_secret_can_still_be_read() -> None:
    """An error without its circumstances helps nobody."""
    text = Redactor().text(MESSAGES["ccxt, signed url"])

    assert (
        "https://api.binance.com/api/v3/account?timestamp=1700000000000&recvWindow=10000&signature=***"
        in text
    )
    assert text.endswith(" 400 Bad Request {'code':-1021}")


def test_a_container_ends_where_it_is_closed() -> None:
    """Brackets inside of quotes count nothing."""
    text = Redactor().text("f(secret=('a]', \"b)\"), qty=3, token=Secret('x'), side='buy')")

    assert text == "f(secret=***, qty=3, token=***, side='buy')"


def test_the_price_of_names_is_paid_in_prose() -> None:
    """A word, a colon and another word look like a secret: documented, and on the safe side."""
    assert Redactor().text("invalid token: expired") == "invalid token: ***"


def test_context_is_redacted_by_its_names_at_any_depth() -> None:
    """Texts and numbers under a secret's name go; flags, counts and what is beside them stay."""
    context = {
        "apiKey": SECRET,
        "request": {"X-MBX-APIKEY": SECRET, "symbol": "AAPL", "url": f"https://x?signature={SECRET}"},
        "cookies": {"sid": SECRET, "list": [SECRET, 1]},
        "pin_token": 123456,
        "max_tokens": 4096,
        "token_ok": True,
        "password": None,
        "prices": [1.5, None],
        "headers": [("Authorization", SECRET), ("Accept", "json")],
    }

    shown = Redactor().value(context)

    assert shown == {
        "apiKey": "***",
        "request": {"X-MBX-APIKEY": "***", "symbol": "AAPL", "url": "https://x?signature=***"},
        "cookies": {"sid": "***", "list": ["***", "***"]},
        "pin_token": "***",
        "max_tokens": 4096,
        "token_ok": True,
        "password": None,
        "prices": [1.5, None],
        "headers": [["Authorization", "***"], ["Accept", "json"]],
    }
    assert context["apiKey"] == SECRET


def test_a_registered_value_goes_wherever_it_stands() -> None:
    """Also in the forms that URLs and JSON give it."""
    redactor = Redactor(values=['pa/ss w"rd'])

    shown = redactor.text('a pa/ss w"rd b pa%2Fss%20w%22rd pa%2Fss+w%22rd c pa/ss w\\"rd d')

    assert shown == "a *** b *** *** c *** d"


@pytest.mark.parametrize("kept", range(4, 16))
def test_the_beginning_of_a_registered_value_goes_where_somebody_has_cut_the_text(kept: int) -> None:
    """Before it came here, as the texts of attempts are cut."""
    redactor = Redactor(values=["Zq9 sEcReT 7xPaSs"])
    secret = "Zq9 sEcReT 7xPaSs"

    assert redactor.text(f"refused: {secret[:kept]}...") == "refused: ***..."
    assert redactor.text(f"refused: {secret[:kept]}, wait...") == f"refused: {secret[:kept]}, wait..."


def test_a_password_in_a_url_goes_where_the_url_was_cut() -> None:
    """Behind it is no @ any more; a port in a whole URL stays."""
    redactor = Redactor()

    assert redactor.text("no answer from redis://me:hunter2... (31 more characters)") == (
        "no answer from redis://me:*** (31 more characters)"
    )
    assert redactor.text("no answer from redis://me:hunter2...") == "no answer from redis://me:***"
    assert redactor.text("no answer from redis://there:6379") == "no answer from redis://there:6379"


def test_values_that_begin_in_each_other_are_not_cut() -> None:
    """Taken out one after the other, from the place of the cut to the front."""
    redactor = Redactor(values=["abcdef", "efghij"])

    assert redactor.cut_before("--abcdefghij--", 9) == 2
    assert redactor.cut_before("--abcdefghij--", 12) == 12
    assert Redactor((), values=["abcdef"]).cut_before("--abcdef--", 5) == 5


def test_a_registered_value_that_contains_another_goes_as_a_whole() -> None:
    """Or the rest of it would be left."""
    redactor = Redactor(values=["abcd", "abcd-efgh"])

    assert redactor.text("x abcd-efgh y") == "x *** y"


def test_a_short_value_is_refused() -> None:
    """It would be found everywhere."""
    with pytest.raises(ValueError, match="at least 4"):
        Redactor(values=["abc"])


def test_further_names_join_the_others() -> None:
    """In all the ways in which names are written."""
    redactor = Redactor((*DEFAULT_NAMES, "trading_pin"))

    assert (
        redactor.text("tradingPin=1234 trading-pin: 1234 secret=x")
        == "tradingPin=*** trading-pin: *** secret=***"
    )
    assert redactor.value({"TRADING_PIN": "1"}) == {"TRADING_PIN": "***"}


def test_a_name_without_letters_is_refused() -> None:
    """It would be in every name."""
    with pytest.raises(ValueError, match=r"redact=\('-',\)"):
        Redactor(["-"])


def test_no_names_switch_everything_off() -> None:
    """Registered values included: who switches it off wants to see everything."""
    redactor = Redactor((), values=["abcdef"])

    assert redactor.is_off
    assert redactor.text("token=x abcdef") == "token=x abcdef"
    assert redactor.value({"token": "x"}) == {"token": "x"}


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "token",
        "token='",
        'token=\\"',
        "token= ",
        "token: ",
        "signature_",
        "api ",
        "://",
        "bearer ",
        "bearer '",
        "token: bearer '",
        "cookie: a='",
        "authorization: a",
        "-----BEGIN PRIVATE KEY-----",
        'secret="a\\\n',
        "token'\"",
        "%3d",
        "secret: [",
        "token=f('x')",
        "token=f('",
        "header value '",
    ],
)
def test_a_megabyte_of_anything_takes_linear_time(piece: str) -> None:
    """A hostile answer of a venue must not stop the writer; were it quadratic, this would take hours."""
    text = piece * (2**20 // len(piece))

    Redactor().text(text)
    Redactor().text("token='" + text)
