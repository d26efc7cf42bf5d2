/* Preloaded into moesaic by tests/e2e/test_odd_systems.py: a file system without locks (FAULT=flock)
   and a wall clock that jumps by an hour, forth and back (FAULT=clock). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
