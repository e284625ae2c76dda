/*
 * Preloaded into a daemon under test: drops what makes data durable, or lets the Nth system call on one file system fail.
 * LAYERD_TEST_CONTROL names the file that says what (struct control); preload.ts writes it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, SYNC = 2, READ = 4, NAME = 8 };

struct control {
  int32_t drop_syncs;
  /* which calls may fail: a sum of enum kind */
  int32_t kinds;
  /* the first call that fails, counted from 1, and how many in a row */
  int32_t first;
  int32_t times;
  int32_t error;
  /* calls of these kinds so far */
  int32_t seen;
  /* on this device only */
  uint64_t device;
};

static struct control *control;

__attribute__((constructor)) static void map_control(void) {
  const char *path = getenv("LAYERD_TEST_CONTROL");
  int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (at != MAP_FAILED) control = at;
}

/* True when this call is to fail; errno says how. */
static int fails_on(enum kind kind, dev_t device) {
  if (control == NULL || (control->kinds & kind) == 0 || device != control->device) return 0;
  int32_t turn = __atomic_add_fetch(&control->seen, 1, __ATOMIC_SEQ_CST);
  if (turn < control->first || turn - control->first >= control->times) return 0;
  errno = control->error;
  return 1;
}

static int fails(enum kind kind, int fd) {
  struct stat stat;
  if (control == NULL || (control->kinds & kind) == 0 || fstat(fd, &stat) != 0) return 0;
  return fails_on(kind, stat.st_dev);
}

/* The same for the directory in which a name is made. */
static int fails_at(int directory, const char *path) {
  struct stat stat;
  char parent[PATH_MAX];
  const char *slash = strrchr(path, '/');
  size_t length = slash == NULL ? 0 : (size_t)(slash - path);
  if (control == NULL || (control->kinds & NAME) == 0 || length >= sizeof parent) return 0;
  memcpy(parent, path, length);
  strcpy(parent + length, slash == NULL ? "." : length == 0 ? "/" : "");
  return fstatat(directory, parent, &stat, 0) == 0 && fails_on(NAME, stat.st_dev);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(kind, result, name, args, ...) \
  result name args { return fails(kind, fd) ? -1 : REAL(name)(__VA_ARGS__); }
#define WRAP_NAME(name, args, directory, path, ...) \
  int name args { return fails_at(directory, path) ? -1 : REAL(name)(__VA_ARGS__); }

WRAP(WRITE, ssize_t, write, (int fd, const void *data, size_t size), fd, data, size)
WRAP(WRITE, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), fd, data, size, at)
WRAP(WRITE, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, data, size, at)
WRAP(WRITE, ssize_t, writev, (int fd, const struct iovec *parts, int count), fd, parts, count)
WRAP(WRITE, ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), fd, parts, count, at)
WRAP(WRITE, int, ftruncate, (int fd, off_t size), fd, size)
WRAP(WRITE, int, ftruncate64, (int fd, off64_t size), fd, size)
WRAP(WRITE, int, fallocate, (int fd, int mode, off_t at, off_t size), fd, mode, at, size)
WRAP(READ, ssize_t, read, (int fd, void *data, size_t size), fd, data, size)
WRAP(READ, ssize_t, pread, (int fd, void *data, size_t size, off_t at), fd, data, size, at)
WRAP(READ, ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), fd, data, size, at)
WRAP(READ, ssize_t, readv, (int fd, const struct iovec *parts, int count), fd, parts, count)
WRAP(READ, ssize_t, preadv64, (int fd, const struct iovec *parts, int count, off64_t at), fd, parts, count, at)
WRAP_NAME(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
WRAP_NAME(mkdirat, (int fd, const char *path, mode_t mode), fd, path, fd, path, mode)
WRAP_NAME(rename, (const char *from, const char *to), AT_FDCWD, to, from, to)
WRAP_NAME(renameat2, (int old, const char *from, int fd, const char *to, unsigned flags), fd, to, old, from, fd, to, flags)
WRAP_NAME(linkat, (int old, const char *from, int fd, const char *to, int flags), fd, to, old, from, fd, to, flags)
WRAP_NAME(symlinkat, (const char *target, int fd, const char *path), fd, path, target, fd, path)

#define WRAP_OPEN(name, args, directory, ...) \
  int name args { \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    return (flags & O_CREAT) != 0 && fails_at(directory, path) ? -1 : REAL(name)(__VA_ARGS__); \
  }
WRAP_OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path, flags, mode)
WRAP_OPEN(openat, (int fd, const char *path, int flags, ...), fd, fd, path, flags, mode)

#define WRAP_SYNC(name, args, ...) \
  int name args { \
    if (control != NULL && control->drop_syncs) return 0; \
    return fails(SYNC, fd) ? -1 : REAL(name)(__VA_ARGS__); \
  }
WRAP_SYNC(fsync, (int fd), fd)
WRAP_SYNC(fdatasync, (int fd), fd)
WRAP_SYNC(syncfs, (int fd), fd)
WRAP_SYNC(sync_file_range, (int fd, off64_t at, off64_t size, unsigned flags), fd, at, size, flags)
