"""What a new bus begins as: the bus files of `buslab new --like NAME`, and what is written beside each.

A member is a template of a bus file, `<name>.bus.toml.template`. A first scenario, an outage, a notebook, a CI file and a README are made
from it by the other templates here: they name the services and channels that the bus itself has. Each is a Jinja template whose marks are
``<< >>``, ``<% %>`` and ``<# #>``, as braces mean something in TOML, YAML and Python.

To add one: write the template of its bus file, and list it in `STARTS` with a sentence.
"""

STARTS: dict[str, str] = {
    "shop": "orders, billing, search and notifications of a shop: single events, a batch, a payload of each kind",
    "aiponge": "the reference's six services and six channels, to change from there",
}
