/*
 * Nephila's CNI IPAM plugin on the host: transport only. It forwards the CNI_* variables and stdin to the node's agent over a
 * unix socket and prints the answer (docs/architecture.md, "The CNI socket protocol"). Static, no heap on the way to an answer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "json.c"

#ifndef NEPHILA_SOCKET
#define NEPHILA_SOCKET "/run/nephila/nephila.sock"
#endif
#ifndef NEPHILA_DEADLINE_MS /* tests shorten the deadlines */
#define NEPHILA_DEADLINE_MS 20000
#define NEPHILA_DEL_DEADLINE_MS 10000
#define NEPHILA_STDIN_MS 5000
#endif
#ifndef NEPHILA_PATIENCE_MS /* with the agent's own wait for an address, 8 s, well within the deadline */
#define NEPHILA_PATIENCE_MS 8000
#endif

enum { STDIN_MAX = 65536, BODY_MAX = 65536, HEAD_MAX = 8192, VALUE_MAX = 8000, TRACE_MAX = 128, ID_MAX = 253 };
enum { BACKSTOP_S = 5, FIRST_PAUSE_MS = 5, LONGEST_PAUSE_MS = 160 };
enum { NEEDS_ID = 1, NEEDS_NETNS = 2, NEEDS_IFNAME = 4, NEEDS_RESULT = 8 };
enum { BAD_ENVIRONMENT = 4, BAD_INPUT = 6, BAD_CONFIG = 7, TRY_AGAIN = 11, NOT_AVAILABLE = 50 }; /* CNI spec 1.1 */

static const struct verb {
    char name[8];
    int needs, deadline_ms, unreachable; /* the code when the agent gives no answer; 0: spool and succeed */
    int patience_ms; /* how long an agent may be away. ADD and CHECK can be repeated without harm, DEL has its spool, STATUS must tell the truth */
} verbs[] = {
    {"ADD", NEEDS_ID | NEEDS_NETNS | NEEDS_IFNAME | NEEDS_RESULT, NEPHILA_DEADLINE_MS, TRY_AGAIN, NEPHILA_PATIENCE_MS},
    {"DEL", NEEDS_ID | NEEDS_IFNAME, NEPHILA_DEL_DEADLINE_MS, 0, 0},
    {"CHECK", NEEDS_ID | NEEDS_NETNS | NEEDS_IFNAME, NEPHILA_DEADLINE_MS, TRY_AGAIN, NEPHILA_PATIENCE_MS},
    {"GC", 0, NEPHILA_DEADLINE_MS, TRY_AGAIN, 0},
    {"STATUS", 0, NEPHILA_DEADLINE_MS, NOT_AVAILABLE, 0},
    {"VERSION", 0, NEPHILA_STDIN_MS, 0, 0},
};
static const struct variable {
    char name[16], header[20];
    int need;
} variables[] = {
    {"CNI_COMMAND", "Cni-Command: ", 0},       {"CNI_CONTAINERID", "Cni-Containerid: ", NEEDS_ID},
    {"CNI_NETNS", "Cni-Netns: ", NEEDS_NETNS}, {"CNI_IFNAME", "Cni-Ifname: ", NEEDS_IFNAME},
    {"CNI_ARGS", "Cni-Args: ", 0},             {"CNI_PATH", "Cni-Path: ", 0},
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static char input[STDIN_MAX + 2], request[COUNT(variables) * (VALUE_MAX + 32) + 1024 + STDIN_MAX];
static char answer[HEAD_MAX + BODY_MAX + 1], version[16] = "1.0.0"; /* the caller's, once stdin said it */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int64_t now_ms(void)
{
    return (int64_t)(clock_ns(CLOCK_MONOTONIC) / 1000000);
}

/* False once the deadline has passed. */
static int wait_for(int fd, short events, int64_t deadline)
{
    struct pollfd watched = {.fd = fd, .events = events};
    for (int64_t left; (left = deadline - now_ms()) > 0;) {
        int ready = poll(&watched, 1, (int)left);
        if (ready > 0 || (ready < 0 && errno != EINTR)) return 1;
    }
    return 0;
}

static int write_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        bytes += n, length -= (size_t)n;
    }
    return 0;
}

/* At least `width` digits, zero-padded. */
static char *put_number(char *to, uint64_t number, int width)
{
    char digits[20];
    int first = 20;
    do digits[--first] = (char)('0' + number % 10);
    while ((number /= 10) || 20 - first < width);
    return mempcpy(to, digits + first, (size_t)(20 - first));
}

static char *put_quoted(char *to, const char *text)
{
    for (; *text; *to++ = *text < 0x20 || *text > 0x7e ? '?' : *text, text++)
        if (*text == '"' || *text == '\\') *to++ = '\\';
    return to;
}

/* The texts are this file's, strerror's and a socket path of at most 107 bytes: the buffer cannot overflow. */
static _Noreturn void fail(int code, const char *reason, const char *hint, const char *first, const char *second, const char *third)
{
    static char json[2048];
    char *end = stpcpy(stpcpy(stpcpy(json, "{\"cniVersion\":\""), version), "\",\"code\":");
    end = stpcpy(put_number(end, (unsigned)code, 1), ",\"msg\":\"");
    end = stpcpy(put_quoted(put_quoted(put_quoted(end, first), second), third), "\",\"details\":\"");
    end = stpcpy(put_quoted(stpcpy(put_quoted(end, reason), "; hint: "), hint), "\"}\n");
    write_all(STDOUT_FILENO, json, (size_t)(end - json));
    _exit(1);
}

/* False if stdin is unreadable, too large or not ended at the deadline. Broken JSON is for the agent to judge. */
static int read_stdin(int64_t deadline, size_t *length)
{
    while (wait_for(STDIN_FILENO, POLLIN, deadline)) {
        ssize_t n = read(STDIN_FILENO, input + *length, STDIN_MAX + 1 - *length);
        if (n == 0) return 1;
        if (n < 0 && errno != EINTR && errno != EAGAIN) return 0;
        if (n > 0 && (*length += (size_t)n) > STDIN_MAX) return 0;
    }
    return 0;
}

static void adopt_version(void)
{
    char text[sizeof version];
    const char *value = member(input, "cniVersion"), *p = text;
    if (!value || *value != '"' || !string_end(value, text, sizeof text)) return;
    for (int i = 0; i < 3; i++) {
        size_t n = strspn(p, "0123456789");
        if (!n || p[n] != (i < 2 ? '.' : 0)) return;
        p += n + 1;
    }
    strcpy(version, text);
}

static void choose_socket(char *path, size_t room)
{
    const char *value = member(member(input, "ipam"), "ipam_unix_socket_path");
    strcpy(path, NEPHILA_SOCKET);
    if (!value || *value != '"' || !memcmp(value, "\"\"", 2)) return;
    if (!string_end(value, path, room) || *path != '/')
        fail(BAD_CONFIG, "BadConfig", "use an absolute path of at most 107 bytes, or leave it out for " NEPHILA_SOCKET,
             "ipam.ipam_unix_socket_path is not an absolute path that fits a unix socket address", "", "");
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* Writes the HTTP request and returns its length; refuses what the verb cannot do without, or a header cannot carry. */
static size_t build_request(const struct verb *verb, size_t body)
{
    static const char safe[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.-";
    char *end = stpcpy(request, "POST /cni HTTP/1.1\r\nHost: nephila\r\nNephila-Shim: 1\r\n");
    for (size_t i = 0; i < COUNT(variables); i++) {
        const struct variable *it = &variables[i];
        const char *value = variable(it->name), *bad = NULL;
        int needed = verb->needs & it->need;
        if (!value && needed)
            fail(BAD_ENVIRONMENT, "BadEnvironment", "the container runtime sets it", it->name, " is required for ", verb->name);
        if (!value) continue;
        size_t size = strlen(value);
        for (const char *p = value; *p; p++)
            if ((unsigned char)*p < 0x20 || *p == 0x7f) bad = " holds a control character";
        if (size > VALUE_MAX) bad = " is longer than 8000 bytes";
        if (needed == NEEDS_ID && (size > ID_MAX || strspn(value, safe) != size || strchr("_.-", *value)))
            bad = " is not a letter or digit followed by at most 252 letters, digits, '_', '.' or '-'";
        if (bad) fail(BAD_ENVIRONMENT, "BadEnvironment", "the container runtime sets it: see its log", it->name, bad, "");
        end = stpcpy(stpcpy(stpcpy(end, it->header), value), "\r\n");
    }
    const char *trace = variable("TRACEPARENT"); /* dropped rather than refused: no pod should fail for its trace */
    if (trace && strlen(trace) <= TRACE_MAX && !trace[strspn(trace, safe)])
        end = stpcpy(stpcpy(stpcpy(end, "Traceparent: "), trace), "\r\n");
    end = stpcpy(put_number(stpcpy(end, "Content-Length: "), body, 1), "\r\n\r\n");
    end = mempcpy(end, input, body);
    return (size_t)(end - request);
}

struct reply {
    int status, absent; /* nobody listened, or it went away before its answer was whole: a restarting agent */
    const char *body;
    size_t length;
};

/* 1: complete and fit to print, 0: more bytes are needed, -1: not an answer. Of `have` bytes in `answer`. */
static int parse_reply(size_t have, int needs_result, struct reply *reply)
{
    const char *head_end = memmem(answer, have < HEAD_MAX ? have : HEAD_MAX, "\r\n\r\n", 4), *length = NULL, *line = answer;
    answer[have] = 0;
    if (!head_end) return have < HEAD_MAX ? 0 : -1;
    if (strncmp(answer, "HTTP/1.", 7) || answer[8] != ' ' || strspn(answer + 9, "0123456789") != 3) return -1;
    reply->status = (answer[9] - '0') * 100 + (answer[10] - '0') * 10 + answer[11] - '0';
    while ((line = memmem(line, (size_t)(head_end + 2 - line), "\r\n", 2)) && line < head_end) {
        line += 2;
        if (!strncasecmp(line, "transfer-encoding:", 18)) return -1;
        if (strncasecmp(line, "content-length:", 15)) continue;
        if (length) return -1;
        length = line + 15 + strspn(line + 15, " \t");
    }
    size_t digits = length ? strspn(length, "0123456789") : 0;
    if (!digits || digits > 6 || !strspn(length + digits, " \t\r")) return -1;
    reply->length = strtoul(length, NULL, 10);
    reply->body = head_end + 4;
    if (reply->length > BODY_MAX) return -1;
    if (have - (size_t)(reply->body - answer) < reply->length) return 0;
    answer[(size_t)(reply->body - answer) + reply->length] = 0;
    if (!reply->length) return reply->status == 200 && !needs_result ? 1 : -1;
    const char *end = *blank(reply->body) == '{' ? value_end(blank(reply->body), DEPTH_MAX) : NULL;
    return end && blank(end) == reply->body + reply->length ? 1 : -1;
}

/* NULL with a complete answer in `reply`, else what went wrong. */
static const char *exchange_on(int fd, const char *path, size_t length, int64_t deadline, int needs_result, struct reply *reply)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int64_t left = deadline - now_ms();
    struct timeval limit = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000}; /* connect waits while the queue is full */
    int done = 0;
    strcpy(to.sun_path, path);
    reply->absent = 0;
    if (left <= 0) return "no time was left";
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit)) return strerror(errno);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) {
        reply->absent = errno == ENOENT || errno == ECONNREFUSED;
        return errno == EAGAIN ? "it took no connection in time" : strerror(errno);
    }
    for (size_t sent = 0; sent < length;) {
        ssize_t n = send(fd, request + sent, length - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) break; /* it may have answered before it hung up */
        if (n < 0 && errno != EAGAIN && errno != EINTR) return strerror(errno);
        if (n < 0 && !wait_for(fd, POLLOUT, deadline)) return "it did not take the request in time";
        if (n > 0) sent += (size_t)n;
    }
    for (size_t have = 0; !done; done = parse_reply(have, needs_result, reply)) {
        if (!wait_for(fd, POLLIN, deadline)) return "it did not answer in time";
        ssize_t n = recv(fd, answer + have, sizeof answer - 1 - have, MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return reply->absent = errno == ECONNRESET, strerror(errno);
        if (n == 0) return reply->absent = 1, have ? "its answer was cut off" : "it hung up without an answer";
        if (n > 0) have += (size_t)n;
    }
    return done > 0 ? NULL : "its answer was not understood";
}

/* The same, again and again for as long as an agent that is not there may take to come (back). */
static const char *exchange(const char *path, size_t length, int64_t deadline, const struct verb *verb, struct reply *reply)
{
    int64_t patient_until = 0;
    for (int pause = FIRST_PAUSE_MS;; pause = pause < LONGEST_PAUSE_MS ? 2 * pause : pause) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const char *why = exchange_on(fd, path, length, deadline, verb->needs & NEEDS_RESULT, reply);
        if (fd >= 0) close(fd);
        if (!why || !reply->absent) return why;
        if (!patient_until) patient_until = now_ms() + verb->patience_ms;
        if (now_ms() + pause >= (patient_until < deadline ? patient_until : deadline)) return why;
        poll(NULL, 0, pause);
    }
}

#include "spool.c"

int main(void)
{
    static const char hint[] = "is the Nephila agent of this node running, and is this its socket?";
    const char *command = variable("CNI_COMMAND"), *why;
    const struct verb *verb = NULL;
    struct reply reply = {0};
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    size_t body = 0;
    for (size_t i = 0; command && i < COUNT(verbs); i++)
        if (!strcmp(command, verbs[i].name)) verb = &verbs[i];
    if (!verb)
        fail(BAD_ENVIRONMENT, "BadEnvironment", "a CNI plugin is run by a container runtime",
             "CNI_COMMAND ", command ? "is none of" : "is missing; it is one of", " ADD, DEL, CHECK, GC, STATUS, VERSION");
    int64_t deadline = now_ms() + verb->deadline_ms, stdin_deadline = now_ms() + NEPHILA_STDIN_MS;
    signal(SIGALRM, SIG_DFL); /* the backstop for what poll cannot bound: a blocked stdout or disk */
    alarm((unsigned)verb->deadline_ms / 1000 + BACKSTOP_S);
    int readable = read_stdin(stdin_deadline, &body);
    if (readable) adopt_version();
    if (verb == &verbs[COUNT(verbs) - 1]) {
        char *end = stpcpy(stpcpy(stpcpy(answer, "{\"cniVersion\":\""), version), "\",\"supportedVersions\":");
        end = stpcpy(end, "[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
        return write_all(STDOUT_FILENO, answer, (size_t)(end - answer)) != 0;
    }
    if (!readable)
        fail(BAD_INPUT, "UnreadableInput", "the network configuration is at most 64 KiB of JSON", "stdin cannot be read, ",
             body > STDIN_MAX ? "is larger than 64 KiB" : "or did not end in time", "");
    size_t length = build_request(verb, body);
    choose_socket(path, sizeof path);
    why = exchange(path, length, deadline, verb, &reply);
    if (!why) return write_all(STDOUT_FILENO, reply.body, reply.length) || reply.status != 200;
    if (verb->unreachable) fail(verb->unreachable, "AgentUnreachable", hint, path, ": ", why);
    if ((why = spool(path, length))) fail(TRY_AGAIN, "SpoolRefused", hint, path, ": no answer, and the spool beside it refused the DEL: ", why);
    return 0;
}
