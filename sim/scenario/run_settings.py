"""How a run goes, as tables of a scenario: its load, how long its steps may take, the kubelet, and where the pods live."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sim.scenario.schedule import TEMPLATE_COUNT

REPLAY = "replay"  # the shape that is no shape: every call is one of a capture
MAX_PROCESSES = 64  # of pods; each takes some 80 MB and half a second of a core to start
Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The calls that are made: which, how often, and by whom.

    Attributes
    ----------
    driver
        Who makes the calls: `locust`, as a child or as what started the run, or the `pods` themselves.
    rate_per_s
        Calls a second, over all publishers; the shape changes it over time.
    shape
        How the rate moves over the run: one of `sim.scenario.schedule.SHAPES`; or `replay`: the calls are those of a capture (see
        `sim.scenario.replay`), and of the other keys here those that say when, how often and how large mean nothing.
    capture
        Of `replay`: the file of a capture (`buslab capture`), or its folder, beside this file.
    speed
        Of `replay`: how many times as fast as it was captured; `run_s` is then as long as that takes, unless it says less.
    arrivals
        Whether calls come at random times or evenly spaced.
    warm_up_s, run_s
        Load that is not judged, and load that is.
    payload_bytes
        About how much data a call carries.
    mix
        Event type and weight: which share of the calls is of that type.
    reads_per_s
        Reads of templates and providers, over all pods of the services that keep a cache of them (see `sim.pods.scheduled_reads`).
    templates
        How many templates there are to read and to invalidate.
    locustfile
        A locustfile of your own, whose users make the calls in a closed loop; then nothing else here says which calls are made.
    users
        How many users it has; 0 = one for each pod of a service that publishes.
    """

    driver: Literal["locust", "pods"] = "locust"
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 100.0
    shape: str = "steady"
    capture: Annotated[str, Meta(max_length=4096)] = ""
    speed: Annotated[float, Meta(ge=0.001, le=100_000)] = 1.0
    arrivals: Literal["poisson", "uniform"] = "poisson"
    warm_up_s: Seconds = 2.0
    run_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    payload_bytes: Annotated[int, Meta(ge=0, le=1_000_000)] = 64
    reads_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    templates: Annotated[int, Meta(ge=1, le=50_000)] = TEMPLATE_COUNT
    locustfile: str = ""
    users: Annotated[int, Meta(ge=0, le=100_000)] = 0
    mix: dict[str, Annotated[float, Meta(ge=0)]] = {}


class StepLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The longest that each step of a run may take.

    Attributes
    ----------
    start_s
        Until every pod has connected and subscribed.
    probe_s
        Until every pod has heard one event of each of its channels.
    drain_s
        Until publishers have flushed and subscribers have heard what was on its way.
    """

    start_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    probe_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0
    drain_s: Annotated[float, Meta(gt=0, le=3600)] = 15.0


class Kubelet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kubelet that probes the pods and restarts them (see `sim.pods.kubelet`); periods and delays are the reference's YAML.

    Attributes
    ----------
    enabled
        Without it nobody probes, and a pod that ended stays down.
    live_delay_s, live_period_s
        When `GET /health/live` is asked first after a pod's start, and how often then.
    ready_delay_s, ready_period_s
        The same of `GET /health/ready`.
    timeout_s, failure_threshold, success_threshold
        Kubernetes' defaults; the success threshold is that of readiness, for liveness it is always 1.
    grace_s
        terminationGracePeriodSeconds: from SIGTERM to SIGKILL.
    restart_delay_s
        How long a container takes to start, beside the back-off.
    back_off_s, back_off_max_s, back_off_reset_s
        Kubernetes' restart back-off: before the second restart, at most, and forgotten after so long a run.
    """

    enabled: bool = False
    live_delay_s: Seconds = 10.0
    live_period_s: Annotated[float, Meta(ge=0.01, le=86_400)] = 15.0
    ready_delay_s: Seconds = 5.0
    ready_period_s: Annotated[float, Meta(ge=0.01, le=86_400)] = 10.0
    timeout_s: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0
    failure_threshold: Annotated[int, Meta(ge=1, le=1000)] = 3
    success_threshold: Annotated[int, Meta(ge=1, le=1000)] = 1
    grace_s: Annotated[float, Meta(ge=0.01, le=3600)] = 30.0
    restart_delay_s: Seconds = 1.0
    back_off_s: Seconds = 10.0
    back_off_max_s: Seconds = 300.0
    back_off_reset_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0


class Hosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place where pods live (see `sim.pods.hosts`).

    Attributes
    ----------
    kind
        `inline`: all in the run's own process; `local`: in child processes; `dask`: in child processes of the workers of a Dask cluster;
        `containers`: each in a container of its own, of the image that `buslab image --pods` builds, or of that which the variable
        BUSLAB_POD_IMAGE names.
    processes
        Of `local` and `dask`: over how many processes the pods are spread that no fault ends or freezes; each of the others has one of its
        own. On a Dask cluster each worker that holds such pods has one at least.
    scheduler
        Of `dask`: the scheduler's address, `tcp://HOST:PORT` or `tls://HOST:PORT`. Without it the run starts a cluster of its own on this
        machine.
    per_worker
        Of `dask`: how many pods one worker holds at most; 0 = as many as its limit of open files allows. A worker that was started with
        `--resources "pods=N"` holds N at most.
    on_loss
        Of `dask`: what becomes of the run when a worker is lost, or paused, while it goes on. `fail`: it ends. `count`: it goes on without
        that worker's pods, which are `aborted` from then on; what they had not handed over is a gap that the results state.
    """

    kind: Literal["inline", "local", "dask", "containers"] = "inline"
    processes: Annotated[int, Meta(ge=1, le=MAX_PROCESSES)] = 2
    scheduler: Annotated[str, Meta(max_length=300)] = ""
    per_worker: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    on_loss: Literal["fail", "count"] = "fail"
