"""The locustfile with which a run starts Locust for users of the user's own: it loads their file, named in the environment.

Their folder comes last in the path, as all that is the user's; what is wrong with their file is one line.
"""

from __future__ import annotations

import os
import sys

import _path  # noqa: F401  - before whatever the working directory may hold in the place of what comes below
from locust import User

from locustfiles._play import log
from locustfiles.users import BusUser
from sim.errors import UsageError
from sim.machine.user_code import load_file
from sim.run.locust_messages import OWN_LOCUSTFILE

try:
    _module = load_file(os.environ.pop(OWN_LOCUSTFILE))
except UsageError as error:
    log.error("%s", error)
    sys.exit(2)
_users = [one for one in vars(_module).values() if isinstance(one, type) and issubclass(one, User) and not one.abstract]
if any(not getattr(one, "closed_loop", True) for one in _users):
    log.error("%s has users that follow a schedule, beside its own: leave out what it takes from bus_user", _module.__file__)
    sys.exit(2)
if not any(issubclass(one, BusUser) for one in _users):
    log.error("%s has no user on the bus: write a class of BusUser there (from locustfiles.users import BusUser)", _module.__file__)
    sys.exit(2)
globals().update({name: value for name, value in vars(_module).items() if not name.startswith("_")})
