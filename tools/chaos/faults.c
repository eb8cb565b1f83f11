/* Preloaded into a command: counts the calls that change files below one folder, and at the n-th of them kills or fails.

   One counter for all processes of the command: a mapped file, so workers and threads count together. What is read from
   the environment is described in faults.py, which compiles this. System calls are made directly (syscall), so nothing
   here reaches the C library's own versions of the functions that it takes the place of. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, COUNT, BEFORE, HALF, FAIL, ROOM }; /* what to do; ROOM fails writes once so many bytes were written */
enum { GROWS = 1, WRITES = 2 };                    /* of a call: needs room on the disk; is a write */

struct state {
    _Atomic uint64_t calls, bytes;
    _Atomic uint32_t fired;
};

static struct state *state;
static char root[4096], journal[4096];
static size_t root_length;
static int action, error_number, whole_group;
static uint64_t at;
static pid_t group;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

void faults_reload(void) { /* also called by a forked child, whose environment is another one */
    static const char *names[] = {"", "count", "before", "half", "fail", "room"};
    const char *file = setting("ENS_FAULT_STATE"), *what = setting("ENS_FAULT_DO");
    action = NOTHING;
    if (!*file) return;
    int descriptor = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
    if (descriptor < 0) return;
    if (state) munmap(state, sizeof *state);
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    syscall(SYS_close, descriptor);
    if (state == MAP_FAILED) { state = NULL; return; }
    snprintf(root, sizeof root, "%s", setting("ENS_FAULT_ROOT"));
    snprintf(journal, sizeof journal, "%s", setting("ENS_FAULT_JOURNAL"));
    root_length = strlen(root);
    at = strtoull(setting("ENS_FAULT_AT"), NULL, 10);
    error_number = atoi(setting("ENS_FAULT_ERRNO"));
    whole_group = !strcmp(setting("ENS_FAULT_WHO"), "command");
    group = atoi(setting("ENS_FAULT_GROUP")); /* of the command: a worker has a group of its own */
    if (!group) {
        char text[16];
        group = getpgrp();
        snprintf(text, sizeof text, "%d", group);
        setenv("ENS_FAULT_GROUP", text, 1);
    }
    for (int number = COUNT; number <= ROOM; number++)
        if (!strcmp(what, names[number])) action = number;
}

__attribute__((constructor)) static void start(void) { faults_reload(); }

/* Where a descriptor, or a path beside one, leads; whether that lies below the folder that is watched. */
static int is_below(int folder, const char *path, char *full, size_t size) {
    size_t length = 0;
    if (!action) return 0;
    if (!path || *path != '/') {
        char link[64];
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t got = syscall(SYS_readlinkat, AT_FDCWD, link, full, size - 1);
        if (got < 0) return 0;
        length = got;
        full[length] = 0;
        if (path) snprintf(full + length, size - length, "/%s", path);
    } else snprintf(full, size, "%s", path);
    return !strncmp(full, root, root_length) && (full[root_length] == '/' || !full[root_length]);
}

static void note(uint64_t number, const char *call, const char *path) {
    char line[4300];
    if (!*journal) return;
    int descriptor = syscall(SYS_openat, AT_FDCWD, journal, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) return;
    int length = snprintf(line, sizeof line, "%llu %d %s %s\n", (unsigned long long)number, getpid(), call, path);
    syscall(SYS_write, descriptor, line, length);
    syscall(SYS_close, descriptor);
}

static void die(void) {
    if (whole_group) syscall(SYS_kill, -group, SIGKILL);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Count one call. The answer: 0 go on, -1 fail with errno set, 1 do half of it (or all, where there is no half), then die. */
static int meet(const char *call, int folder, const char *path, int kind) {
    char full[8300];
    int kept = errno;
    if (!is_below(folder, path, full, sizeof full)) { errno = kept; return 0; }
    uint64_t number = atomic_fetch_add(&state->calls, 1) + 1;
    note(number, call, full);
    errno = kept;
    if (action == BEFORE && number == at) { state->fired = 1; die(); }
    if (action == HALF && number == at) { state->fired = 1; return 1; }
    if (action == FAIL && number >= at && kind & GROWS) { state->fired = 1; errno = error_number; return -1; }
    return 0;
}

/* How many of a write's bytes there is room for; -1 with errno set when there is none. */
static ssize_t room_for(int descriptor, size_t length) {
    char full[8300];
    int kept = errno;
    if (action != ROOM || !length) return length;
    int below = is_below(descriptor, NULL, full, sizeof full);
    errno = kept;
    if (!below) return length;
    uint64_t before = atomic_fetch_add(&state->bytes, length);
    if (before + length <= at) return length;
    state->fired = 1;
    if (before < at) return at - before; /* a full disk takes the part that fits */
    errno = error_number;
    return -1;
}

#define SIMPLE(call, folder, path, kind, action_) \
    int answer = meet(call, folder, path, kind);  \
    if (answer < 0) return -1;                    \
    long result = action_;                        \
    if (answer > 0) die();                        \
    return result;

static int open_as(const char *name, int folder, const char *path, int flags, mode_t mode) {
    int changes = flags & O_TRUNC || (flags & O_TMPFILE) == O_TMPFILE;
    if (!changes && flags & O_CREAT && action) {
        int kept = errno;
        changes = syscall(SYS_faccessat, folder, path, F_OK) != 0;
        errno = kept;
    }
    if (!changes) return syscall(SYS_openat, folder, path, flags, mode);
    SIMPLE(name, folder, path, GROWS, syscall(SYS_openat, folder, path, flags, mode))
}

#define MODE(flags)                                              \
    mode_t mode = 0;                                             \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {   \
        va_list arguments;                                       \
        va_start(arguments, flags);                              \
        mode = va_arg(arguments, int);                           \
        va_end(arguments);                                       \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_as("open", AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_as("open", AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_as("open", folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return open_as("open", folder, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return open_as("open", AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static FILE *fopen_as(const char *path, const char *how) { /* C++ streams; their writes come by write() or not at all */
    static FILE *(*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "fopen64");
    if (*how != 'r') {
        int answer = meet("open", AT_FDCWD, path, GROWS);
        if (answer < 0) return NULL;
        FILE *stream = real(path, how);
        if (answer > 0) die();
        return stream;
    }
    return real(path, how);
}
FILE *fopen(const char *path, const char *how) { return fopen_as(path, how); }
FILE *fopen64(const char *path, const char *how) { return fopen_as(path, how); }

ssize_t write(int descriptor, const void *bytes, size_t length) {
    int answer = meet("write", descriptor, NULL, GROWS | WRITES);
    if (answer < 0) return -1;
    if (answer > 0) { syscall(SYS_write, descriptor, bytes, length / 2); die(); }
    ssize_t room = room_for(descriptor, length);
    return room < 0 ? -1 : syscall(SYS_write, descriptor, bytes, room);
}
static ssize_t pwrite_as(int descriptor, const void *bytes, size_t length, off_t offset) {
    int answer = meet("write", descriptor, NULL, GROWS | WRITES);
    if (answer < 0) return -1;
    if (answer > 0) { syscall(SYS_pwrite64, descriptor, bytes, length / 2, offset); die(); }
    ssize_t room = room_for(descriptor, length);
    return room < 0 ? -1 : syscall(SYS_pwrite64, descriptor, bytes, room, offset);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset) { return pwrite_as(descriptor, bytes, length, offset); }
ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off_t offset) { return pwrite_as(descriptor, bytes, length, offset); }
ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    size_t length = 0;
    int answer = meet("write", descriptor, NULL, GROWS | WRITES);
    if (answer < 0) return -1;
    if (answer > 0) { syscall(SYS_writev, descriptor, parts, count > 1 ? count / 2 : count); die(); }
    for (int part = 0; part < count; part++) length += parts[part].iov_len;
    if (room_for(descriptor, length) < (ssize_t)length) { errno = error_number; return -1; }
    return syscall(SYS_writev, descriptor, parts, count);
}
static ssize_t copy_as(const char *name, int to, size_t length, long call, long a, long b, long c, long d, long e, long f) {
    int answer = meet(name, to, NULL, GROWS | WRITES);
    if (answer < 0) return -1;
    if (room_for(to, length < (1 << 20) ? length : 1 << 20) < 0) return -1;
    ssize_t result = syscall(call, a, b, c, d, e, f);
    if (answer > 0) die();
    return result;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t length) { return copy_as("sendfile", to, length, SYS_sendfile, to, from, (long)offset, length, 0, 0); }
ssize_t sendfile64(int to, int from, off_t *offset, size_t length) { return copy_as("sendfile", to, length, SYS_sendfile, to, from, (long)offset, length, 0, 0); }
ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t length, unsigned flags) {
    return copy_as("copy", to, length, SYS_copy_file_range, from, (long)from_at, to, (long)to_at, length, flags);
}

int rename(const char *from, const char *to) { SIMPLE("rename", AT_FDCWD, to, GROWS, syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0)) }
int renameat(int from_folder, const char *from, int folder, const char *to) { SIMPLE("rename", folder, to, GROWS, syscall(SYS_renameat2, from_folder, from, folder, to, 0)) }
int renameat2(int from_folder, const char *from, int folder, const char *to, unsigned flags) { SIMPLE("rename", folder, to, GROWS, syscall(SYS_renameat2, from_folder, from, folder, to, flags)) }
int unlink(const char *path) { SIMPLE("unlink", AT_FDCWD, path, 0, syscall(SYS_unlinkat, AT_FDCWD, path, 0)) }
int unlinkat(int folder, const char *path, int flags) { SIMPLE("unlink", folder, path, 0, syscall(SYS_unlinkat, folder, path, flags)) }
int remove(const char *path) {
    int answer = meet("unlink", AT_FDCWD, path, 0);
    long result = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result && errno == EISDIR) result = syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
    if (answer > 0) die();
    return result;
}
int rmdir(const char *path) { SIMPLE("rmdir", AT_FDCWD, path, 0, syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR)) }
int mkdirat(int folder, const char *path, mode_t mode) {
    int kept = errno;
    if (!action || !syscall(SYS_faccessat, folder, path, F_OK)) return syscall(SYS_mkdirat, folder, path, mode); /* EEXIST */
    errno = kept;
    SIMPLE("mkdir", folder, path, GROWS, syscall(SYS_mkdirat, folder, path, mode))
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int link(const char *from, const char *to) { SIMPLE("link", AT_FDCWD, to, GROWS, syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0)) }
int linkat(int from_folder, const char *from, int folder, const char *to, int flags) { SIMPLE("link", folder, to, GROWS, syscall(SYS_linkat, from_folder, from, folder, to, flags)) }
int symlink(const char *target, const char *path) { SIMPLE("symlink", AT_FDCWD, path, GROWS, syscall(SYS_symlinkat, target, AT_FDCWD, path)) }
int symlinkat(const char *target, int folder, const char *path) { SIMPLE("symlink", folder, path, GROWS, syscall(SYS_symlinkat, target, folder, path)) }
int truncate(const char *path, off_t length) {
    SIMPLE("truncate", AT_FDCWD, path, 0, syscall(SYS_truncate, path, length))
}
int ftruncate(int descriptor, off_t length) { SIMPLE("truncate", descriptor, NULL, 0, syscall(SYS_ftruncate, descriptor, length)) }
int ftruncate64(int descriptor, off_t length) { SIMPLE("truncate", descriptor, NULL, 0, syscall(SYS_ftruncate, descriptor, length)) }
int fsync(int descriptor) { SIMPLE("fsync", descriptor, NULL, GROWS, syscall(SYS_fsync, descriptor)) }
int fdatasync(int descriptor) { SIMPLE("fsync", descriptor, NULL, GROWS, syscall(SYS_fdatasync, descriptor)) }
int fallocate(int descriptor, int mode, off_t offset, off_t length) { SIMPLE("fallocate", descriptor, NULL, GROWS, syscall(SYS_fallocate, descriptor, mode, offset, length)) }
int posix_fallocate(int descriptor, off_t offset, off_t length) {
    int answer = meet("fallocate", descriptor, NULL, GROWS);
    if (answer < 0) return error_number;
    int failed = syscall(SYS_fallocate, descriptor, 0, offset, length) ? errno : 0;
    if (answer > 0) die();
    return failed;
}
int posix_fallocate64(int descriptor, off_t offset, off_t length) { return posix_fallocate(descriptor, offset, length); }
