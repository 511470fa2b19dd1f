"""People in the shop: each orders, looks for something, and now and then changes a price."""

from __future__ import annotations

import random

from locust import between, task

from locustfiles.users import BusUser


class Shopper(BusUser):
    """Somebody who orders, and searches three times as often."""

    wait_time = between(0.05, 0.15)

    @task(3)
    def search(self) -> None:
        """Search: an item of a batch."""
        self.bus.publish("search.asked", {"words": random.choice(["red shoes", "tea", "a lamp"])})

    @task(1)
    def order(self) -> None:
        """Order something."""
        self.bus.publish("order.created", {"total": round(random.uniform(5, 400), 2)})
