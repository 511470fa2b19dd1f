"""Be one child process of a bench; see `children` and `virtual`."""

import sys

from sim.measure.bench import children, virtual

if sys.argv[1:2] == ["virtual"]:
    virtual.main(sys.argv[2:])
else:
    children.main(sys.argv[1:])
