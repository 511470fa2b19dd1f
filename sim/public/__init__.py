"""The public face: what a notebook or a script asks for by one name, gathered from the rooms."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["findings", "plots"])
