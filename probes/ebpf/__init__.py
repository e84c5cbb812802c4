"""The passive watcher in the kernel: program (`watch.c`), its build in a child process, and its use without LLVM."""
