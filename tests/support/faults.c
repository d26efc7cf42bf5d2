/* Preloaded into moesaic by tests/e2e: a file system without locks (FAULT=flock), a wall clock that
   jumps by an hour, forth and back (FAULT=clock), a rank FAULT_RANK (all ranks without it) that is
   killed before its KILL_AT-th read, write, sync or renaming of a file below the current folder
   (FAULT=kill), that writes "open PATH" or "ask PATH" for each file below the current folder which it
   opens or asks about to COUNT_FILE.RANK (FAULT=count), or that stops before the first of these that is of a file like STOP_AT, once a file
   like STOP_ONCE is there (FAULT=stop; both are patterns of a shell, * matches / in STOP_AT). */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <glob.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int wanted(const char *fault) {
  const char *const value = getenv("FAULT");
  return value != NULL && strcmp(value, fault) == 0;
}

static void *real_of(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Kills or stops the process before a call about a path, if it is one where it shall. */
static void reach(const char *path) {
  static atomic_int calls;
  static char folder[4096];
  const char *const rank = getenv("OMPI_COMM_WORLD_RANK");
  const char *const wanted_rank = getenv("FAULT_RANK");
  glob_t found = {0};
  if ((folder[0] == '\0' && getcwd(folder, sizeof folder) == NULL) ||
      (path[0] == '/' && strncmp(path, folder, strlen(folder)) != 0) ||
      (rank != NULL && wanted_rank != NULL && strcmp(rank, wanted_rank) != 0)) {
    return;
  }
  if (wanted("kill") && atomic_fetch_add(&calls, 1) + 1 == atoi(getenv("KILL_AT"))) {
    raise(SIGKILL);
  }
  if (wanted("stop") && fnmatch(getenv("STOP_AT"), path, 0) == 0 &&
      glob(getenv("STOP_ONCE"), 0, NULL, &found) == 0 && atomic_fetch_add(&calls, 1) == 0) {
    raise(SIGSTOP);
  }
  globfree(&found);
}

static void note(const char *what, const char *path) {
  static FILE *list;
  static char folder[4096];
  if (!wanted("count") || (folder[0] == '\0' && getcwd(folder, sizeof folder) == NULL) ||
      (path[0] == '/' && strncmp(path, folder, strlen(folder)) != 0)) {
    return;
  }
  if (list == NULL) {
    const char *const rank = getenv("OMPI_COMM_WORLD_RANK");
    char name[4096];
    snprintf(name, sizeof name, "%s.%s", getenv("COUNT_FILE"), rank != NULL ? rank : "0");
    list = ((FILE * (*)(const char *, const char *)) real_of("fopen64"))(name, "a");
    setvbuf(list, NULL, _IOLBF, 0);
  }
  fprintf(list, "%s %s\n", what, path);
}

FILE *fopen(const char *path, const char *mode) {
  note("open", path);
  return ((FILE * (*)(const char *, const char *)) real_of("fopen"))(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
  note("open", path);
  return ((FILE * (*)(const char *, const char *)) real_of("fopen64"))(path, mode);
}
int open64(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  note("open", path);
  return ((int (*)(const char *, int, ...))real_of("open64"))(path, flags, mode);
}
int open(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  return open64(path, flags, mode);
}
int stat(const char *path, struct stat *status) {
  note("ask", path);
  return ((int (*)(const char *, struct stat *))real_of("stat"))(path, status);
}
int stat64(const char *path, struct stat64 *status) {
  note("ask", path);
  return ((int (*)(const char *, struct stat64 *))real_of("stat64"))(path, status);
}
DIR *opendir(const char *path) {
  note("ask", path);
  return ((DIR * (*)(const char *)) real_of("opendir"))(path);
}

static void reach_file(int descriptor) {
  char link[64];
  char path[4096] = "";
  if (wanted("kill") || wanted("stop")) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) > 0 && path[0] == '/') {
      reach(path);
    }
  }
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
  reach_file(descriptor);
  return ((ssize_t(*)(int, const void *, size_t))real_of("write"))(descriptor, bytes, count);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t at) {
  reach_file(descriptor);
  return ((ssize_t(*)(int, const void *, size_t, off_t))real_of("pwrite"))(descriptor, bytes, count,
                                                                           at);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t at) {
  return pwrite(descriptor, bytes, count, at);
}
ssize_t pread(int descriptor, void *bytes, size_t count, off_t at) {
  reach_file(descriptor);
  return ((ssize_t(*)(int, void *, size_t, off_t))real_of("pread"))(descriptor, bytes, count, at);
}
ssize_t pread64(int descriptor, void *bytes, size_t count, off64_t at) {
  return pread(descriptor, bytes, count, at);
}
int rename(const char *from, const char *to) {
  reach(to);
  return ((int (*)(const char *, const char *))real_of("rename"))(from, to);
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
  reach_file(descriptor);
  return ((int (*)(int))real_of("fsync"))(descriptor);
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
