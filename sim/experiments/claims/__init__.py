"""What is said of the bus, true or false, each with the runs that test it."""
