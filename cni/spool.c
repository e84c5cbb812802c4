/*
 * The DEL spool beside the socket: what the agent could not take is kept, one file for each request, until it replays it. Included
 * by shim.c, whose request buffer it writes out.
 */
#include <dirent.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

enum { SPOOL_MAX = 256, SPOOL_MS = 2000 };

/* Counts with the directory locked, so that many DELs at once cannot pass the bound together. NULL or what went wrong. */
static const char *spool_into(int directory, size_t length)
{
    char name[64], temporary[64];
    int count = 0, file;
    for (int64_t deadline = now_ms() + SPOOL_MS; flock(directory, LOCK_EX | LOCK_NB); poll(NULL, 0, 1))
        if (now_ms() >= deadline || (errno != EWOULDBLOCK && errno != EINTR)) return "another DEL holds it";
    DIR *listing = fdopendir(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!listing) return strerror(errno);
    for (struct dirent *entry; (entry = readdir(listing));) {
        size_t size = strlen(entry->d_name);
        count += size > 4 && !strcmp(entry->d_name + size - 4, ".del");
    }
    closedir(listing);
    if (count >= SPOOL_MAX) return "it is full (256 files)";
    *put_number(stpcpy(put_number(name, clock_ns(CLOCK_BOOTTIME), 20), "-"), (uint64_t)getpid(), 1) = 0;
    stpcpy(stpcpy(stpcpy(temporary, "."), name), ".tmp"); /* what a crash leaves here must not look like a request */
    strcat(name, ".del");
    if ((file = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)) < 0) return strerror(errno);
    if (!write_all(file, request, length) && !fsync(file) && !renameat(directory, temporary, directory, name))
        return fsync(directory) ? strerror(errno) : NULL;
    int why = errno;
    unlinkat(directory, temporary, 0);
    return strerror(why);
}

static const char *spool(const char *path, size_t length)
{
    char place[128];
    char *slash = place + (strrchr(strcpy(place, path), '/') - place);
    *slash = 0; /* elsewhere than at the default, a missing directory means that no agent would ever look there */
    if (!strcmp(path, NEPHILA_SOCKET) && mkdir(place, 0700) && errno != EEXIST) return strerror(errno);
    strcpy(slash, "/spool");
    if (mkdir(place, 0700) && errno != EEXIST) return strerror(errno);
    int directory = open(place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return directory < 0 ? strerror(errno) : spool_into(directory, length);
}
