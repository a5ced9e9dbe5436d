"""What a user without a client, or with only one of them, sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shockproof.integrations

FOLDER = Path(shockproof.integrations.__path__[0])
CLIENTS = sorted(
    path.stem for path in FOLDER.glob("*.py") if "raise missing(" in path.read_text(encoding="utf-8")
)


def said_by(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2] or done.stdout.strip()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_is_not_there_is_named_with_the_command_that_installs_it(client: str) -> None:
    """The module is named, the client, the extra, and what Python said."""
    package = {"etcd": "httpx2", "ib": "ib_async", "prometheus": "prometheus_client"}.get(client, client)
    extra = {"argcomplete": "cli", "cryptography": "crypto", "rich": "cli"}.get(client, client)
    use = "m.check_installed()" if client == "cryptography" else ""  # loaded at first use
    absent = f"sys.modules['{package}'] = None" if not use else "importlib.util.find_spec = lambda name: None"
    said = said_by(
        f"import importlib.util, sys; {absent}; import shockproof.integrations.{client} as m; {use}"
    )
    names = {"alpaca": "alpaca-py", "binance": "python-binance", "prometheus": "prometheus-client"}
    names |= {"grpc": "grpcio", "opentelemetry": "opentelemetry-api"}
    known_as = names.get(client, package)
    assert said.startswith(
        f"ImportError: shockproof.integrations.{client} needs {known_as}: pip install 'shockproof[{extra}]' ("
    )
    assert package in said.rpartition("(")[2]


@pytest.mark.parametrize("client", ["alpaca", "binance", "ccxt"])
def test_who_has_no_client_at_all_is_told_of_the_one_asked_for(client: str) -> None:
    """And not of the HTTP client below it, whose extra would not be enough."""
    said = said_by(
        f"import sys; sys.modules.update(dict.fromkeys(('{client}', 'aiohttp', 'requests', 'urllib3')))\n"
        f"import shockproof.integrations.{client}"
    )
    assert said.startswith(f"ImportError: shockproof.integrations.{client} needs ")
    assert f"pip install 'shockproof[{client}]'" in said


def test_importing_one_integration_loads_no_other_client() -> None:
    """Who uses httpx does not pay a second for ccxt."""
    said = said_by(
        "import sys, shockproof, shockproof.integrations, shockproof.integrations.requests\n"
        "print(sorted({'aiohttp', 'alpaca', 'binance', 'ccxt', 'httpx', 'httpx2', 'ib_async', 'requests'} & sys.modules.keys()))"
    )
    assert said == "['requests']"
