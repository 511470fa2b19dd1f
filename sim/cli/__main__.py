"""`python -m sim.cli` is `buslab`."""

from sim.cli.main import main

main()
