"""The event bus without I/O: pure functions and state machines that take `now_ns` and ids as arguments.

Nothing here imports asyncio, time, random, socket, threading or redis. Drivers carry the decisions out: `sim/pod.py`
(asyncio) and `sim/client.py` (blocking).
"""
