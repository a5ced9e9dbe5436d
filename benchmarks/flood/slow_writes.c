/* A disk that hangs: every write(2) to a regular file sleeps for SLOW_SECONDS while the file SLOW_WHILE exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void hang(int descriptor) {
    const char *flag = getenv("SLOW_WHILE"), *seconds = getenv("SLOW_SECONDS");
    struct stat status;
    if (!flag || !seconds || fstat(descriptor, &status) || !S_ISREG(status.st_mode) || access(flag, F_OK)) return;
    double all = atof(seconds);
    struct timespec rest = {(time_t)all, (long)((all - (time_t)all) * 1e9)};
    nanosleep(&rest, NULL);
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    hang(descriptor);
    return real(descriptor, bytes, count);
}

ssize_t writev(int descriptor, const struct iovec *pieces, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    hang(descriptor);
    return real(descriptor, pieces, count);
}
