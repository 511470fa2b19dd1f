/* The ceiling that `buslab bench` compares with: drain subscribed sockets by epoll and do nothing else.
 *
 * bench_drain ACKS BYTES_PER_ACK ACKNOWLEDGING FD...
 *
 * It speaks the messages of children.py on the line that it inherits: says "prepared", drains until it is told how many bytes to
 * expect, goes on until it has them, and says what it heard. After every BYTES_PER_ACK bytes on the first ACKNOWLEDGING sockets it writes one byte to ACKS. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (256 * 1024)
#define READY_SOCKETS 1024
#define PATIENCE_MS 10000

static char buffer[READ_BYTES];

static void watch(int epoll, int fd, unsigned number) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) exit(3);
}

static long long cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv) {
    char *line = getenv("BUSLAB_CONTROL_FD");
    if (argc < 5 || line == NULL) return 2;
    int control = atoi(line), acks = atoi(argv[1]), sockets = argc - 4;
    long long per_ack = atoll(argv[2]), next_ack = per_ack, acknowledging = atoll(argv[3]);
    long long bytes = 0, reads = 0, heard = 0, expected = -1;
    int epoll = epoll_create1(0);
    struct epoll_event ready[READY_SOCKETS];
    int *fds = malloc(sizeof(int) * sockets);
    if (epoll < 0 || fds == NULL || per_ack < 1) return 3;
    for (int i = 0; i < sockets; i++) watch(epoll, fds[i] = atoi(argv[4 + i]), i);
    watch(epoll, control, sockets);
    int length = snprintf(buffer, sizeof buffer, "{\"type\":\"prepared\"}\n");
    if (send(control, buffer, length, MSG_NOSIGNAL) != length) return 3;
    long long before_ns = cpu_ns();
    while (expected < 0 || bytes < expected) {
        int count = epoll_wait(epoll, ready, READY_SOCKETS, expected < 0 ? -1 : PATIENCE_MS);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break; /* what is missing is the caller's to report */
        for (int i = 0; i < count; i++) {
            int number = ready[i].data.u32;
            ssize_t got = recv(number == sockets ? control : fds[number], buffer, READ_BYTES - 1, MSG_DONTWAIT);
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (got <= 0) return 4;
            if (number == sockets) {
                buffer[got] = 0;
                char *count = buffer; /* {"type":"expect","count":N} */
                while (*count && !isdigit((unsigned char)*count)) count++;
                expected = atoll(count);
                continue;
            }
            bytes += got;
            reads++;
            if (number >= acknowledging) continue;
            for (heard += got; heard >= next_ack; next_ack += per_ack)
                if (write(acks, ".", 1) != 1) return 4;
        }
    }
    char *heard_in_all = "{\"type\":\"heard\",\"count\":%lld,\"reads\":%lld,\"cpu_ns\":%lld}\n";
    length = snprintf(buffer, sizeof buffer, heard_in_all, bytes, reads, cpu_ns() - before_ns);
    return send(control, buffer, length, MSG_NOSIGNAL) == length ? 0 : 4;
}
