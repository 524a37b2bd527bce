/* Lies about the time of day, as a host with a wrong clock would: WRONG_CLOCK is the error in seconds; with
 * WRONG_CLOCK_JUMPS it changes its sign every other second. The monotonic clock is left alone, as real hosts do. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, at);
    const char *error = getenv("WRONG_CLOCK");
    if (failed == 0 && error && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int backwards = getenv("WRONG_CLOCK_JUMPS") && at->tv_sec % 2;
        at->tv_sec += (backwards ? -1 : 1) * atol(error);
    }
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    at->tv_sec = precise.tv_sec;
    at->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *at)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (at)
        *at = precise.tv_sec;
    return precise.tv_sec;
}
