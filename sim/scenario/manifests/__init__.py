"""Manifests for Kubernetes: what a scenario's services are there, and beside them the lab itself.

`names` gives everything a name that Kubernetes can have, `objects` has what all manifests share, `own_files` takes along code of the
user's, `services`, `lab` and `locust` make the objects, and `write` puts them into files.
"""
