"""What the shop's billing does with an order."""

from __future__ import annotations

from sim.bus.envelope import Event

MAX_CUSTOMERS = 10_000


class Billing:
    """The open amounts by customer."""

    def __init__(self) -> None:
        self.open: dict[str, float] = {}
        self.handlers = {"order.created": self.order_created}

    def order_created(self, event: Event) -> None:
        """Add an order's total; one without a total raises, which is a failed handling."""
        customer = event.data.get("customer", "unknown")
        if customer in self.open or len(self.open) < MAX_CUSTOMERS:
            self.open[customer] = self.open.get(customer, 0.0) + event.data["total"]
