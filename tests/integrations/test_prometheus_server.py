"""A real Prometheus and its promtool: they take the metrics, the rules and every expression of the dashboard."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from shockproof import ErrorRecoveryService, MemoryStore, RetryBudget
from shockproof.integrations.prometheus import ShockproofCollector, alert_rules, grafana_dashboard
from tests.free_port import free_port

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PATIENCE = 60.0
"""Seconds: none of them is ever waited for on a machine that works."""

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)


class CountingCollector(ShockproofCollector):
    """Lets a test wait until so many scrapes have begun; the one before is stored by then."""

    def __init__(self, recovery: ErrorRecoveryService, **options: Any) -> None:
        super().__init__(recovery, **options)
        self._scrapes = 0
        self._begun = threading.Condition()

    def collect(self) -> Iterator[Metric]:
        with self._begun:
            self._scrapes += 1
            self._begun.notify_all()
        yield from super().collect()

    def wait_for_scrapes(self, more: int) -> None:
        with self._begun:
            wanted = self._scrapes + more
            assert self._begun.wait_for(lambda: self._scrapes >= wanted, PATIENCE)


def promtool(*words: str | Path, stdin: bytes = b"") -> str:
    done = subprocess.run(["promtool", *words], input=stdin, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


@contextmanager
def a_prometheus(folder: Path, scraped_port: int) -> Iterator[str]:
    """A Prometheus that scrapes and evaluates twice a second, up to its end; its address."""
    config, rules = folder / "prometheus.yml", folder / "rules.yml"
    rules.write_text(alert_rules(), encoding="utf-8")
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
        f"rule_files: ['{rules}']\n"
        "scrape_configs:\n"
        f"  - {{job_name: bot, static_configs: [{{targets: ['127.0.0.1:{scraped_port}']}}]}}\n"
    )
    promtool("check", "config", config)
    for _ in range(10):  # somebody else may take the port between asking for it and using it
        address = f"127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        command += [f"--web.listen-address={address}", "--log.format=json"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "Server is ready to receive web requests" in line:
                break
        else:
            process.wait(PATIENCE)
            process.stderr.close()
            assert "address already in use" in said, said
            continue
        rest = threading.Thread(target=process.stderr.read)  # or the pipe fills up
        rest.start()
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(PATIENCE)
            rest.join(PATIENCE)
            process.stderr.close()
        return
    pytest.fail("no free port")


def asked(url: str, path: str, **query: str) -> Any:
    try:
        with urllib.request.urlopen(
            f"{url}{path}?{urllib.parse.urlencode(query)}", timeout=PATIENCE
        ) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        pytest.fail(f"{query}: {error.read().decode()}")
    assert told["status"] == "success"
    return told["data"]


async def some_trouble(recovery: ErrorRecoveryService) -> None:
    """Services with everything that there is a metric for."""
    broker = recovery.service(
        "broker",
        max_concurrent=3,
        rate_limit=("1000/s", "5000 orders/min"),
        retry_budget=RetryBudget(),
        base_delay=0.0,
        critical=True,
    )
    news = recovery.service("news", max_retries=0, circuit_threshold=1, fallback="none")

    async def failing() -> None:
        raise ConnectionError("reset")

    for _ in range(3):
        await broker.call(asyncio.sleep, 0)
    with pytest.raises(ConnectionError):
        await broker.call(failing)
    await news.call(failing)
    await news.call(failing)
    await recovery.save_state()


def of_dashboard(expression: str) -> str:
    for variable, value in {
        "$__rate_interval": "5m",
        "$job": ".*",
        "$instance": ".*",
        "$service": ".*",
    }.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


@pytest.mark.plays_the_disk
@pytest.mark.asyncio
async def test_a_real_prometheus_evaluates_dashboard_and_rules(tmp_path: Path) -> None:
    """Each panel shows something, and each rule is evaluated, from what was scraped over a real socket."""
    registry = CollectorRegistry()
    async with ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", store=MemoryStore(), owns="account 7"
    ) as recovery:
        collector = CountingCollector(recovery, durations=True, loop_lag=True)
        registry.register(collector)
        await some_trouble(recovery)

        async def ticks() -> Any:
            yield 1
            await asyncio.Event().wait()

        async def fails() -> None:
            raise ConnectionError("reset")

        async def trade() -> None:
            flaps = recovery.service("flaps", circuit_threshold=1, circuit_timeout=0.1, fallback="none")
            while True:
                await recovery.service("quotes").call(asyncio.sleep, 0.01)
                await flaps.using(max_retries=0).call(fails)

        async with recovery.service("prices").stream(ticks) as feed:
            await anext(feed)
            trading = asyncio.create_task(trade())
            empty, rules = await asyncio.to_thread(evaluated, registry, collector, tmp_path)
            trading.cancel()
    assert empty == []
    by_name = {rule["name"]: rule for rule in rules}
    assert {rule["health"] for rule in rules} == {"ok"}
    assert len(by_name) == alert_rules().count("- alert:")
    assert by_name["ShockproofServiceUnavailable"]["state"] != "inactive"
    assert by_name["ShockproofCriticalServiceUnavailable"]["alerts"][0]["labels"]["service"] == "broker"


def choices_of(url: str, definition: str) -> list[str]:
    """What Grafana offers for a variable, asked as Grafana does."""
    asks = re.fullmatch(r"label_values\((.*), (\w+)\)", definition)
    assert asks is not None
    found: list[str] = asked(url, f"/api/v1/label/{asks[2]}/values", **{"match[]": of_dashboard(asks[1])})
    return found


def has_seen_the_trouble(rules: list[dict[str, Any]]) -> bool:
    """Each rule is evaluated by itself: one may fire when the next one has not looked yet."""
    state_of = {rule["name"]: rule["state"] for rule in rules}
    is_told = all(state_of[f"Shockproof{name}ServiceUnavailable"] != "inactive" for name in ("", "Critical"))
    return is_told and "firing" in state_of.values()


def evaluated(
    registry: CollectorRegistry, collector: CountingCollector, folder: Path
) -> tuple[list[str], list[dict[str, Any]]]:
    """The expressions of the dashboard that give nothing, and the rules as Prometheus sees them."""
    server, serving = start_http_server(0, "127.0.0.1", registry)
    try:
        with a_prometheus(folder, server.server_port) as url:
            board = json.loads(grafana_dashboard())
            expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
            assert len(expressions) > 30
            expressions += [annotation["target"]["expr"] for annotation in board["annotations"]["list"]]
            choices = [one["definition"] for one in board["templating"]["list"] if "definition" in one]
            assert len(choices) == 3
            rules: list[dict[str, Any]] = []
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                collector.wait_for_scrapes(1)
                expressions = [
                    one
                    for one in expressions
                    if not asked(url, "/api/v1/query", query=of_dashboard(one))["result"]
                ]
                choices = [one for one in choices if not choices_of(url, one)]
                (group,) = asked(url, "/api/v1/rules")["groups"]
                rules = group["rules"]
                are_evaluated = all(rule["health"] != "unknown" for rule in rules)
                if not expressions and not choices and are_evaluated and has_seen_the_trouble(rules):
                    break
            return expressions + choices, rules
    finally:
        server.shutdown()
        server.server_close()
        serving.join(PATIENCE)


@pytest.mark.asyncio
async def test_promtool_finds_no_fault_with_the_metrics(tmp_path: Path) -> None:
    """Names, units and types are what Prometheus's own linter wants."""
    registry = CollectorRegistry()
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors") as recovery:
        registry.register(ShockproofCollector(recovery, durations=True, loop_lag=True))
        await some_trouble(recovery)
        page = generate_latest(registry)
    assert promtool("check", "metrics", stdin=page) == ""


def test_promtool_takes_the_rules_and_sees_each_alert_fire() -> None:
    """Each in its own trouble, and none while all is well."""
    tests = Path(__file__).with_name("prometheus_alerts_test.yml")
    promtool("test", "rules", tests)
    alerts = re.findall(r"- alert: (\w+)", alert_rules())
    assert len(alerts) > 10
    assert [alert for alert in alerts if alert not in tests.read_text()] == []
