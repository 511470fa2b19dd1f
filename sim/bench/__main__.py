"""Be one child process of a bench; see `children`."""

import sys

from sim.bench.children import main

main(sys.argv[1:])
