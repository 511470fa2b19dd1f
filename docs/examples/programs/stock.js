// A stock service: it hears orders, reserves what they ask for, and says so. It needs no package; yours has a client library.
const crypto = require("crypto"), http = require("http"), net = require("net");

const broker = new URL(process.env.REDIS_URL);
const PREFIX = "shop:", HEARS = "order.created", SAYS = "stock.reserved";
let subscribed = false, publisher = null, stopping = false;

function command(...words) {
  return `*${words.length}\r\n` + words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("");
}

// Connect for good: when a connection is lost another one is opened, and whatever has to be said on it is said again.
function keep(opened, took, lost) {
  let rest = "";
  const socket = net.connect(Number(broker.port), broker.hostname, () => {
    if (broker.password) socket.write(command("AUTH", decodeURIComponent(broker.password)));
    opened(socket);
  });
  socket.setEncoding("utf8");
  socket.on("data", (text) => {
    const lines = (rest + text).split("\r\n");
    rest = lines.pop();
    lines.forEach(took);
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    lost();
    if (!stopping) setTimeout(keep, 100, opened, took, lost);
  });
}

function handle(event) {
  if (event.source === "buslab") return; // a probe of the lab: it proves that this pod hears
  const reserved = { id: crypto.randomUUID(), type: SAYS, source: "stock", time: new Date().toISOString(), data: event.data };
  if (publisher) publisher.write(command("PUBLISH", PREFIX + SAYS, JSON.stringify(reserved)));
  console.log(`buslab handled ${event.id}`); // optional: so the lab knows when it was handled, and whether
}

keep(
  (socket) => socket.write(command("SUBSCRIBE", PREFIX + HEARS)),
  (line) => {
    if (line === "subscribe") subscribed = true;
    if (line.startsWith("{")) handle(JSON.parse(line));
  },
  () => { subscribed = false; },
);
keep((socket) => { publisher = socket; }, () => {}, () => { publisher = null; });

const health = http.createServer((request, answer) => {
  const ready = request.url !== "/health/ready" || (subscribed && publisher !== null);
  answer.writeHead(ready ? 200 : 503).end(JSON.stringify({ subscribed }));
});
health.listen(Number(process.env.PORT), "127.0.0.1");

process.on("SIGTERM", () => {
  stopping = true;
  process.exit(0);
});
