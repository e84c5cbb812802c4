/*
 * The shim's two parsers without a process for each case. Reads records from stdin: kind ('p' path of a configuration, 'r' reply),
 * length (4 bytes, little endian), bytes. Prints one line for each: for 'p' the decoded socket path in hex, "-" if none is named,
 * "!" if it cannot be decoded; for 'r' the verdict of parse_reply, its status and the length of its body.
 */
#define main shim_main
#include "shim.c"
#undef main

static void path_of(size_t length)
{
    char path[108];
    input[length] = 0;
    const char *value = member(member(input, "ipam"), "ipam_unix_socket_path");
    if (!value || *value != '"') {
        puts("-");
    } else if (!string_end(value, path, sizeof path)) {
        puts("!");
    } else {
        for (const char *p = path; *p; p++) printf("%02x", (unsigned char)*p);
        puts("");
    }
    adopt_version();
}

int main(void)
{
    unsigned char head[5];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        size_t length = head[1] | (size_t)head[2] << 8 | (size_t)head[3] << 16;
        if (head[0] == 'p') {
            if (length > STDIN_MAX || fread(input, 1, length, stdin) != length) return 1;
            path_of(length);
        } else {
            struct reply reply = {0};
            if (length > sizeof answer - 1 || fread(answer, 1, length, stdin) != length) return 1;
            int verdict = parse_reply(length, 1, &reply);
            printf("%d %d %zu\n", verdict, reply.status, reply.length);
        }
    }
    return 0;
}
