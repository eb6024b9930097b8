/* Between the programs of a test and the C library: their disk is as slow, and their clock as wrong, as a file of two numbers says.
 *
 * The file is mapped, not read: it costs no descriptor, of which a fault may have left none, and no call. Without it nothing is
 * changed. The monotonic clock stays the kernel's, as it does when a machine's clock is set.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static const struct { int64_t disk_ns, clock_ns; } *dials;

__attribute__((constructor)) static void map_dials(void) {
    const char *path = getenv("CHAOS_DIALS");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *dials, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        dials = mapped;
    close(fd);
}

/* ---- the disk */

static void wait_for_disk(void) {
    int64_t ns = dials ? __atomic_load_n(&dials->disk_ns, __ATOMIC_RELAXED) : 0;
    struct timespec left = {ns / NS, ns % NS};
    while (ns > 0 && nanosleep(&left, &left) && errno == EINTR)
        ;
}

int fsync(int fd) {
    wait_for_disk();
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    wait_for_disk();
    return syscall(SYS_fdatasync, fd);
}

/* ---- the clock */

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && dials && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_sec * NS + now->tv_nsec + __atomic_load_n(&dials->clock_ns, __ATOMIC_RELAXED);
        now->tv_sec = ns / NS;
        now->tv_nsec = ns % NS;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME_COARSE, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
