"""Pods that are programs of the user's own: processes behind taps, known by what passes there and by what they report themselves.

`replica` starts, hurts and ends one, `reports` reads what it says, `readiness` asks it, `books` makes rows of what its tap tells
(`tap_process`, `tap_messages`), and `own_connections` looks for connections of its own that go round the tap.
"""
