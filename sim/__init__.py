"""buslab: run Aiponge's event bus against a real Redis and account for every copy of every event.

`import sim` gives the public names; `__init__.pyi` lists each with the place where it is defined. A name loads what it needs when it is
first used, so a process that imports one module of `sim` pays for that one only.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
