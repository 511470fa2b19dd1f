"""Draw schedules of faults that nobody thought of, run each in virtual time, judge it, and shrink what is wrong to the smallest."""
