/* A client on Debian's libhiredis: subscribes on one connection, publishes on another, and prints what it heard.
   tap_client PORT CHANNEL COUNT */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  int port = atoi(argv[1]), count = atoi(argv[3]);
  redisContext *hears = redisConnect("127.0.0.1", port), *says = redisConnect("127.0.0.1", port);
  if (argc != 4 || !hears || !says || hears->err || says->err) return 1;
  freeReplyObject(redisCommand(hears, "CLIENT SETNAME hiredis-hears"));
  freeReplyObject(redisCommand(says, "CLIENT SETNAME hiredis-says"));
  freeReplyObject(redisCommand(hears, "SUBSCRIBE %s", argv[2]));
  for (int i = 0; i < count; i++) redisAppendCommand(says, "PUBLISH %s {\"eventId\":\"hiredis-%d\"}", argv[2], i);
  for (int i = 0; i < count; i++) {
    redisReply *reply;
    if (redisGetReply(says, (void **)&reply) != REDIS_OK || reply->integer != 1) return 2;
    freeReplyObject(reply);
  }
  for (int i = 0; i < count; i++) {
    redisReply *reply;
    if (redisGetReply(hears, (void **)&reply) != REDIS_OK) return 3;
    printf("%s\n", reply->element[2]->str);
    freeReplyObject(reply);
  }
  redisFree(hears);
  redisFree(says);
  return 0;
}
