// A client on Debian's redigo: subscribes on one connection, publishes on another, and prints what it heard.
// tap_client PORT CHANNEL COUNT
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/gomodule/redigo/redis"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	address, channel := "127.0.0.1:"+os.Args[1], os.Args[2]
	count, err := strconv.Atoi(os.Args[3])
	must(err)
	hears, err := redis.Dial("tcp", address, redis.DialClientName("redigo-hears"))
	must(err)
	says, err := redis.Dial("tcp", address, redis.DialClientName("redigo-says"))
	must(err)
	listening := redis.PubSubConn{Conn: hears}
	must(listening.Subscribe(channel))
	if _, there := listening.Receive().(redis.Subscription); !there {
		panic("no confirmation")
	}
	for i := 0; i < count; i++ {
		must(says.Send("PUBLISH", channel, fmt.Sprintf(`{"eventId":"redigo-%d"}`, i)))
	}
	must(says.Flush())
	for i := 0; i < count; i++ {
		receivers, err := redis.Int(says.Receive())
		must(err)
		if receivers != 1 {
			panic(receivers)
		}
	}
	for i := 0; i < count; i++ {
		fmt.Println(string(listening.Receive().(redis.Message).Data))
	}
	must(hears.Close())
	must(says.Close())
}
