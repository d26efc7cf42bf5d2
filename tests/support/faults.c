/* Preloaded into moesaic by tests/e2e: a file system without locks (FAULT=flock), a wall clock that
   jumps by an hour, forth and back (FAULT=clock), a host of 2048 CPUs of which 0 and 1500 are the
   process's (FAULT=cpus), or a rank FAULT_RANK (all ranks without it) and its calls on files below
   the current folder: opening, reading, writing, renaming and syncing them. The rank
   - is killed before its KILL_AT-th call, opening left out (FAULT=kill);
   - stops before the first call that is about a file like STOP_AT, once a file like STOP_ONCE is
     there (FAULT=stop; both are patterns of a shell, * matches / in STOP_AT);
   - waits SLOW_MS milliseconds before each call about a file like SLOW_AT (FAULT=slow);
   - writes a line "CALL PATH" for each call to the file CALLS, under mpirun to CALLS.RANK, and "ask
     PATH" where it only asks about a file or lists a folder (FAULT=list);
   - fails in the FAIL_AT-th FAIL_CALL about a file like FAIL_PATH with errno FAIL_ERRNO, and in all
     after it where FAIL_EVER is set (FAULT=fail). */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <glob.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int wanted(const char *fault) {
  const char *const value = getenv("FAULT");
  return value != NULL && strcmp(value, fault) == 0;
}

static void *real_of(const char *name) { return dlsym(RTLD_NEXT, name); }

static const char *folder_of_job(void) {
  static char folder[4096];
  if (folder[0] == '\0' && getcwd(folder, sizeof folder) == NULL) {
    folder[0] = '\0';
  }
  return folder;
}

static void list(const char *call, const char *path) {
  char line[8300], name[4200];
  const char *const rank = getenv("OMPI_COMM_WORLD_RANK");
  const int bytes = snprintf(line, sizeof line, "%s %s\n", call, path);
  snprintf(name, sizeof name, "%s%s%s", getenv("CALLS"), rank != NULL ? "." : "",
           rank != NULL ? rank : "");
  const int file = ((int (*)(const char *, int, ...))real_of("open"))(
      name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  ((ssize_t(*)(int, const void *, size_t))real_of("write"))(file, line, (size_t)bytes);
  close(file);
}

/* Whether this call is the one that fails. */
static int fails(const char *call, const char *path) {
  static atomic_int calls;
  if (strcmp(call, getenv("FAIL_CALL")) != 0 || fnmatch(getenv("FAIL_PATH"), path, 0) != 0) {
    return 0;
  }
  const int number = atomic_fetch_add(&calls, 1) + 1, wanted_number = atoi(getenv("FAIL_AT"));
  return number == wanted_number || (number > wanted_number && getenv("FAIL_EVER") != NULL);
}

/* Does to a call about a path what is wanted of it: kills or stops the process, lists the call, or
   returns 1, with errno, for the call to fail. */
static int reach(const char *call, const char *path) {
  static atomic_int calls;
  const char *const folder = folder_of_job();
  const char *const rank = getenv("OMPI_COMM_WORLD_RANK");
  const char *const wanted_rank = getenv("FAULT_RANK");
  char whole[8200];
  glob_t found = {0};
  if (getenv("FAULT") == NULL || folder[0] == '\0' ||
      (path[0] == '/' && strncmp(path, folder, strlen(folder)) != 0) ||
      (rank != NULL && wanted_rank != NULL && strcmp(rank, wanted_rank) != 0)) {
    return 0;
  }
  snprintf(whole, sizeof whole, "%s%s%s", path[0] == '/' ? "" : folder, path[0] == '/' ? "" : "/",
           path);
  if (wanted("list")) {
    list(call, whole);
  }
  if (wanted("slow") && fnmatch(getenv("SLOW_AT"), whole, 0) == 0) {
    usleep(1000U * (unsigned)atoi(getenv("SLOW_MS")));
  }
  if (wanted("fail") && fails(call, whole)) {
    errno = atoi(getenv("FAIL_ERRNO"));
    return 1;
  }
  if (wanted("kill") && strcmp(call, "open") != 0 && atomic_fetch_add(&calls, 1) + 1 == atoi(getenv("KILL_AT"))) {
    raise(SIGKILL);
  }
  if (wanted("stop") && fnmatch(getenv("STOP_AT"), path, 0) == 0 &&
      glob(getenv("STOP_ONCE"), 0, NULL, &found) == 0 && atomic_fetch_add(&calls, 1) == 0) {
    raise(SIGSTOP);
  }
  globfree(&found);
  return 0;
}

static int reach_file(const char *call, int descriptor) {
  char link[64];
  char path[4096] = "";
  if (wanted("kill") || wanted("stop") || wanted("list") || wanted("fail") ||
      wanted("slow")) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) > 0 && path[0] == '/') {
      return reach(call, path);
    }
  }
  return 0;
}

/* Opens of programs' own libraries come from everywhere: only those of files count, by reach. */
static int open_of(const char *name, const char *path, int flags, mode_t mode) {
  if (reach("open", path)) {
    return -1;
  }
  return ((int (*)(const char *, int, ...))real_of(name))(path, flags, mode);
}
static mode_t mode_of(int flags, va_list *rest) {
  return (flags & O_CREAT) != 0 ? (mode_t)va_arg(*rest, int) : 0;
}
int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, &rest);
  va_end(rest);
  return open_of("open", path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, &rest);
  va_end(rest);
  return open_of("open64", path, flags, mode);
}
FILE *fopen(const char *path, const char *mode) {
  return reach("open", path) ? NULL
                             : ((FILE * (*)(const char *, const char *)) real_of("fopen"))(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
  return reach("open", path)
             ? NULL
             : ((FILE * (*)(const char *, const char *)) real_of("fopen64"))(path, mode);
}

static void ask(const char *path) {
  if (wanted("list")) {
    reach("ask", path);
  }
}
int stat(const char *path, struct stat *status) {
  ask(path);
  return ((int (*)(const char *, struct stat *))real_of("stat"))(path, status);
}
int stat64(const char *path, struct stat64 *status) {
  ask(path);
  return ((int (*)(const char *, struct stat64 *))real_of("stat64"))(path, status);
}
DIR *opendir(const char *path) {
  ask(path);
  return ((DIR * (*)(const char *)) real_of("opendir"))(path);
}

ssize_t read(int descriptor, void *bytes, size_t count) {
  return reach_file("read", descriptor)
             ? -1
             : ((ssize_t(*)(int, void *, size_t))real_of("read"))(descriptor, bytes, count);
}
ssize_t readv(int descriptor, const struct iovec *blocks, int count) {
  return reach_file("read", descriptor)
             ? -1
             : ((ssize_t(*)(int, const struct iovec *, int))real_of("readv"))(descriptor, blocks,
                                                                              count);
}
size_t fread(void *bytes, size_t size, size_t count, FILE *file) {
  if (reach_file("read", fileno(file))) {
    file->_flags |= _IO_ERR_SEEN;
    return 0;
  }
  return ((size_t(*)(void *, size_t, size_t, FILE *))real_of("fread"))(bytes, size, count, file);
}
ssize_t pread(int descriptor, void *bytes, size_t count, off_t at) {
  return reach_file("read", descriptor)
             ? -1
             : ((ssize_t(*)(int, void *, size_t, off_t))real_of("pread"))(descriptor, bytes, count,
                                                                          at);
}
ssize_t pread64(int descriptor, void *bytes, size_t count, off64_t at) {
  return pread(descriptor, bytes, count, at);
}
ssize_t write(int descriptor, const void *bytes, size_t count) {
  return reach_file("write", descriptor)
             ? -1
             : ((ssize_t(*)(int, const void *, size_t))real_of("write"))(descriptor, bytes, count);
}
ssize_t writev(int descriptor, const struct iovec *blocks, int count) {
  return reach_file("write", descriptor)
             ? -1
             : ((ssize_t(*)(int, const struct iovec *, int))real_of("writev"))(descriptor, blocks,
                                                                               count);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t at) {
  return reach_file("write", descriptor)
             ? -1
             : ((ssize_t(*)(int, const void *, size_t, off_t))real_of("pwrite"))(descriptor, bytes,
                                                                                 count, at);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t at) {
  return pwrite(descriptor, bytes, count, at);
}
int rename(const char *from, const char *to) {
  return reach("rename", to) ? -1
                             : ((int (*)(const char *, const char *))real_of("rename"))(from, to);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
  return reach("rename", to)
             ? -1
             : ((int (*)(int, const char *, int, const char *, unsigned))real_of("renameat2"))(
                   from_folder, from, to_folder, to, flags);
}

int flock(int descriptor, int operation) {
  int (*const real)(int, int) = (int (*)(int, int))real_of("flock");
  if (wanted("flock")) {
    errno = ENOLCK;
    return -1;
  }
  return real(descriptor, operation);
}

int fsync(int descriptor) {
  return reach_file("fsync", descriptor) ? -1 : ((int (*)(int))real_of("fsync"))(descriptor);
}

int sched_getaffinity(pid_t process, size_t bytes, cpu_set_t *mask) {
  if (!wanted("cpus")) {
    return ((int (*)(pid_t, size_t, cpu_set_t *))real_of("sched_getaffinity"))(process, bytes, mask);
  }
  if (bytes < 2048 / 8) {
    errno = EINVAL;
    return -1;
  }
  CPU_ZERO_S(bytes, mask);
  CPU_SET_S(0, bytes, mask);
  CPU_SET_S(1500, bytes, mask);
  return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int calls;
  int (*const real)(clockid_t, struct timespec *) =
      (int (*)(clockid_t, struct timespec *))real_of("clock_gettime");
  const int status = real(clock, now);
  if (clock == CLOCK_REALTIME && wanted("clock") && ++calls % 2 == 0) {
    now->tv_sec -= 3600;
  }
  return status;
}
