/* Preloaded into moesaic by tests/e2e: a file system without locks (FAULT=flock), a wall clock that
   jumps by an hour, forth and back (FAULT=clock), and a rank 1 that stops amid its second save
   (FAULT=save). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int wanted(const char *fault) {
  const char *const value = getenv("FAULT");
  return value != NULL && strcmp(value, fault) == 0;
}

int flock(int descriptor, int operation) {
  int (*const real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
  if (wanted("flock")) {
    errno = ENOLCK;
    return -1;
  }
  return real(descriptor, operation);
}

int fsync(int descriptor) {
  static int saves;
  int (*const real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  if (wanted("save")) {
    char link[64];
    char path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "part-00001.h5") != NULL &&
        ++saves == 2) {
      raise(SIGSTOP);
    }
  }
  return real(descriptor);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int calls;
  int (*const real)(clockid_t, struct timespec *) =
      (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  const int status = real(clock, now);
  if (clock == CLOCK_REALTIME && wanted("clock") && ++calls % 2 == 0) {
    now->tv_sec -= 3600;
  }
  return status;
}
