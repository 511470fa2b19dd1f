"""Write one page about one run, which needs nothing but a browser: report.html, with its pictures and their script inside.

It answers first: were the limits kept, and what happened (`sim.results.answer`); then the picture (`sim.results.picture`); then the rest.
Also the verdict as a table for the terminal. Matplotlib is imported only when a page is drawn.
"""

from __future__ import annotations

import base64
import io
import re
import shlex
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.table import Table
from rich.text import Text

from sim.machine.files import write_whole
from sim.machine.words import amount, count, duration
from sim.pages.assets import content_policy, script, style_sheet
from sim.record.checksum import signed_page
from sim.record.limits import read_metric
from sim.record.reader import FOREVER_NS
from sim.record.schema import CAUSES, EVENT_ID_PREFIX, FATES, SLO_METRICS, event_id
from sim.results.answer import answer_of, percent, promises, title_of
from sim.results.broker_costs import broker_costs
from sim.results.checkers import JudgedLimit, Verdict
from sim.results.checkers.verdict import beside_limit, between, bound, told
from sim.results.excuses import ALTHOUGH
from sim.results.figures import figures_of
from sim.results.lost import lost_events, lost_in_short
from sim.results.opened_run import Run
from sim.results.picture import picture_of

COLOURS = {"valid": "green", "invalid": "red", "unknown": "yellow"}
HELD_UP = "held_up_us"
QUANTILES = ("p50", "p90", "p99", "p999", "p9999", "max")
OPENINGS = {
    "valid": "The run kept what it promised",
    "invalid": "The run broke what it promised",
    "unknown": "This run cannot be judged",
}
FIGURE_INCHES = (7.4, 4.8)
OTHER_FONTS = (  # for letters that matplotlib's own has not, as far as they are installed
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC"),
    *("Hiragino Sans", "Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS"),
)
DOTS_PER_INCH, PALETTE = 130, 128
BOOKS = ("missing", "missing_ratio", "unserved", "unserved_ratio", "half_served")  # metrics of which the ledger says more
TITLE_LETTERS = 70  # of one line; a longer title is wrapped
SCRIPT = "run_picture"
MAX_STORIES = 12  # in one page
STORY_LINES = 1_000  # of all stories in a page; one has a line a pod
MAX_STORIED = 2_000_000  # copies of a run, in which looking for single events is cheap
STORY = re.compile(f"({EVENT_ID_PREFIX}[0-9a-f]{{16}})")


def write_report(run: Run, verdict: Verdict) -> Path:
    """Write report.html into the run folder, whole or not at all, and return its path.

    A figure that cannot be drawn is replaced by the reason; the page is written all the same.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    lost = run.lost()
    by_cause = lost_events(lost)
    stories = _stories(run, verdict, [event_id(first) for *_, first in by_cause])
    environment.filters["linked"] = lambda text: _linked(text, stories)
    answer = answer_of(run, verdict, by_cause)
    picture, code = picture_of(run, first=[one.service for one in answer.services]), script(SCRIPT)
    to_draw, not_drawn = figures_of(run)
    text = environment.get_template("report.html").render(
        head=run.info,
        title=title_of(run),
        question=run.scenario.get("title", ""),
        style=style_sheet(),
        script=code,
        policy=content_policy(*[code] * bool(picture)),
        picture=picture,
        duration=duration,
        percent=percent,
        kept=promises(verdict),
        answer=answer,
        changed=run.info.changed or [],
        stories=stories,
        verdict=verdict,
        sentence=sentence(verdict),
        limits=[_limit_row(limit) for limit in verdict.slo],
        figures=list(_figures(run, to_draw)),
        not_drawn=not_drawn,
        books=_books(verdict),
        services=_services(run),
        lost=lost_in_short(run, lost),
        lags=_lags(verdict),
        held_up=_held_up(verdict),
        broker=_broker(run),
        fleet=_fleet(run),
        phases=[(name, *_seconds(run, *times)) for name, times in run.phases.items()],
        faults=[(f["fault"], f["target"], *_seconds(run, f["begin_ns"], f["end_ns"]), f["felt"]) for f in run.faults.to_dict("records")],
        environment=list(_flat(run.environment)),
        command=f"buslab run {shlex.quote(run.info.scenario + '.toml')} --on {shlex.quote(run.info.ground)}",
        scenario=(run.folder / "scenario.toml").read_text(encoding="utf-8"),
    )
    path = run.folder / "report.html"
    write_whole(path, signed_page(text))
    return path


def sentence(verdict: Verdict) -> str:
    """Return the verdict in one plain sentence."""
    found = [result.detail for name, result in verdict.checkers.items() if name in ("ledger", "lag") and result.verdict == "valid"]
    text = f"{OPENINGS[verdict.verdict]}: "
    if verdict.verdict == "valid":
        return text + ("; ".join(found) or "every checker that was asked found no fault") + "."
    reasons = verdict.reasons
    books = verdict.checkers.get("ledger")
    of_books = [s for s in verdict.slo if s.verdict == verdict.verdict and read_metric(s.metric).base in BOOKS]
    lost = f" ({books.detail})" if books and books.verdict == "valid" and of_books and of_books[0].detail == reasons[0] else ""
    return text + reasons[0] + lost + (f", and {len(reasons) - 1} more." if len(reasons) > 1 else ".")


def verdict_table(verdict: Verdict) -> Table:
    """Return the checkers and limits as a table for the terminal."""
    table = Table(title=Text(f"{verdict.scenario} on {verdict.ground}: {verdict.verdict}", COLOURS[verdict.verdict]))
    for column in ("what", "verdict", "why"):
        table.add_column(column, overflow="fold")
    for name, result in verdict.checkers.items():
        table.add_row(Text(name), Text(result.verdict, COLOURS[result.verdict]), Text(result.detail))
        for warning in result.warnings:
            table.add_row("", Text("note", "yellow"), Text(warning))
    for name, why in verdict.not_measured.items():
        table.add_row(Text(name), Text("not measured", "dim"), Text(why))
    table.add_section()
    for limit in verdict.slo:
        found = limit.found
        why = (
            limit.detail
            if limit.verdict == "unknown" or found is None
            else beside_limit(limit.metric, found, limit.limit) + "".join(limit.detail.partition(ALTHOUGH)[1:])
        )
        table.add_row(Text(limit.metric), Text(limit.verdict, COLOURS[limit.verdict]), Text(why))
    return table


def _limit_row(limit: JudgedLimit) -> tuple[str, ...]:
    found = "not measured" if limit.found is None else told(limit.metric, limit.found, beside=limit.limit)
    meaning = limit.detail if limit.verdict == "unknown" else _meaning(limit)
    meaning += "".join(limit.detail.partition(ALTHOUGH)[1:]) if limit.verdict == "valid" else ""
    return limit.metric, limit.verdict, bound(limit.metric, limit.limit), found, meaning


def _meaning(limit: JudgedLimit) -> str:
    base, scope, subject = read_metric(limit.metric)
    where = {"service": f"of what {subject} should hear: ", "channel": f"of the events of {subject}: "}.get(scope, "")
    return where + SLO_METRICS.get(base, limit.detail)


def _stories(run: Run, verdict: Verdict, firsts: list[str]) -> dict[str, str]:
    """Return the stories of the events that checkers name, and of the first that were lost."""
    texts = [text for result in verdict.checkers.values() for text in result.witnesses]
    named = dict.fromkeys([*(one for text in texts for one in STORY.findall(text)), *firsts])
    if sum(run.books.fates.values()) > MAX_STORIED:
        return {}
    known, most = set(run.publishes["event"].tolist()), STORY_LINES // max(len(run.pod_histories), 1)
    there = [one for one in named if int(one.removeprefix(EVENT_ID_PREFIX), 16) in known]
    return run.stories(there[: min(max(most, 1), MAX_STORIES)])


def _linked(text: str, stories: Mapping[str, str]) -> list[tuple[str, bool]]:
    """Return a text in parts, each with whether it is an event that has its story in the page."""
    return [(part, part in stories) for part in STORY.split(text) if part]


def _figures(run: Run, to_draw: list[Callable[..., Any]]) -> Iterator[dict[str, str]]:
    for draw in to_draw:
        try:
            title, png = _drawn(draw, run)
        except Exception as error:  # a figure that fails must not cost the page
            yield {"png": "", "alt": f"{draw.__name__} could not be drawn: {type(error).__name__}: {error}"}
        else:
            purpose = (draw.__doc__ or "").splitlines()[0]
            yield {"png": base64.b64encode(png).decode(), "alt": f"{title}. {purpose}"}


def _drawn(draw: Callable[..., Any], run: Run) -> tuple[str, bytes]:
    """Return a figure's title and its picture; a letter that no font here has is a box, and the page's text has it."""
    from matplotlib import rc_context, rcParams
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    families = [*rcParams["font.family"], *(name for name in OTHER_FONTS if name in there)]
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
        title = (ax := draw(run, figure.subplots())).get_title()
        ax.title.set_text(textwrap.fill(title, TITLE_LETTERS))  # a finding that does not fit would be cut off
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return title, _with_few_colours(file.getvalue())


def _with_few_colours(png: bytes) -> bytes:
    """Return a picture with a palette: a figure has few colours, and is a third of the size then."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as whole:
        flat = whole.convert("RGB").quantize(PALETTE, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    flat.save(file, format="png")
    return file.getvalue()


def _books(verdict: Verdict) -> list[tuple[str, str, str]]:
    counts = verdict.checkers["ledger"].counts if "ledger" in verdict.checkers else {}
    rows = [
        (
            "expected",
            counts.get("expected"),
            "pods that were alive and listen to it, or 1 for a service without any, summed over events",
        )
    ]
    for fate, meaning in FATES.items():
        rows.append((fate, counts.get(fate), meaning))
        if fate == "missing":
            rows += [(f"missing: {cause}", counts[cause], words) for cause, words in CAUSES.items() if counts.get(cause)]
    rows.append(("PUBLISH said", counts.get("publish_receivers"), "receivers, summed over acknowledged events: evidence, not truth"))
    return [(name, f"{count:,}", meaning) for name, count, meaning in rows if count is not None]


def _services(run: Run) -> list[tuple[str, ...]]:
    """Return how services heard the events: of all services, of each, and of each channel."""
    rows = []
    for of in run.tally.scopes():
        served, fates = run.tally.served(of), run.tally.fates(of)
        if not served["pairs"]:
            continue
        counts = (served["pairs"], served["pairs"] - served["unserved"] - served["half_served"], served["half_served"])
        ends = between(served["unserved"] - served["in_doubt"], served["unserved"], "")
        missing = between(fates["missing"], fates["missing"] + fates["unknown"], "")
        name = f"{of.scope} {of.subject}" if of.scope else "all services"
        rows.append((name, *(f"{one:,}" for one in counts), told("unserved", ends), told("missing", missing)))
    return rows


def _lags(verdict: Verdict) -> list[tuple[str, ...]]:
    counts = verdict.checkers["lag"].counts if "lag" in verdict.checkers else {}
    names = [key.removesuffix(".p50") for key in counts if key.endswith(".p50")]
    shown = {"lag_us": "all copies", "send_delay_us": "of it before sending (one value an event)", "bus_us": "of it on the bus"}
    rows = []
    for name in names:
        if name == HELD_UP:  # a bound that is computed, no value that occurred
            continue
        kind, _, of = name.partition(".")
        label = shown.get(name) or " ".join(of.split(".", 1)) + (" (on the bus)" if kind == "bus_us" else "")
        rows.append((label, *(duration(counts[f"{name}.{quantile}"] / 1e6) for quantile in QUANTILES)))
    return rows


def _held_up(verdict: Verdict) -> tuple[str, str] | None:
    """Return the bound on how long calls were held up by earlier ones, p99 and the longest; None where it is nothing."""
    counts = verdict.checkers["lag"].counts if "lag" in verdict.checkers else {}
    if not counts.get(f"{HELD_UP}.max"):
        return None
    tail, most = (duration(counts[f"{HELD_UP}.{quantile}"] / 1e6) for quantile in ("p99", "max"))
    return tail, most


def _broker(run: Run) -> dict[str, Any]:
    costs = broker_costs(run)
    if not costs.cpu_share >= 0:
        return {"rows": [], "reason": costs.reason}
    rows = [
        (
            "of a core, in all",
            f"{costs.cpu_share:.2%}",
            f"{count(costs.publishes, 'publish')}, {count(costs.copies, 'copy')} in the run phase",
        )
    ]
    if costs.copies:
        rows.append(("all of it per copy, us", amount(costs.all_in_copy_us), f"{count(costs.fan_out, 'copy')} per publish"))
    fitted = {
        "per publish, us": (costs.publish_us, "least squares over the samples, with the 95 % interval"),
        "per copy, us": (costs.copy_us, "beside its publish"),
        "per copy with its part of the publish, us": (costs.joint_copy_us, "a fit on copies alone"),
    }
    rows += [(name, str(estimate), meaning) for name, (estimate, meaning) in fitted.items() if estimate.known]
    return {"rows": rows, "reason": costs.reason}


def _fleet(run: Run) -> list[tuple[str, str, str]]:
    services: dict[str, list[frozenset[str]]] = {}
    for history in run.pod_histories:
        services.setdefault(history.service or "unknown", []).append(history.channels)
    return [(name, f"{len(pods):,}", ", ".join(sorted(frozenset().union(*pods))) or "none") for name, pods in services.items()]


def _seconds(run: Run, *times_ns: int) -> tuple[str, ...]:
    zero = run.phases.get("run", next(iter(run.phases.values()), (0, 0)))[0]
    return tuple("open" if at == FOREVER_NS or (n and not at) else f"{(at - zero) / 1e9:,.3f}" for n, at in enumerate(times_ns))


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key} ")
        else:
            yield f"{path}{key}", str(value)
