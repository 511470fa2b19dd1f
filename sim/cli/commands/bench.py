"""Measure the instrument's own speed."""

from __future__ import annotations

import click

from sim.cli.options import rounds_option, tell
from sim.cli.printing import FiniteRange, print_table


@click.command()
@click.option("--pods", default=100, show_default=True, type=click.IntRange(1, 5000), help="Subscribers in the one host process.")
@click.option("--seconds", default=2.0, show_default=True, type=FiniteRange(0.1, 60), help="Length of each measurement.")
@rounds_option("Measurements of each client; the median counts.", default=3, least=1, most=20)
@click.option("--virtual", is_flag=True, help="Measure virtual time instead: an hour of 12 pods, ten minutes of 10,000.")
@click.option("--clusters", is_flag=True, help="Measure instead what a copy costs a cluster: classic and sharded, 1 and 3 masters.")
@click.option("--explore", is_flag=True, help="Measure instead how many schedules of faults a search judges a minute.")
@click.option("--tap", is_flag=True, help="Measure instead what a tap costs beside the proxy of links.")
def bench(pods: int, seconds: float, rounds: int, virtual: bool, clusters: bool, explore: bool, tap: bool) -> int:
    """Measure the lab's own receive path against a raw drain and redis-py, in one run."""
    if tap:
        from sim.measure.bench.taps import run_tap_bench, tap_bench_table

        print_table(tap_bench_table(run_tap_bench(seconds=seconds, rounds=rounds, tell=tell)))
    elif explore:
        from sim.experiments.explore.bench import explore_table, run_explore_bench

        print_table(explore_table(run_explore_bench(tell=tell)))
    elif clusters:
        from sim.measure.bench.clusters import clusters_table, measure_clusters

        print_table(clusters_table(measure_clusters(rounds=rounds, tell=tell), rounds=rounds))
    elif virtual:
        from sim.measure.bench.virtual import run_virtual_bench, virtual_table

        print_table(virtual_table(run_virtual_bench(rounds=rounds, tell=tell)))
    else:
        from sim.measure.bench import bench_table, run_bench

        print_table(bench_table(run_bench(pods=pods, seconds=seconds, rounds=rounds, tell=tell)))
    return 0
