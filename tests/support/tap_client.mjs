// A client on node-redis (RESP3): subscribes on one connection, publishes on another, and prints what it heard.
// node tap_client.mjs PORT CHANNEL COUNT
import { createClient } from 'redis'

const [port, channel, count] = [process.argv[2], process.argv[3], Number(process.argv[4])]
const connect = (name) => createClient({ name, RESP: 3, socket: { port: Number(port), host: '127.0.0.1' } }).connect()
const [hears, says] = await Promise.all([connect('node-redis-hears'), connect('node-redis-says')])
let left = count
const all = new Promise((resolve) => {
  hears.subscribe(channel, (message) => {
    console.log(message)
    if (--left === 0) resolve()
  }).then(async () => {
    const receivers = await Promise.all([...Array(count).keys()].map((i) => says.publish(channel, JSON.stringify({ eventId: `node-redis-${i}` }))))
    if (receivers.some((one) => one !== 1)) process.exit(2)
  })
})
await all
await Promise.all([hears.close(), says.close()])
