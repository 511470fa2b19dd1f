// One pod of one of the six services: node service.js music-service
//
// REDIS_URL      Redis; without it the pod is in memory mode
// POD_NAME, PORT its name, and where it answers HTTP (3000)
// EVENT_BUS_BATCH_SIZE, EVENT_BUS_BATCH_INTERVAL_MS
// ADMIN_TOKEN    for POST /api/lab/call and, at the gateway, POST /api/admin/cache/clear
// CALLS_PER_S    how many calls the pod's application makes by itself (0)
// ONCE           1: one pod alone handles an event
// REDIS_OPTIONS  options of ioredis, as JSON
"use strict";

const http = require("node:http");
const bus = require("./bus.js");

const CONFIG = [bus.TEMPLATE_INVALIDATED, bus.PROVIDER_INVALIDATED, bus.CACHE_INVALIDATE];
const ANALYTICS = [bus.BATCH, bus.METRIC, bus.USAGE];
const SERVICES = {
  "music-service": { publishes: ANALYTICS, subscribes: CONFIG },
  "ai-content-service": { publishes: ANALYTICS, subscribes: CONFIG },
  "api-gateway": { publishes: [bus.BATCH, bus.METRIC, bus.CACHE_INVALIDATE], subscribes: [bus.CACHE_INVALIDATE] },
  "ai-config-service": { publishes: [bus.TEMPLATE_INVALIDATED, bus.PROVIDER_INVALIDATED], subscribes: CONFIG },
  "analytics-service": { publishes: [], subscribes: [...ANALYTICS, bus.CACHE_INVALIDATE] },
  "system-service": { publishes: [bus.METRIC, bus.CACHE_INVALIDATE], subscribes: [bus.METRIC, bus.CACHE_INVALIDATE] },
};
const MAX_BODY = 1_000_000;

const service = process.argv[2];
if (!Object.hasOwn(SERVICES, service)) {
  process.stderr.write(`no service ${JSON.stringify(service)}: give one of ${Object.keys(SERVICES).join(", ")}\n`);
  process.exit(2);
}

/** A whole number of the environment; what is none ends the program with a sentence. */
function number(name, otherwise) {
  const text = process.env[name];
  if (text === undefined || text === "") return otherwise;
  if (!/^\d+(\.\d+)?$/.test(text)) {
    process.stderr.write(`${name} = ${JSON.stringify(text)}: give a number of at least 0\n`);
    process.exit(2);
  }
  return Number(text);
}

const { publishes, subscribes } = SERVICES[service];
const name = process.env.POD_NAME || `${service}-0`;
const metrics = new bus.Metrics(service);
const options = JSON.parse(process.env.REDIS_OPTIONS || "{}");
const client = new bus.EventBusClient({ url: process.env.REDIS_URL, name, metrics, options });
const publisher = new bus.EventPublisher(client, service, {
  batchSize: number("EVENT_BUS_BATCH_SIZE", 100),
  batchIntervalMs: number("EVENT_BUS_BATCH_INTERVAL_MS", 30_000),
});

/** What this service does with each event that it hears. */
function ownHandlers() {
  const config = new bus.ConfigEventSubscriber(metrics);
  const counted = { items: 0, metrics: 0, uses: 0 };
  const responses = new bus.LruCache(500);
  const dropResponses = (event) => {
    responses.drop(event.data.pattern);
    metrics.invalidations += 1;
  };
  const analytics = {
    [bus.BATCH]: (event) => { counted.items += event.data.events.length; },
    [bus.METRIC]: () => { counted.metrics += 1; },
    [bus.USAGE]: () => { counted.uses += 1; },
  };
  const own = {
    "api-gateway": { [bus.CACHE_INVALIDATE]: dropResponses },
    "analytics-service": { ...analytics, [bus.CACHE_INVALIDATE]: dropResponses },
    "system-service": { [bus.METRIC]: analytics[bus.METRIC], [bus.CACHE_INVALIDATE]: dropResponses },
  };
  return own[service] ?? config.handlers();
}

/** Say on standard output what was handled, where the lab asks for it. */
const handled = process.env.BUSLAB_HANDLED_URL ? (event) => process.stdout.write(`buslab handled ${event.eventId}\n`) : () => {};

async function subscribe() {
  const handlers = ownHandlers();
  const once = process.env.ONCE === "1";
  await Promise.all(subscribes.map((type) => client.subscribe(type, async (event) => {
    const handle = async () => {
      await handlers[type](event);
      handled(event);
    };
    await (once ? client.handleEventOnce(event, handle) : handle());
  })));
}

/** The data of the n-th call that the application makes by itself. */
function content(type, n) {
  return {
    [bus.BATCH]: { eventType: "track.played", userId: `user_${n % 1000}` },
    [bus.METRIC]: { name: "request.duration", value: n % 250, unit: "ms" },
    [bus.USAGE]: { providerId: "openai", model: "small", tokens: 100 + (n % 400) },
    [bus.TEMPLATE_INVALIDATED]: { templateId: `tpl_${n % 50}` },
    [bus.PROVIDER_INVALIDATED]: { providerId: `prov_${n % 5}` },
    [bus.CACHE_INVALIDATE]: { pattern: `aiponge:cache:templates:${n % 50}` },
  }[type];
}

/** Make calls at an even rate, those that a late timer missed at once. */
function makeCalls(perSecond) {
  if (!perSecond || !publishes.length) return null;
  const began = performance.now();
  let made = 0;
  return setInterval(() => {
    for (const due = ((performance.now() - began) / 1000) * perSecond; made < due; made += 1) {
      const type = publishes[made % publishes.length];
      publisher.call(type, content(type, made));
    }
  }, 5);
}

function answer(response, status, body) {
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
}

async function bodyOf(request) {
  let text = "";
  for await (const part of request.setEncoding("utf8")) {
    text += part;
    if (text.length > MAX_BODY) throw new Error("the body is too long");
  }
  const body = JSON.parse(text);
  if (body === null || typeof body !== "object" || Array.isArray(body)) throw new Error("the body is not a JSON object");
  return body;
}

/** Return why a request may not call: 401 without a token, 403 with another; 0 where it may. */
function barred(request) {
  const given = /^bearer +(\S+)$/i.exec(request.headers.authorization ?? "");
  if (!given) return 401;
  return process.env.ADMIN_TOKEN && given[1] === process.env.ADMIN_TOKEN ? 0 : 403;
}

async function serve(request, response) {
  const at = `${request.method} ${request.url}`;
  if (at === "GET /health/live") return answer(response, 200, { alive: true });
  if (at === "GET /health/ready") {
    const checks = { eventBus: { connected: client.connected, redisEnabled: client.redisEnabled } };
    return answer(response, client.ready ? 200 : 503, { ready: client.ready, checks });
  }
  if (at === "GET /metrics") {
    return response.writeHead(200, { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" }).end(metrics.text());
  }
  const clears = at === "POST /api/admin/cache/clear" && service === "api-gateway";
  if (!clears && at !== "POST /api/lab/call") return answer(response, 404, { error: `no ${at} here` });
  const status = barred(request);
  if (status) return answer(response, status, { error: "send Authorization: Bearer ADMIN_TOKEN" });
  let body;
  try {
    body = await bodyOf(request);
  } catch (error) {
    return answer(response, 400, { error: error.message });
  }
  if (clears) {
    if (typeof body.pattern !== "string" || !body.pattern) return answer(response, 400, { error: "give a pattern" });
    publisher.invalidateCache(body.pattern);
    return answer(response, 202, { accepted: true });
  }
  if (!publishes.includes(body.type)) return answer(response, 400, { error: `give a type: ${publishes.join(", ")}` });
  if (body.data === null || typeof body.data !== "object") return answer(response, 400, { error: "give data: an object" });
  publisher.call(body.type, body.data);
  return answer(response, 202, { accepted: true });
}

const server = http.createServer((request, response) => {
  serve(request, response).catch((error) => answer(response, 500, { error: error.message }));
});
let calls = null;
let stopping = false;

async function shutdown() {
  if (stopping) return;
  stopping = true;
  clearInterval(calls);
  await publisher.flushEvents();
  client.disconnect();
  server.closeAllConnections();
  server.close();
  bus.log("info", "Event bus client shutdown complete");
}

for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, shutdown);
server.listen(number("PORT", 3000), "127.0.0.1", () => bus.log("info", "listening", { pod: name, port: server.address().port }));
subscribe().then(() => { if (!stopping) calls = makeCalls(number("CALLS_PER_S", 0)); });
