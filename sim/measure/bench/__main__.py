"""One child process of a bench; see `sim.measure.bench.children` and `sim.measure.bench.virtual`."""

import sys

from sim.measure.bench import children, virtual

if sys.argv[1:2] == ["virtual"]:
    virtual.main(sys.argv[2:])
else:
    children.main(sys.argv[1:])
