/*
 * Times processes from posix_spawn to their exit, with the least noise we know: one small parent, no shell, no pipes.
 *
 *   spawn PROGRAM COUNT IN_FLIGHT FIRST STDIN_FILE STDOUT_FILE
 *
 * Runs PROGRAM COUNT times, at most IN_FLIGHT at once, with this process's environment, in which "{n}" becomes FIRST, FIRST+1, ...
 * Children read STDIN_FILE and append to STDOUT_FILE. Prints for each, as it ends: n, start (ns), elapsed (ns), wait status.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1000, VARIABLES = 128, ROOM = 4096 };
extern char **environ;

static struct run {
    pid_t pid;
    long long start;
} runs[MOST];
static char values[VARIABLES][ROOM], *environment[VARIABLES + 1];

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fill_environment(long n)
{
    int count = 0;
    for (; environ[count]; count++) {
        char *to = values[count];
        if (count == VARIABLES) exit(3);
        for (const char *from = environ[count]; *from;) {
            if (to - values[count] > ROOM - 24) exit(3);
            int hole = !strncmp(from, "{n}", 3);
            if (hole) to += sprintf(to, "%ld", n);
            else *to++ = *from;
            from += hole ? 3 : 1;
        }
        *to = 0;
        environment[count] = values[count];
    }
    environment[count] = NULL;
}

int main(int argc, char **argv)
{
    if (argc != 7) return 2;
    long count = atol(argv[2]), in_flight = atol(argv[3]), first = atol(argv[4]), started = 0, ended = 0;
    posix_spawn_file_actions_t files;
    if (count < 1 || count > MOST || in_flight < 1 || posix_spawn_file_actions_init(&files)) return 2;
    posix_spawn_file_actions_addopen(&files, 0, argv[5], O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, argv[6], O_WRONLY | O_APPEND | O_CREAT, 0600);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    while (ended < count) {
        if (started < count && started - ended < in_flight) {
            char *arguments[] = {argv[1], NULL};
            fill_environment(first + started);
            struct run *it = &runs[started++];
            it->start = now_ns();
            if (posix_spawn(&it->pid, argv[1], &files, NULL, arguments, environment)) return 4;
            if (started < count && started - ended < in_flight) continue;
        }
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        long long now = now_ns();
        if (pid < 0 && errno == EINTR) continue;
        if (pid < 0) return 5;
        for (long i = 0; i < started; i++)
            if (runs[i].pid == pid) printf("%ld %lld %lld %d\n", first + i, runs[i].start, now - runs[i].start, status), runs[i].pid = 0;
        ended++;
    }
    return 0;
}
