"""A program as a user may have one, with redis-py and no word of this package: DOES says which bugs it has."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import redis

HEARS, SAYS = "aiponge:events:config.template.invalidated", "aiponge:events:config.provider.invalidated"
DOES = os.environ.get("DOES", "").split()
stopping = threading.Event()
subscribed = threading.Event()


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if subscribed.is_set() else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def print_much() -> None:
    block = (b"x" * 1023 + b"\n") * 64
    for _ in range(320):
        os.write(1, block)


def main() -> None:
    if "exits" in DOES:
        print("there is no configuration", flush=True)
        sys.exit(3)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "ignores" in DOES else lambda *_: stopping.set())
    if "never" in DOES:
        stopping.wait(60)
        return
    if "forks" in DOES:
        subprocess.Popen(["sleep", "600"])
        subprocess.Popen(["sleep", "601"], start_new_session=True)
    if "health" in DOES:
        server = HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Health)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if "prints" in DOES:
        threading.Thread(target=print_much, daemon=True).start()
    own = redis.Redis(port=int(os.environ["DIRECT"])) if "DIRECT" in os.environ else None
    if own is not None:
        own.ping()  # a connection that its tap does not see, and that stays
    hear()


def hear() -> None:
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    pubsub = client.pubsub()
    pubsub.subscribe(HEARS)
    batch: list[str] = []
    died = time.monotonic() + 1.0
    while not stopping.is_set():
        if "dies" in DOES and time.monotonic() > died:
            print("the disk is full", flush=True)
            os._exit(7)
        try:
            message = pubsub.get_message(timeout=0.05)
        except redis.ConnectionError:
            time.sleep(0.05)
            continue
        if message is not None and message["type"] == "subscribe":
            subscribed.set()
            if "forgets" in DOES:
                pubsub.channels.clear()  # what the client library would subscribe to again
        elif message is not None:
            take(json.loads(message["data"]), batch, client)


def take(event: dict[str, str], batch: list[str], client: redis.Redis) -> None:
    if event["source"] == "buslab":  # a probe of the lab
        return
    batch.append(event["eventId"])
    if "answers" in DOES:
        own = event | {"eventId": f"{os.environ['POD_NAME']}-{event['eventId']}-{os.getpid()}", "type": "config.provider.invalidated"}
        client.publish(SAYS, json.dumps(own))
    if len(batch) >= (40 if "batches" in DOES else 1):
        for one in batch:
            print("buslab handled", one, flush=True)
        batch.clear()


if __name__ == "__main__":
    main()
