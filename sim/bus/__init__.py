"""The event bus without I/O: pure functions and state machines that take `now_ns` and ids as arguments.

Nothing here imports asyncio, time, random, socket, threading or redis. Drivers carry the decisions out: `sim/pods/pod.py`
(asyncio) and `sim/pods/blocking_client.py` (blocking).
"""
