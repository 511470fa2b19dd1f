"""What a pod answers over HTTP: health, metrics, the gateway's admin API, the analytics queries. Paths and bodies are the reference's.

Readiness is the reference's JSON. ``connected``: both connections are up. ``redisEnabled``: the pod uses Redis now; false without
REDIS_URL, and in an outage, as the reference's runbook says. A pod without REDIS_URL is ready: it never will have more.
"""

from __future__ import annotations

import hmac
import itertools
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from sim.bus.envelope import EVENT_TYPES
from sim.bus.fallback import HEARING, SPEAKING
from sim.bus.metrics import CONTENT_TYPE, Metrics
from sim.bus.services.analytics import AnalyticsService
from sim.bus.services.api_gateway import ApiGateway
from sim.machine.http_server import Endpoint, HttpAnswer, Refusal, Request, as_json, from_json
from sim.pods.pod import Pod

PROBES = ("/health/live", "/health/ready")
CACHE_CLEAR = "config.cache.invalidate"
MAX_PATTERN = 512  # characters
MAX_ITEMS = 10_000  # of one POST
MAX_SHOWN = 20  # event types in one answer
CHALLENGE = (("WWW-Authenticate", "Bearer"),)

Call = Callable[[str, dict[str, Any]], None]


def endpoints(
    pod: Pod, metrics: Metrics, *, call: Call, admin_token: str, channels: Collection[str] = EVENT_TYPES
) -> dict[str, dict[str, Endpoint]]:
    """Return path -> method -> endpoint for one pod.

    Parameters
    ----------
    call
        Makes one call of the application on the pod's bus: event type and data.
    admin_token
        Without one the endpoints that publish are closed.
    channels
        The event types of the bus: what may be called.
    """
    routes: dict[str, dict[str, Endpoint]] = {
        "/health/live": {"GET": lambda request: as_json({"live": True})},
        "/health/ready": {"GET": lambda request: readiness(pod)},
        "/metrics": {"GET": lambda request: HttpAnswer(200, metrics.text(), CONTENT_TYPE)},
        "/api/lab/call": {"POST": lambda request: _lab_call(request, call, admin_token, channels)},
    }
    if isinstance(pod.logic, ApiGateway) and CACHE_CLEAR in channels:
        routes["/api/admin/cache/clear"] = {"POST": lambda request: _cache_clear(request, call, admin_token)}
    logic = pod.logic
    if isinstance(logic, AnalyticsService):
        routes["/api/events/batch"] = {"POST": lambda request: _batch(request, logic)}
        routes["/api/analytics/music"] = {"GET": lambda request: as_json(logic.music_analytics())}
        routes["/api/analytics/system"] = {"GET": lambda request: as_json(logic.system_analytics())}
    return routes


def is_ready(pod: Pod) -> bool:
    """Return whether a pod is ready: connected, or without a broker to connect to."""
    return pod.fallback.connected or pod.fallback.state == "memory-only"


def readiness(pod: Pod) -> HttpAnswer:
    """Return the reference's readiness; 503 when the pod is not ready."""
    fallback = pod.fallback
    ready = is_ready(pod)
    bus = {"connected": fallback.connected, "redisEnabled": fallback.state in HEARING or fallback.state in SPEAKING}
    return as_json({"ready": ready, "checks": {"eventBus": bus}}, status=200 if ready else 503)


def check_token(request: Request, token: str) -> None:
    """Check that a request has the header ``Authorization: Bearer <token>``.

    Raises
    ------
    Refusal
        401 without such a header, 403 with a wrong token or when the pod has none.
    """
    scheme, _, given = request.headers.get(b"authorization", b"").partition(b" ")
    given = given.strip(b" ")
    if scheme.lower() != b"bearer" or not given or b" " in given:
        raise Refusal(401, "send the header Authorization: Bearer <ADMIN_TOKEN>", headers=CHALLENGE)
    right = hmac.compare_digest(given, token.encode("utf-8", "surrogateescape"))
    if not token:
        raise Refusal(403, "this pod was started without ADMIN_TOKEN: its admin API is closed")
    if not right:
        raise Refusal(403, "wrong token")


def _object(request: Request) -> dict[str, Any]:
    body = from_json(request.body)
    if not isinstance(body, dict):
        raise Refusal(400, "the body is not a JSON object")
    return body


def _cache_clear(request: Request, call: Call, token: str) -> HttpAnswer:
    check_token(request, token)
    pattern = _object(request).get("pattern")
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN:
        raise Refusal(400, f"give a pattern: a string of 1 to {MAX_PATTERN} characters")
    call(CACHE_CLEAR, {"pattern": pattern})
    return as_json({"accepted": True, "type": CACHE_CLEAR, "pattern": pattern}, status=202)


def _lab_call(request: Request, call: Call, token: str, channels: Collection[str]) -> HttpAnswer:
    """Make one call of the application: the lab's own way to make a pod publish, not the reference's."""
    check_token(request, token)
    body = _object(request)
    kind, data = body.get("type"), body.get("data")
    if not isinstance(kind, str) or kind not in channels:
        raise Refusal(400, f"give a type: {', '.join(itertools.islice(channels, MAX_SHOWN))}{', …' if len(channels) > MAX_SHOWN else ''}")
    if not isinstance(data, dict):
        raise Refusal(400, "give data: an object")
    call(kind, data)
    return as_json({"accepted": True, "type": kind}, status=202)


class _Item(msgspec.Struct, rename="camel"):
    event_type: str


def _batch(request: Request, logic: AnalyticsService) -> HttpAnswer:
    """Count items that came over HTTP, as before the migration to the bus: all of them or, when one is wrong, none."""
    body = _object(request)
    items = body.get("events")
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise Refusal(400, f"give events: a list of at most {MAX_ITEMS} items")
    try:
        msgspec.convert(items, list[_Item])
    except msgspec.ValidationError as error:
        raise Refusal(400, f"every item needs an eventType, a string: {error}") from None
    source = body.get("source", "http")
    if not isinstance(source, str):
        raise Refusal(400, "source is not a string")
    logic.add_items(items, source=source)
    return as_json({"counted": len(items)}, status=202)
