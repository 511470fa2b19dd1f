// The event bus of one service: the client with its memory mode, the publisher with its batches, the subscriber to configuration events.
//
// Both connections have the defaults of ioredis. So what is published while Redis is away waits in the client's queue; memory mode is for a
// service that has no REDIS_URL at all.
"use strict";

const { randomUUID } = require("node:crypto");
const Redis = require("ioredis");

const PREFIX = "aiponge:events:";
const LOCKS = "aiponge:locks:";
const VERSION = "1.0";
const BATCH = "analytics.events.batch";
const METRIC = "analytics.metric.recorded";
const USAGE = "analytics.provider.usage";
const TEMPLATE_INVALIDATED = "config.template.invalidated";
const PROVIDER_INVALIDATED = "config.provider.invalidated";
const CACHE_INVALIDATE = "config.cache.invalidate";
const MAX_COPIES = 500; // of each cache

const log = (level, message, more = {}) => process.stderr.write(JSON.stringify({ level, message, ...more }) + "\n");

/** A standard event, ready to be published. */
function makeEvent(source, type, data) {
  return { eventId: `evt_${randomUUID()}`, type, version: VERSION, timestamp: new Date().toISOString(), source, data };
}

/** The eight numbers that a service shows of its bus, as Prometheus reads them. */
class Metrics {
  constructor(service) {
    this.start = `aiponge_${service.replaceAll("-", "_")}_`;
    this.published = this.received = this.publishErrors = this.subscribeErrors = 0;
    this.analyticsPublished = this.invalidations = 0;
    this.connected = () => false;
    this.queued = () => 0;
  }

  text() {
    const rows = [
      ["event_bus_events_published_total", "counter", "Events published via event bus", this.published],
      ["event_bus_events_received_total", "counter", "Events received via subscriptions", this.received],
      ["event_bus_publish_errors_total", "counter", "Failed publish attempts", this.publishErrors],
      ["event_bus_subscribe_errors_total", "counter", "Failed subscription handling", this.subscribeErrors],
      ["event_bus_connection_status", "gauge", "1 if connected, 0 if not", Number(this.connected())],
      ["analytics_events_queued_total", "gauge", "Pending events in queue", this.queued()],
      ["analytics_events_published_total", "counter", "Analytics events published", this.analyticsPublished],
      ["config_cache_invalidations_total", "counter", "Cache invalidations processed", this.invalidations],
    ];
    return rows.map(([name, type, help, value]) => {
      const full = this.start + name;
      return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${full} ${value}\n`;
    }).join("");
  }
}

/** Publishes and subscribes, through Redis or, without a URL, inside this pod alone. */
class EventBusClient {
  constructor({ url, name, metrics, options = {} }) {
    this.metrics = metrics;
    this.handlers = new Map(); // event type -> callbacks
    this.subscribed = true; // false once a SUBSCRIBE was rejected: nobody repeats it
    this.pub = this.sub = null;
    if (url) {
      this.pub = this.connect(url, { ...options, connectionName: `${name}-pub` });
      this.sub = this.connect(url, { ...options, connectionName: `${name}-sub` });
      this.sub.on("message", (channel, payload) => this.receive(payload));
    }
    metrics.connected = () => this.connected;
  }

  connect(url, options) {
    const redis = new Redis(url, options);
    redis.on("error", (error) => log("error", "Redis connection error", { error: error.message }));
    redis.on("reconnecting", () => log("info", "Redis client reconnecting", { name: options.connectionName }));
    return redis;
  }

  get redisEnabled() {
    return this.pub !== null;
  }

  get connected() {
    return this.redisEnabled && this.pub.status === "ready" && this.sub.status === "ready" && this.subscribed;
  }

  /** Ready: connected, or without a Redis to connect to. */
  get ready() {
    return this.connected || !this.redisEnabled;
  }

  /** Resolve when Redis has confirmed the channel; a rejection is counted, and the pod stays deaf to it. */
  async subscribe(type, callback) {
    const callbacks = this.handlers.get(type);
    if (callbacks) {
      callbacks.push(callback);
      return;
    }
    this.handlers.set(type, [callback]);
    if (!this.redisEnabled) return;
    try {
      await this.sub.subscribe(PREFIX + type);
    } catch (error) {
      this.subscribed = false;
      this.metrics.subscribeErrors += 1;
      log("error", "SUBSCRIBE was rejected: restart this pod", { type, error: error.message });
    }
  }

  receive(payload) {
    let event;
    try {
      event = JSON.parse(payload);
      const whole = typeof event.eventId === "string" && typeof event.type === "string" && /^1(\.\d+)?$/.test(event.version);
      if (!whole) throw new Error("no event of version 1");
    } catch (error) {
      this.metrics.subscribeErrors += 1;
      log("error", "Not an event", { error: error.message });
      return;
    }
    this.metrics.received += 1;
    this.deliver(event);
  }

  deliver(event) {
    for (const callback of this.handlers.get(event.type) ?? []) {
      Promise.resolve().then(() => callback(event)).catch((error) => {
        this.metrics.subscribeErrors += 1;
        log("error", "Handler failed", { eventId: event.eventId, error: error.message });
      });
    }
  }

  /** Resolve with the number of receivers; reject when ioredis gives the publish up. */
  async publish(event) {
    if (!this.redisEnabled) {
      this.metrics.published += 1;
      this.deliver(event);
      return this.handlers.has(event.type) ? 1 : 0;
    }
    try {
      const receivers = await this.pub.publish(PREFIX + event.type, JSON.stringify(event));
      this.metrics.published += 1;
      return receivers;
    } catch (error) {
      this.metrics.publishErrors += 1;
      throw error;
    }
  }

  /** Handle an event in one pod alone, by a lock that is gone when the handler is done. */
  async handleEventOnce(event, handle) {
    if (!this.redisEnabled) return handle(event);
    const key = LOCKS + event.eventId;
    const acquired = await this.pub.set(key, "1", "EX", 300, "NX");
    if (!acquired) {
      log("debug", "Event already being processed", { eventId: event.eventId });
      return undefined;
    }
    try {
      return await handle(event);
    } finally {
      await this.pub.del(key);
    }
  }

  /** Close both connections; what still waits in their queues is given up. */
  disconnect() {
    this.pub?.disconnect();
    this.sub?.disconnect();
  }
}

/** What an application calls: nothing here waits or throws. */
class EventPublisher {
  constructor(client, source, { batchSize = 100, batchIntervalMs = 30_000 } = {}) {
    this.client = client;
    this.source = source;
    this.batchSize = batchSize;
    this.batchIntervalMs = batchIntervalMs;
    this.items = [];
    this.timer = null;
    this.underWay = new Set(); // publishes without an answer
    client.metrics.queued = () => this.items.length;
  }

  recordEvent(item) {
    this.items.push(item);
    if (this.items.length >= this.batchSize) this.sendBatch();
    else this.timer ??= setTimeout(() => this.sendBatch(), this.batchIntervalMs);
  }

  recordEvents(items) {
    for (const item of items) this.recordEvent(item);
  }

  recordMetric(data) {
    this.send(METRIC, data, 1);
  }

  recordProviderUsage(data) {
    this.send(USAGE, data, 1);
  }

  invalidateTemplate(templateId) {
    this.send(TEMPLATE_INVALIDATED, { templateId });
  }

  invalidateProvider(providerId) {
    this.send(PROVIDER_INVALIDATED, { providerId });
  }

  invalidateCache(pattern) {
    this.send(CACHE_INVALIDATE, { pattern });
  }

  /** Make the call that belongs to an event type. */
  call(type, data) {
    if (type === BATCH) this.recordEvent(data);
    else this.send(type, data, type === METRIC || type === USAGE ? 1 : 0);
  }

  sendBatch() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.items.length) {
      const events = this.items;
      this.items = [];
      this.send(BATCH, { events }, events.length);
    }
  }

  send(type, data, analytics = 0) {
    const publish = this.client.publish(makeEvent(this.source, type, data)).then(
      () => { this.client.metrics.analyticsPublished += analytics; },
      (error) => log("debug", "Publish failed (non-blocking)", { type, error: error.message }),
    );
    this.underWay.add(publish);
    publish.finally(() => this.underWay.delete(publish));
  }

  /** Publish the part-full batch, and resolve when every publish has its answer. */
  async flushEvents() {
    this.sendBatch();
    while (this.underWay.size) await Promise.all(this.underWay);
  }
}

/** Copies by key; the one unused for longest leaves. */
class LruCache {
  constructor(max) {
    this.max = max;
    this.copies = new Map();
  }

  get(key) {
    const copy = this.copies.get(key);
    if (copy !== undefined) {
      this.copies.delete(key);
      this.copies.set(key, copy);
    }
    return copy;
  }

  set(key, copy) {
    this.copies.delete(key);
    this.copies.set(key, copy);
    if (this.copies.size > this.max) this.copies.delete(this.copies.keys().next().value);
  }

  delete(key) {
    return this.copies.delete(key);
  }

  /** Drop every copy whose key matches a pattern, in which * stands for anything. */
  drop(pattern) {
    const parts = String(pattern).split(/\*+/).map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
    const matches = new RegExp(`^${parts.join(".*")}$`, "s");
    for (const key of this.copies.keys()) if (matches.test(key)) this.copies.delete(key);
  }
}

/** Drops cached templates and providers when they have changed; to do so twice does no harm. */
class ConfigEventSubscriber {
  constructor(metrics) {
    this.metrics = metrics;
    this.templates = new LruCache(MAX_COPIES);
    this.providers = new LruCache(MAX_COPIES);
  }

  handlers() {
    return {
      [TEMPLATE_INVALIDATED]: (event) => this.handleTemplateInvalidated(event),
      [PROVIDER_INVALIDATED]: (event) => this.handleProviderInvalidated(event),
      [CACHE_INVALIDATE]: (event) => this.handleCacheInvalidate(event),
    };
  }

  async handleTemplateInvalidated(event) {
    this.templates.delete(event.data.templateId);
    this.metrics.invalidations += 1;
  }

  async handleProviderInvalidated(event) {
    this.providers.delete(event.data.providerId);
    this.metrics.invalidations += 1;
  }

  async handleCacheInvalidate(event) {
    this.templates.drop(event.data.pattern);
    this.providers.drop(event.data.pattern);
    this.metrics.invalidations += 1;
  }
}

module.exports = {
  BATCH, METRIC, USAGE, TEMPLATE_INVALIDATED, PROVIDER_INVALIDATED, CACHE_INVALIDATE,
  ConfigEventSubscriber, EventBusClient, EventPublisher, LruCache, Metrics, log,
};
