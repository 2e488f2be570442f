/* Disks that fail: system calls on paths that hold a text are answered with an error, or with less than was asked for.

   The file named by FAULTY_PLAN holds one line: CALL ERRNO SKIP TEXT. It is read at every call; without it nothing is changed.
   CALL is open, read, stat, write, rename, mkdir or fsync, or `short`: a read that gives a part. The first SKIP calls of a process pass. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int fails(const char *call, const char *path) {
    static char last[1200];
    static int passed;
    char plan[1200], what[16], text[1024];
    int number, skip, saved = errno;
    const char *place = getenv("FAULTY_PLAN");
    long file = place ? syscall(SYS_openat, AT_FDCWD, place, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (file < 0) { errno = saved; return 0; }
    long length = syscall(SYS_read, file, plan, sizeof plan - 1);
    syscall(SYS_close, file);
    errno = saved;
    plan[length > 0 ? length : 0] = 0;
    if (!path || sscanf(plan, "%15s %d %d %1023s", what, &number, &skip, text) != 4 || strcmp(what, call) || !strstr(path, text)) return 0;
    if (strcmp(last, plan)) { strcpy(last, plan); passed = 0; }
    if (passed++ < skip) return 0;
    errno = number;
    return 1;
}

static int fails_at(const char *call, int file) {
    char link[64], path[1024];
    if (!getenv("FAULTY_PLAN")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int saved = errno;
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = saved;
    if (length <= 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        return fails("open", path) ? -1 : NEXT(name)(path, flags, mode); }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        return fails("open", path) ? -1 : NEXT(name)(folder, path, flags, mode); }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int file, void *to, size_t count) {
    if (fails_at("read", file)) return -1;
    if (count > 1 && fails_at("short", file)) count = 1 + rand() % count;
    return NEXT(read)(file, to, count);
}
ssize_t write(int file, const void *from, size_t count) { return fails_at("write", file) ? -1 : NEXT(write)(file, from, count); }
int fsync(int file) { return fails_at("fsync", file) ? -1 : NEXT(fsync)(file); }
int stat(const char *path, struct stat *to) { return fails("stat", path) ? -1 : NEXT(stat)(path, to); }
int stat64(const char *path, struct stat64 *to) { return fails("stat", path) ? -1 : NEXT(stat64)(path, to); }
int rename(const char *from, const char *to) { return fails("rename", to) ? -1 : NEXT(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : NEXT(mkdir)(path, mode); }
