// The other side of the interop test: ioredis publishes what stdin says, and prints what it hears. One JSON object a line.
const readline = require("node:readline");
const Redis = require("ioredis");

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const speaks = new Redis(process.env.REDIS_URL);
const hears = new Redis(process.env.REDIS_URL);

hears.on("pmessage", (pattern, channel, payload) => say({ event: "heard", channel, payload }));

async function main() {
  await hears.psubscribe("aiponge:events:*");
  say({ event: "ready", ioredis: require("ioredis/package.json").version, node: process.version });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { channel, standardEvent, raw } = JSON.parse(line);
    const receivers = await speaks.publish(channel, raw ?? JSON.stringify(standardEvent));
    say({ event: "published", channel, receivers });
  }
  await hears.quit();
  await speaks.quit();
  say({ event: "ended" });
}

main();
