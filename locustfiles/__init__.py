"""Locust users on the bus: `users.BusUser` for a locustfile of your own, and the lab's own locustfiles.

Nothing in `sim` imports this package: importing Locust changes the process that does it.
"""
