"""Run one real pod as its own process."""

from __future__ import annotations

import click


@click.command()
@click.argument("service")
@click.option("--bus", metavar="FILE", help="The bus file whose service it is. [default: BUSLAB_BUS, else the reference's bus]")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(0, 65_535), help="HTTP port; 0 = any free one.")
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on; 0.0.0.0 in a container.")
def pod(service: str, bus: str | None, port: int, bind: str) -> int:
    """Run one real pod of SERVICE until SIGTERM, SIGHUP or Ctrl-C.

    Reads REDIS_URL (absent: memory mode), EVENT_BUS_BATCH_SIZE, EVENT_BUS_BATCH_INTERVAL_MS, ADMIN_TOKEN and BUSLAB_BUS.
    """
    from sim.pods.standalone import run_pod

    run_pod(service, bus=bus or "", port=port, bind=bind)
    return 0
