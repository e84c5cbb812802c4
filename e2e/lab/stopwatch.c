/* Stands in for a CNI plugin, runs "<its own name>.shim" in its place, and appends one line about it to $NEPHILA_LAB_TIMES:
 *     <verb> <container id> <interface> <exit status> <nanoseconds from fork to exit>
 * The main plugin calls the IPAM plugin out of the lab's sight; this is how the lab tells our time from the main plugin's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *value(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : "-";
}

int main(int argc, char **argv) {
    (void)argc;
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 6);
    if (length < 0) return 126;
    snprintf(program + length, 6, ".shim");

    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    pid_t child = vfork();
    if (child == 0) {
        execv(program, argv);
        _exit(127);
    }
    if (child < 0) return 126;
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return 126;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);

    const char *path = getenv("NEPHILA_LAB_TIMES");
    if (path) {
        char line[1024];
        long long took = (ended.tv_sec - begun.tv_sec) * 1000000000LL + (ended.tv_nsec - begun.tv_nsec);
        int size = snprintf(line, sizeof line, "%s %.256s %.64s %d %lld\n", value("CNI_COMMAND"), value("CNI_CONTAINERID"),
                            value("CNI_IFNAME"), code, took);
        int log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (log >= 0) {
            if (write(log, line, (size_t)size) < 0) code = code ? code : 0;
            close(log);
        }
    }
    return code;
}
