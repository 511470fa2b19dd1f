"""A small shop whose folder has code of its own: a bus file, a scenario, and modules, under names that no other test imports."""

from __future__ import annotations

import itertools
from pathlib import Path

BUS = """
[bus]
channel_prefix = "shop:"
[channels."order.created"]
rate_per_s = 100
payload = { orderId = "ord_{number}", total = "{integer(1, 90)}" }
[channels."price.changed"]
rate_per_s = 20
payload = { sku = "sku_{number % 9}" }
[services.orders]
publishes = ["order.created", "price.changed"]
[services.billing]
replicas = 2
subscribes = ["order.created", "price.changed"]
behaviour = "MODULE:Billing"
"""
DAY = 'bus_file = "shop.bus.toml"\n[load]\ndriver = "pods"\nwarm_up_s = 0.5\nrun_s = 2\n'
BILLING = """
class Billing:
    def __init__(self):
        self.total = 0
        self.handlers = {"order.created": self.order_created}

    def order_created(self, event):
        if int(event.data["orderId"].split("_")[1]) % 10 == 3:
            raise ValueError("no customer")
        self.total += event.data["total"]
"""
_numbers = itertools.count()


class OwnShop:
    """The folder, whose module has a name of its own: a process imports a module once, whatever its file says later."""

    def __init__(self, folder: Path, *, code: str = BILLING, bus: str = BUS, day: str = DAY) -> None:
        self.folder = folder
        self.module = f"shopcode{next(_numbers)}_{folder.parent.name.replace('-', '_')}"
        folder.mkdir(parents=True, exist_ok=True)
        self.bus, self.day = folder / "shop.bus.toml", folder / "day.toml"
        self.bus.write_text(bus.replace("MODULE", self.module))
        self.day.write_text(day.replace("MODULE", self.module))
        self.write(code)

    def write(self, code: str, *, name: str = "") -> Path:
        """Write a module into the folder."""
        file = self.folder / f"{name or self.module}.py"
        file.write_text(code)
        return file
