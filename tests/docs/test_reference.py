"""What README and docs say about names, defaults and files is what the code has."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from pathlib import Path

import pytest

import shockproof
from shockproof.calls.options import HandleOptions, ServiceOptions
from shockproof.demo.options import add_options
from shockproof.settings import DEFAULTS, ErrorLogOptions
from shockproof.vocabulary import errors, events

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), DOCS / "llms.txt"]


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text(page), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no heading {heading!r}"
    return found[1]


def rows(table: str) -> dict[str, list[str]]:
    """The rows of a table whose first cell is `code`; one that names several counts for each."""
    found: dict[str, list[str]] = {}
    for line in table.splitlines():
        first, *others = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", first):
                found[name] = others
    return found


def test_options_page_lists_the_options_of_the_handle() -> None:
    """An option that is added has a row, and one that is taken away has none."""
    assert list(rows(section("reference/options.md", "Of a handle"))) == list(HandleOptions.__annotations__)


def test_options_page_lists_the_options_of_the_service() -> None:
    """An option that is added has a row, and one that is taken away has none."""
    own = [name for name in ServiceOptions.__annotations__ if name not in HandleOptions.__annotations__]
    assert list(rows(section("reference/options.md", "Of a service"))) == own


def test_options_page_lists_the_arguments_of_the_recovery_service_with_their_defaults() -> None:
    """Whoever changes a default changes the page."""
    table = rows(section("reference/options.md", "Of the recovery service"))
    parameters = inspect.signature(shockproof.ErrorRecoveryService).parameters
    assert list(table) == list(parameters)
    shown = {name: cells[0].strip("`").strip('"') for name, cells in table.items()}
    declared = {name: parameter.default for name, parameter in parameters.items()}
    assert shown == {name: str(value) for name, value in {**declared, **DEFAULTS}.items()}


def test_options_page_lists_the_keys_of_the_error_log() -> None:
    """An option that is added has a row, and one that is taken away has none."""
    assert list(rows(section("reference/options.md", "`error_log`"))) == list(ErrorLogOptions.__annotations__)


def test_options_page_lists_the_keys_of_the_loop_monitor_with_their_defaults(tmp_path: Path) -> None:
    """Whoever changes a default changes both pages that name it."""
    service = shockproof.ErrorRecoveryService(tmp_path, tmp_path, loop_monitor=True)
    table = rows(section("reference/options.md", "`loop_monitor`"))
    assert {name: float(cells[0]) for name, cells in table.items()} == service.loop_monitor
    page = rows(section("how-to/loop-monitor.md", "Options"))
    assert {name: float(cells[0].removesuffix(" s")) for name, cells in page.items()} == service.loop_monitor


def test_loop_monitor_page_lists_the_keys_of_its_health(tmp_path: Path) -> None:
    """A key that is added has a row, and one that is taken away has none."""
    service = shockproof.ErrorRecoveryService(tmp_path, tmp_path, loop_monitor=True)
    health = service.get_health_status()["loop"]
    assert list(rows(section("how-to/loop-monitor.md", "Health and metrics"))) == list(health)
    assert all(f"`{key}`" in section("reference/health.md", "`get_health_status()`") for key in health)


def test_options_page_lists_the_arguments_of_stream_with_their_defaults() -> None:
    """Whoever changes a default changes the page."""
    table = rows(section("reference/options.md", "Of `stream`"))
    parameters = inspect.signature(shockproof.Handle.stream).parameters
    assert list(table) == list(parameters)[2:]
    assert {name: cells[0].strip("`") for name, cells in table.items()} == {
        name: str(parameters[name].default) for name in table
    }


def test_environment_page_lists_the_variables_with_their_defaults() -> None:
    """The seven of the original program, no more and no fewer."""
    table = rows(text("reference/environment.md"))
    numbers = {name: default for name, default in DEFAULTS.items() if not name.endswith("_dir")}
    assert {variable: cells[0] for variable, cells in table.items()} == {
        f"ERROR_RECOVERY_{name.upper()}": str(default) for name, default in numbers.items()
    }


def test_errors_page_draws_the_tree_of_errors() -> None:
    """Each error of ours stands below the one it is a kind of."""
    tree = re.findall(
        r"^((?:[│├└─ ]*))(\w+Error)\b", text("reference/errors.md").split("```")[1], re.MULTILINE
    )
    assert {name for _, name in tree} == set(errors.__all__)
    path: list[str] = []
    for branch, name in tree:
        del path[len(branch) // 4 :]
        kinds = [kind.__name__ for kind in getattr(errors, name).__mro__]
        assert set(path) <= set(kinds), f"{name} is drawn below {path}"
        path.append(name)


def test_interface_page_lists_the_events() -> None:
    """Every public event has its entry under Events."""
    public = {name for name in events.__all__ if hasattr(shockproof, name)}
    assert set(re.findall(r"::: shockproof\.(\w+)", section("reference/api.md", "Events"))) == public


@pytest.mark.asyncio
async def test_health_page_lists_the_keys_of_the_health(recovery: shockproof.ErrorRecoveryService) -> None:
    """A key that is added has a row, and one that is taken away has none."""

    async def fine() -> None: ...

    await recovery.retry_with_backoff(fine, service_name="one")
    health = recovery.get_health_status()
    tables = rows(section("reference/health.md", "`get_health_status()`"))
    assert set(health) | set(health["services"]["one"]) <= set(tables)
    assert set(tables) <= {*health, *health["services"]["one"]}
    assert all(f"`{key}`" in tables["error_log"][0] for key in health["error_log"])


def test_health_page_lists_the_keys_of_the_summary(tmp_path: Path) -> None:
    """A key that is added has a row, and one that is taken away has none."""
    service = shockproof.ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    heading = "`get_error_summary(since=None, service_name=None, min_severity=None)`"
    assert set(rows(section("reference/health.md", heading))) == set(service.get_error_summary())


def test_files_page_lists_the_fields_of_a_record() -> None:
    """The nine fields of the original program."""
    fields = set(shockproof.ErrorRecord.model_fields)
    assert set(rows(section("reference/files.md", "The error log"))) == fields


def test_defaults_on_the_policy_pages_are_those_of_the_options_page() -> None:
    """A default that stands twice is the same twice."""
    options = rows(text("reference/options.md").split("## Of the recovery service")[0])
    for page in sorted((DOCS / "policies").glob("*.md")):
        table = section(f"policies/{page.name}", "Defaults").split("\n| argument")[0]
        for name, cells in rows(table).items():
            here, there = (
                re.findall(r"`[^`]+`|[0-9]+(?:[.][0-9]+)?", cell)[:1] for cell in (cells[0], options[name][0])
            )
            assert here == there, f"{page.name}: {name}"


@pytest.mark.parametrize("page", sorted(page.stem for page in (DOCS / "policies").glob("*.md")))
def test_policy_pages_have_one_skeleton(page: str) -> None:
    """Who knows one page finds his way on all."""
    headings = re.findall(r"^## (.*)$", text(f"policies/{page}.md"), re.MULTILINE)
    assert headings == ["About", "Usage", "Defaults", "Events", "State picture", "Patterns", "Anti-patterns"]


def test_demo_page_lists_the_options_of_the_demo() -> None:
    """An option that is added has a row, and one that is taken away has none."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    shown = [name.split()[0] for name in rows(text("how-to/demo.md")) if name.startswith("--")]
    assert shown == [action.option_strings[-1] for action in parser._actions]


def test_files_that_the_architecture_names_exist() -> None:
    """The map shows the land as it is."""
    page = text("architecture.md")
    package = ROOT / "src" / "shockproof"
    named = set(re.findall(r"\b(?:calls|memory|policies|vocabulary)/\w+\.py\b", page))
    named |= {name for name in re.findall(r"(?<![/\w])`?(\w+\.py)\b", page) if (package / name).exists()}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (package / name).exists()] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "llms.txt"], ids=lambda page: page.name)
def test_links_of_what_is_not_on_the_site_resolve(page: Path) -> None:
    """README and llms.txt are read where they lie."""
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_llms_txt_follows_its_form() -> None:
    """A title, a summary in a quote, then sections of links: what its readers parse."""
    lines = text("llms.txt").splitlines()
    assert lines[0] == "# shockproof"
    assert lines[2].startswith("> ")
    for found in re.finditer(r"^## .*\n\n((?:.+\n)+)", text("llms.txt"), re.MULTILINE):
        assert all(re.match(r"- \[.+\]\(.+\)", line) for line in found[1].splitlines())


# The headings of the original's description that have a Python example below them.
SEED = [
    "1. Automatic Retry with Exponential Backoff",
    "2. Graceful Degradation with Fallback",
    "3. State Persistence",
    "4. Circuit Breaker Pattern",
    "5. Error Logging and Reporting",
    "6. Service Health Monitoring",
    "Example 1: Protecting API Calls",
    "Example 2: Using Decorator",
    "Example 3: Fallback to Cached Data",
    "Example 4: State Persistence for Long Operations",
    "Market Data Service",
    "Trading Service",
    "Programmatic Configuration",
    "View Error History",
    "Check Service Health",
    "Monitor Circuit Breakers",
    "Integration Tests",
    "Issue: Excessive Retries",
    "Issue: Circuit Breaker Stuck Open",
    "Issue: State Not Persisting",
    "Issue: Error Logs Growing Too Large",
]


@pytest.mark.parametrize("heading", SEED)
def test_each_example_of_the_original_has_a_twin(heading: str) -> None:
    """A user of the original finds the heading he knows, and below it code that runs (test_examples.py)."""
    assert "```python\n" in section("seed-examples.md", heading)


@pytest.mark.parametrize(
    ("heading", "module"),
    [
        ("aiohttp", "aiohttp"),
        ("httpx and httpx2", "httpx"),
        ("httpx and httpx2", "httpx2"),
        ("grpc.aio", "grpc"),
        ("requests", "requests"),
        ("ccxt", "ccxt"),
        ("alpaca-py", "alpaca"),
        ("python-binance", "binance"),
        ("ib_async", "ib"),
    ],
)
def test_integrations_page_lists_the_rules_in_their_order(heading: str, module: str) -> None:
    """The first rule that fits decides, so that the order is a part of what they say."""
    pytest.importorskip({"ib": "ib_async"}.get(module, module), reason=f"{module} is not installed")
    table = importlib.import_module(f"shockproof.integrations.{module}").TABLE
    then = {"alpaca": "requests", "binance": "aiohttp"}
    lines = section("reference/integrations.md", heading).splitlines()
    shown = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")][2:]
    own = table.rules
    if shown[-1] == "then":  # those of the client below
        own = table.rules[: len(shown) - 1]
        below = importlib.import_module(f"shockproof.integrations.{then[module]}").TABLE
        assert table.rules[len(own) :] == below.rules
        shown.pop()
    assert shown == [rule.name for rule in own]
    unnamed = [
        kind.__name__
        for rule in own
        for kind in rule.kinds
        if f"`{kind.__name__}`" not in section("reference/integrations.md", heading)
    ]
    assert unnamed == []


def test_metrics_page_lists_what_prometheus_is_told(tmp_path: Path) -> None:
    """A metric that is added has a row, with its kind and its labels, and one that is taken away has none."""
    from shockproof.integrations.prometheus import ShockproofCollector

    service = shockproof.ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    told = {
        f"{family.name}{'_total' * (family.type == 'counter')}": (family.type, list(family._labelnames))
        for family in ShockproofCollector(service, durations=True, loop_lag=True).describe()
    }
    shown = rows(text("reference/metrics.md"))
    metrics = {name: cells for name, cells in shown.items() if name.startswith("shockproof")}
    assert {name: (cells[0], re.findall(r"`(\w+)`", cells[1])) for name, cells in metrics.items()} == told
    assert {label for _, labels in told.values() for label in labels} <= set(shown)


def test_opentelemetry_page_lists_the_attributes_of_spans() -> None:
    """As they stand in the module that sets them."""
    from shockproof.integrations import opentelemetry

    shown = set(
        re.findall(r"^\| (?:both|call|attempt) \| `([\w.]+)`", text("how-to/opentelemetry.md"), re.MULTILINE)
    )
    source = inspect.getsource(opentelemetry).partition("# -- traces ---")[2]
    assert shown == set(re.findall(r'"((?:shockproof|code|error)\.[\w.]+)"', source)) - {"shockproof."}


def test_prometheus_page_lists_the_alerts() -> None:
    """With the severity that each has."""
    from shockproof.integrations.prometheus import alert_rules

    table = rows(section("how-to/prometheus.md", "Alerts and a dashboard"))
    rules = dict(re.findall(r"- alert: (\w+)\n(?:.*\n)+?\s+severity: (\w+)", alert_rules()))
    assert {name: cells[0] for name, cells in table.items()} == rules


def test_http_page_lists_what_a_status_means() -> None:
    """The page says what the function answers, for every status there is."""
    from shockproof.integrations.http_status import meaning_of_status

    said: dict[str, str] = {}
    for line in section("how-to/http-clients.md", "What a status means").splitlines():
        if line.startswith("| ") and "`" in line:
            statuses, meaning, *_ = [cell.strip() for cell in line.strip("|").split("|")]
            said |= dict.fromkeys(statuses.replace("other ", "").split(", "), meaning.strip("`"))
    for status in range(400, 600):
        expected = said.get(str(status), said[f"{status // 100}xx"])
        meaning = meaning_of_status(status)
        assert meaning is not None
        assert meaning.name == expected
    assert [meaning_of_status(status) for status in (200, 204, 302)] == [None] * 3
