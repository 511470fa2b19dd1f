"""How bytes reach a broker.

A member offers two connections with the same methods on every broker:

- a *subscription* hears channels and calls ``heard(chunk, received_ns)`` once a read;
- a *publisher* sends payloads without waiting and calls ``answered(token, receivers, at_ns)`` in order.

Both call ``lost(reason)`` once when the connection is gone. No exception of a foreign library leaves this folder:
opening raises `BrokerUnreachable` or `BrokerRefused`. To add one: write ``sim/transports/<name>.py`` with ``subscribe`` and
``open_publisher`` like those of `pubsub`, and list it in `TRANSPORTS`.
"""

from __future__ import annotations

from types import ModuleType

from sim.transports import pubsub

TRANSPORTS: dict[str, ModuleType] = {"pubsub": pubsub}
