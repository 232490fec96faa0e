"""Prometheus metrics: the names and shapes that vLLM's dashboards draw, under the prefix `parity:`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..core.request import Finish, Request, Usage
from ..core.service import STEP_TOKENS, ModelInfo, Service

_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_BETWEEN_TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 80)
_WHOLE_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_SAMPLES = (1, 2, 5, 10, 20)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)


class Metrics:
    """Counts requests as they pass. One registry a server, so that several may live in one process."""

    def __init__(self, service: Service, model: str, num_held: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineGauges(service, model, num_held))
        self._model = model
        self._first = self._histogram("time_to_first_token_seconds", "Seconds from arrival to the first token", _FIRST_TOKEN_S)
        self._mean = self._histogram(
            "request_time_per_output_token_seconds", "Mean seconds between a request's tokens", _BETWEEN_TOKENS_S
        )
        self._between = self._histogram("inter_token_latency_seconds", "Seconds between tokens", _BETWEEN_TOKENS_S)
        self._whole = self._histogram("e2e_request_latency_seconds", "Seconds from arrival to the end", _WHOLE_S)
        self._queued = self._histogram("request_queue_time_seconds", "Seconds before a request's first step", _WHOLE_S)
        self._prefill = self._histogram("request_prefill_time_seconds", "Seconds from first step to first token", _WHOLE_S)
        self._decode = self._histogram("request_decode_time_seconds", "Seconds from the first token to the end", _WHOLE_S)
        self._inference = self._histogram("request_inference_time_seconds", "Seconds from the first step to the end", _WHOLE_S)
        self._asked = self._histogram("request_params_max_tokens", "Tokens that a request asked for at most", _TOKENS)
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request", _TOKENS)
        self._generated = self._histogram("request_generation_tokens", "Tokens generated for a request", _TOKENS)
        self._most = self._histogram("request_max_num_generation_tokens", "Tokens of a request's longest sample", _TOKENS)
        self._samples = self._histogram("request_params_n", "Samples that a request asked for", _SAMPLES)
        self._success = Counter(
            "parity:request_success", "Requests by how they ended", ("model_name", "finished_reason"), registry=self.registry
        )

    def watch(self, requests: Sequence[Request]) -> list[Watch]:
        """A watch for each request, started now; the samples of a prompt follow each other."""
        watches: list[Watch] = []
        group = _Samples()
        for request in requests:
            if request.sample == 0:
                group = _Samples()
            group.num += 1
            group.num_open += 1
            if request.params.max_tokens is not None:
                self._asked.observe(request.params.max_tokens)
            watches.append(Watch(self, group))
        return watches

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"parity:{name}", text, ("model_name",), buckets=buckets, registry=self.registry)
        child: Histogram = family.labels(self._model)
        return child

    def first_token(self, seconds: float) -> None:
        """Notes a first token."""
        self._first.observe(seconds)

    def more_tokens(self, seconds: float, count: int) -> None:
        """Notes `count` tokens that came `seconds` after those before them."""
        for _ in range(count):
            self._between.observe(seconds / count)

    def ended(self, seconds: float, first_s: float | None, finish: Finish, usage: Usage, group: _Samples) -> None:
        """Notes the end of a request, `seconds` after it came; its first token came after `first_s`, if it came."""
        self._whole.observe(seconds)
        if group.ended(usage.num_generated_tokens):
            self._most.observe(group.most)
            self._samples.observe(group.num)
        if first_s is not None and usage.num_generated_tokens > 1:
            self._mean.observe((seconds - first_s) / (usage.num_generated_tokens - 1))
        if first_s is not None:
            self._queued.observe(usage.queued_s)
            self._prefill.observe(max(0.0, first_s - usage.queued_s))
            self._decode.observe(seconds - first_s)
            self._inference.observe(max(0.0, seconds - usage.queued_s))
        self._prompt.observe(usage.num_prompt_tokens)
        self._generated.observe(usage.num_generated_tokens)
        self._success.labels(self._model, finish.reason).inc()


class _Samples:
    """The samples of one prompt."""

    def __init__(self) -> None:
        self.num = self.num_open = self.most = 0

    def ended(self, num_tokens: int) -> bool:
        """Notes the length of one; whether it was the last."""
        self.most = max(self.most, num_tokens)
        self.num_open -= 1
        return self.num_open == 0


class Watch:
    """The times of one request."""

    def __init__(self, metrics: Metrics, group: _Samples) -> None:
        self._metrics = metrics
        self._group = group
        self.start_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = self.start_s

    def tokens(self, count: int) -> None:
        """Notes that `count` tokens came now."""
        now = time.monotonic()
        if self._first_s is None:
            self._first_s = now - self.start_s
            self._metrics.first_token(self._first_s)
        else:
            self._metrics.more_tokens(now - self._last_s, count)
        self._last_s = now

    def ended(self, finish: Finish, usage: Usage) -> None:
        """Notes the end."""
        self._metrics.ended(time.monotonic() - self.start_s, self._first_s, finish, usage, self._group)


class _EngineGauges(Collector):
    """The engine's own counts, read when asked for."""

    def __init__(self, service: Service, model: str, num_held: Callable[[], int]) -> None:
        self._service = service
        self._model = model
        self._num_held = num_held

    def collect(self) -> Iterable[Metric]:
        """The gauges and counters of now."""
        stats = self._service.stats()
        used = stats.num_pages_used / stats.num_pages if stats.num_pages else 0.0
        yield self._gauge("num_requests_running", "Requests in the engine's batch", stats.num_running)
        yield self._gauge("num_requests_waiting", "Requests waiting", stats.num_waiting + self._num_held())
        yield self._gauge("kv_cache_usage_perc", "Share of pages in use, 0 to 1", used)
        yield self._counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache", stats.num_prompt_tokens)
        yield self._counter("prefix_cache_hits", "Prompt tokens found in the prefix cache", stats.num_cached_tokens)
        yield self._counter("prompt_tokens", "Prompt tokens", stats.num_prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated", stats.num_generated_tokens)
        yield self._counter("num_preemptions", "Requests put back to wait for pages", stats.num_preemptions)
        yield self._counter("engine_restarts", "Times that the engine failed and was restarted", stats.num_restarts)
        yield self._counter("engine_steps", "Steps of the engine", stats.num_steps)
        yield self._counter("engine_step_seconds", "Seconds in steps of the engine", stats.step_s)
        yield self._steps(stats.steps_by_tokens, stats.num_step_tokens)
        yield _cache_config(self._service.info)

    def _steps(self, by_tokens: Sequence[int], num_tokens: int) -> Metric:
        family = HistogramMetricFamily("parity:iteration_tokens_total", "Tokens computed in a step", labels=("model_name",))
        bounds = [*(f"{bound:.1f}" for bound in STEP_TOKENS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(by_tokens)), strict=True))
        family.add_metric([self._model], buckets, num_tokens)
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"parity:{name}", text, labels=("model_name",))
        family.add_metric([self._model], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"parity:{name}", text, labels=("model_name",))
        family.add_metric([self._model], value)
        return family


def _cache_config(info: ModelInfo) -> Metric:
    family = GaugeMetricFamily("parity:cache_config_info", "How the state is laid out", labels=("block_size", "num_gpu_blocks"))
    family.add_metric([str(info.page_size), str(info.num_pages)], 1)
    return family
