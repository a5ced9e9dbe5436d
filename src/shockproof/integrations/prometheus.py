"""
Prometheus: a collector that reads the counters of a recovery service when it is scraped.

```python
from prometheus_client import CollectorRegistry, generate_latest
from shockproof import ErrorRecoveryService
from shockproof.integrations.prometheus import ShockproofCollector

recovery = ErrorRecoveryService()
registry = CollectorRegistry()
registry.register(ShockproofCollector(recovery))
page = generate_latest(registry)
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from shockproof.calls.loop_lag import LoopLag
from shockproof.integrations.measurements import BUCKETS, METRICS, Measured, Metric, check_buckets
from shockproof.integrations.optional import missing
from shockproof.memory.services.durations import Durations, Histogram
from shockproof.vocabulary.outcomes import Outcome

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
    from prometheus_client.registry import CollectorRegistry as CollectorRegistry  # noqa: PLC0414 - the endpoints name it, too
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise missing("prometheus-client", "prometheus", error) from error

if TYPE_CHECKING:
    from prometheus_client.core import Metric as MetricFamily

    from shockproof.calls.loop_monitor import LoopMonitor
    from shockproof.service import ErrorRecoveryService

__all__ = ["ShockproofCollector", "alert_rules", "grafana_dashboard"]

_UNITS: Final = {"s": "_seconds", "": ""}
_DURATION: Final = "shockproof_call_duration_seconds"
_LAG: Final = "shockproof_loop_lag_seconds"
_STALLED: Final = "shockproof_loop_stalled_seconds"


def alert_rules() -> str:
    """Alert rules, as YAML, for a file that ``rule_files`` of Prometheus names."""
    return _shipped("prometheus_alerts.yml")


def grafana_dashboard() -> str:
    """A dashboard, as JSON, to import into Grafana."""
    return _shipped("grafana_dashboard.json")


def page_for(
    recovery: ErrorRecoveryService, registry: CollectorRegistry | None
) -> Callable[[str], tuple[str, bytes]]:
    """
    What the endpoints answer a scrape with: for an Accept header, the type of the page and the page.

    It shows *registry*, or one of its own with nothing but *recovery*.
    """
    if registry is None:
        registry = CollectorRegistry()
        registry.register(ShockproofCollector(recovery))
    shown = registry

    def page(accept: str) -> tuple[str, bytes]:
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it compares whatever stands there as a version
            encode, content_type = choose_encoder("")
        return content_type, encode(shown)

    return page


def _shipped(name: str) -> str:
    return files("shockproof.integrations").joinpath("monitoring", name).read_text(encoding="utf-8")


class ShockproofCollector(Collector):
    """
    What one recovery service counts, for a registry of prometheus_client: ``registry.register(ShockproofCollector(recovery))``.

    The numbers are read when somebody scrapes, from whatever thread; calls know nothing of it. A service
    has its series as long as it is known; `ErrorRecoveryService.retire_service` ends them. A registry holds
    one collector: several recovery services in one process have a registry each.

    Args:
        recovery: whose numbers.
        durations: also a histogram of how long calls take, ``shockproof_call_duration_seconds``. Then each
            success costs a little more: it is counted when it happens. Default: False.
        buckets: the upper bounds of that histogram in seconds, ascending. Default: 14, from 0.001 to 30.
        loop_lag: also how late the event loop is: something small happens there four times a second, from
            the first call on; where the service has a ``loop_monitor``, what that measures. Default: False.

    Raises:
        TypeError, ValueError: buckets that are none.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        *,
        durations: bool = False,
        buckets: Iterable[float] = BUCKETS,
        loop_lag: bool = False,
    ) -> None:
        self._recovery = recovery
        self._bounds = check_buckets(buckets)
        self._durations: dict[str, Durations] = {}
        self._lag: LoopLag | LoopMonitor | None = None
        self._undo: list[Callable[[], None]] = []
        self._has_durations = durations
        if durations:
            self._undo.append(recovery._registry.time_calls(self._call_ended))
        if loop_lag:
            self._lag, stop = recovery._watch_loop()
            self._undo.append(stop)

    def close(self) -> None:
        """Time no calls and no loop any more; unregister it before."""
        while self._undo:
            self._undo.pop()()

    def describe(self) -> Iterator[MetricFamily]:
        """The families without their numbers: a registry refuses a second collector that has the same."""
        for metric in METRICS:
            yield _family(metric)
        if self._has_durations:
            yield self._duration_family()
        if self._lag is not None:
            yield from _lag_families(None, None)

    def collect(self) -> Iterator[MetricFamily]:
        """Everything as it is now."""
        measured = Measured(self._recovery)
        for metric in METRICS:
            family = _family(metric)
            for point in metric.read(measured):
                family.add_metric(point.labels, point.value)
            yield family
        if self._has_durations:
            yield self._read_durations({state.name for state in measured.services})
        if self._lag is not None:
            yield from _lag_families(self._lag, self._lag.stalled_for())

    def _call_ended(self, service_name: str, outcome: Outcome, seconds: float) -> None:
        durations = self._durations.get(service_name)
        if durations is None:
            durations = self._durations.setdefault(service_name, Durations(self._bounds))
        durations.add(outcome, seconds)

    def _duration_family(self) -> HistogramMetricFamily:
        text = "How long calls took from their beginning, with the waits between attempts; not those that were refused."
        return HistogramMetricFamily(_DURATION, text, labels=("service", "outcome"))

    def _read_durations(self, known: set[str]) -> HistogramMetricFamily:
        family = self._duration_family()
        for name, durations in list(self._durations.items()):
            if name not in known:  # retired
                self._durations.pop(name, None)
                continue
            for outcome, histogram in durations.histograms().items():
                family.add_metric(
                    (name, outcome.value), _buckets(durations.bounds, histogram), histogram.total
                )
        return family


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    name = metric.name.replace(".", "_") + _UNITS[metric.unit]
    if metric.kind == "counter":
        return CounterMetricFamily(name, metric.text, labels=metric.labels)  # which adds _total to the name
    return GaugeMetricFamily(name, metric.text, labels=metric.labels)


def _lag_families(lag: LoopLag | LoopMonitor | None, stalled_for: float | None) -> Iterator[MetricFamily]:
    late = HistogramMetricFamily(_LAG, "How late the event loop came to what was due.")
    if lag is not None:
        histogram = lag.histogram()
        late.add_metric((), _buckets(lag.bounds, histogram), histogram.total)
    yield late
    stalled = GaugeMetricFamily(_STALLED, "How late the event loop is now; absent while none runs.")
    if stalled_for is not None:
        stalled.add_metric((), stalled_for)
    yield stalled


def _buckets(bounds: tuple[float, ...], histogram: Histogram) -> list[tuple[str, float]]:
    ends = [*map(floatToGoString, bounds), "+Inf"]
    return [(end, float(count)) for end, count in zip(ends, histogram.up_to, strict=True)]
