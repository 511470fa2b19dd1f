"""What a scenario means, as tables and sentences for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sim.machine.words import amount, count, duration
from sim.measure.meaning.channels import ChannelLoad
from sim.measure.meaning.machine import ResourceNeed
from sim.measure.meaning.meaning import ConnectionCounts, FaultMeaning, Meaning

MAX_ROWS = 40  # of one table
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def meaning_tables(meaning: Meaning) -> Group:
    """Return all of it for a rich console."""
    parts: list[RenderableType] = [Text(line) for line in (meaning.title, load_sentence(meaning)) if line]
    parts += [_services(meaning), _channels(meaning), Text(connection_sentence(meaning.connections))]
    if meaning.faults:
        parts.append(_table("Faults, in order", ("from", "to", "kind", "whom", "how"), _fault_rows(meaning.faults)))
    if meaning.limits:
        rows = [(name, "least" if name.endswith("_min") else "most", amount(bound)) for name, bound in meaning.limits.items()]
        parts.append(_table("Limits", ("metric", "the", "bound"), rows))
    parts.append(_table("This machine", ("what", "needed", "there is", "says"), [_carried_row(one) for one in meaning.machine]))
    parts += [Text(line) for line in meaning.not_measured]
    parts += [Text(f"note: {line}") for line in meaning.notes[:MAX_ROWS]]
    return Group(*parts)


def load_sentence(meaning: Meaning) -> str:
    """Return the load in a sentence."""
    who = "Locust" if meaning.driver == "locust" else "the pods"
    rate = f"{amount(meaning.mean_rate_per_s)} calls/s"
    if meaning.peak_rate_per_s > meaning.mean_rate_per_s * 1.001:
        rate += f" in the mean, {amount(meaning.peak_rate_per_s)} at the peak ({meaning.shape})"
    http = f", {amount(meaning.http_calls_per_s)} of them by HTTP" if meaning.http_calls_per_s else ""
    events = f"{amount(meaning.events_per_s)} events/s, {amount(meaning.copies_per_s)} copies/s"
    times = f"for {duration(meaning.run_s)} after a warm-up of {duration(meaning.warm_up_s)}"
    return f"{count(meaning.pods, 'pod')}; {who} make{'s' * (who == 'Locust')} {rate}{http}: {events}, {times}."


def connection_sentence(connections: ConnectionCounts | None) -> str:
    """Return the connections in a sentence."""
    if connections is None:
        return "Connections: none, as no event goes through a broker."
    parts = [
        f"{amount(many)} {what}"
        for many, what in (
            (connections.hearing, "of pods that hear"),
            (connections.speaking, "of pods to publish"),
            (connections.locking, "of pods for locks"),
            (connections.locust, "of Locust"),
            (connections.own, "of the run itself"),
        )
        if many
    ]
    return f"Connections to the broker: {amount(connections.total)} ({', '.join(parts)})."


def bytes_words(size: float | None) -> str:
    """Return a number of bytes in the unit that suits it; a dash where it is not counted."""
    if size is None:
        return "-"
    scale, unit = next((one for one in UNITS if size >= one[0]), UNITS[-1])
    return f"{amount(round(size / scale, 2))} {unit}"


def _services(meaning: Meaning) -> Table:
    heads = ("service", "pods", "behaviour", "publishes", "hears", "calls/s a pod", "copies/s a pod")
    rows = [
        (
            one.name,
            str(one.pods),
            one.behaviour,
            _names(one.publishes),
            _names(one.subscribes),
            amount(one.calls_per_s),
            amount(one.copies_per_s),
        )
        for one in meaning.services
    ]
    return _table("Services", heads, rows)


def _channels(meaning: Meaning) -> Table:
    heads = ("channel", "publishers", "hearers", "calls/s", "events/s", "copies/s", "event", "from the broker", "on its link")
    rows = [_channel_row(one) for one in meaning.channels]
    out = [one.out_bytes_per_s for one in meaning.channels]
    total = (
        "in all",
        "",
        "",
        amount(sum(one.calls_per_s for one in meaning.channels)),
        amount(meaning.events_per_s),
        amount(meaning.copies_per_s),
        "",
        _per_s(None if None in out else sum(one or 0 for one in out)),
        _link(meaning.link_bytes_per_s),
    )
    return _table("Channels, in the mean of the run", heads, rows, total=total)


def _channel_row(one: ChannelLoad) -> tuple[str, ...]:
    items = f" ({amount(one.items_per_event)} a batch)" if one.batched else ""
    return (
        one.name,
        str(one.publishers),
        str(one.hearers),
        amount(one.calls_per_s),
        amount(one.events_per_s) + items,
        amount(one.copies_per_s),
        bytes_words(one.event_bytes),
        _per_s(one.out_bytes_per_s),
        _link(one.link_bytes_per_s),
    )


def _per_s(size: float | None) -> str:
    return bytes_words(size) if size is None else f"{bytes_words(size)}/s"


def _link(sizes: tuple[float, float] | None) -> str:
    return "-" if sizes is None else f"{bytes_words(sizes[0])} to {bytes_words(sizes[1])}/s"


def _fault_rows(faults: Sequence[FaultMeaning]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for fault in faults:
        begin, end = fault.spans_s[0]
        many = len(fault.spans_s)
        again = f", {many} times until {duration(fault.spans_s[-1][1])}" if many > 1 else ""
        how = ", ".join(f"{name} = {value}" for name, value in fault.settings.items())
        rows.append(
            (
                duration(begin),
                duration(end) + again,
                fault.kind,
                "the broker" if fault.pods is None else _names(fault.pods) or "all pods",
                how,
            )
        )
    return rows


def _carried_row(one: ResourceNeed) -> tuple[str, ...]:
    if one.unit == "of a core":
        needed, there = f"{one.needed:.1%} ({one.needed_low:.1%} to {one.needed_high:.1%})", "one core"
    else:
        needed, there = (f"{amount(round(value))} {one.unit}".rstrip() for value in (one.needed, one.available))
    fits = {True: "", False: "too little: ", None: "may be too little: "}[one.enough]
    return one.what, needed, there, f"{fits}{one.source}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, total: Sequence[str] = ()) -> Table:
    """Return a table; of many rows the first ones, and how many more there are."""
    table = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        numbers = bool(rows) and place > 0 and all(row[place][:1].isdigit() or row[place] in ("", "-") for row in rows)
        table.add_column(head, justify="right" if numbers else "left", overflow="fold")
    for row in rows[:MAX_ROWS]:
        table.add_row(*row)
    if len(rows) > MAX_ROWS:
        table.add_row(f"and {len(rows) - MAX_ROWS:,} more", *("" for _ in heads[1:]))
    if total:
        table.add_section()
        table.add_row(*total)
    return table
