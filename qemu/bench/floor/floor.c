// What the machine itself costs, for `uvm bench`: each mode does by bare system calls what the
// guest does for a host, so that a figure can be read as a multiple of the least possible.
//
//   (none), boot         as PID 1: dial the bridge port, wait for ever
//   true                 exit at once: the program that is run
//   spawn N              N times vfork, exec of `true`, wait; prints nanoseconds in all
//   contain N ROOT PROG [filter]  N containers of PROG, one after the other, as the default spec
//                        has them; the same. With a seccomp filter like that of engines
//   join PID N PROG GROUP [filter]  N processes in the container of PID, whose control group is
//                        GROUP; the same
//   peer N BUNDLE        N containers by crun: create, start, wait, delete; the same
//   peer-exec N BUNDLE PROG  N processes by crun in a container that it made; the same
//   mount N DEVICE DIR   N times: make DIR, mount ext4 read-only, unmount, remove DIR; the same
//   arrive N DIR         says ready, mounts the N disks that come, each as its event says, says mounted
//   overlay N COUNT LAYERS DIR  N times: DIR from LAYERS/0 to LAYERS/COUNT-1, writable; the same,
//                        without the time that unmounting takes
//   wait                 for ever: the first process of a container to join
//   fill BYTES           so many bytes to stdout
//   write PORT BYTES     so many bytes to a vsock port of the host
//   pipe PORT BYTES      the same from another process, through a pipe
//   drop PORT            reads a vsock port of the host to its end; prints nanoseconds
//   echo PORT            sends back what comes from a vsock port of the host, until its end
//   cat PATH             a file to stdout
//   load PATH            reads a file and drops it; prints nanoseconds
//
// Freestanding: no C library, no start-up work, a few KiB. x86-64 only, as the guest. It dials
// only as PID 1 or as a child of a guest service: on a machine that is itself a VM, a dial would
// reach *its* host.
#include "floor.h"

static char buffer[64 << 10];
static char *const empty[] = {NULL};

static void fill(int fd, long left) {
    for (; left > 0; left -= (long)sizeof buffer)
        put(fd, buffer, left < (long)sizeof buffer ? left : (long)sizeof buffer);
}
static void copy(int from, int to) {
    for (long n; (n = sys(READ, from, buffer, sizeof buffer)) != 0; put(to, buffer, n))
        if (n < 0) fail("read");
}

static int dial(unsigned port) {
    int guest = sys(GETPPID, 0, 0, 0) == 1 && sys(ACCESS, "/bin/vsockexec", 0, 0) == 0;
    if (!guest && sys(GETPID, 0, 0, 0) != 1) fail("being in a VM of ours");
    struct { unsigned short family, zero; unsigned port, cid, rest; } address = {AF_VSOCK, 0, port, HOST, 0};
    long fd = sys(SOCKET, AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0) fail("socket");
    if (sys(CONNECT, fd, &address, sizeof address) < 0) fail("connect");
    return (int)fd;
}

static char large[1 << 20]; // As much as one message of 9P holds.
static void drop(int fd) {
    long got, started = now();
    while ((got = sys(READ, fd, large, sizeof large)) > 0) {}
    if (got < 0) fail("read");
    report(now() - started);
}
// What a container writes is read from a pipe and written to the host, with buffers so large that
// larger ones change nothing.
static void pipe(unsigned port, long bytes) {
    enum { FORK = 57, FCNTL = 72, PIPE2 = 293, SETPIPE_SZ = 1031 };
    int ends[2];
    int fd = dial(port);
    if (sys(PIPE2, ends, 0, 0)) fail("pipe");
    sys(FCNTL, ends[1], SETPIPE_SZ, sizeof large);
    long child = sys(FORK, 0, 0, 0);
    if (child == 0) { fill(ends[1], bytes); leave(0); }
    sys(CLOSE, ends[1], 0, 0);
    for (long n; (n = sys(READ, ends[0], large, 256 << 10)) != 0; put(fd, large, n))
        if (n < 0) fail("read");
    reap(child);
}

static void spawn(long rounds) {
    char *const words[] = {"floor", "true", NULL};
    long started = now();
    while (rounds-- > 0) {
        long child = sys(VFORK, 0, 0, 0);
        if (child == 0) { sys(EXECVE, "/proc/self/exe", words, empty); sys(EXIT, 127, 0, 0); }
        reap(child);
    }
    report(now() - started);
}

static void mount(long rounds, const char *device, const char *directory) {
    long started = now();
    while (rounds-- > 0)
        if (sys(MKDIR, directory, 0700, 0)
            || call(MOUNT, (long)device, (long)directory, (long)"ext4", MS_RDONLY, (long)"noload")
            || sys(UMOUNT, directory, 0, 0) || sys(RMDIR, directory, 0, 0))
            fail("mounting");
    report(now() - started);
}

static char *join_number(char *to, const char *path, long value) {
    char digits[24]; int n = 0;
    while (*path) *to++ = *path++;
    *to++ = '/';
    do digits[n++] = (char)('0' + value % 10); while (value /= 10);
    while (n) *to++ = digits[--n];
    *to = 0;
    return to;
}

// The name of the disk (not of a partition) that an event is about, if it tells of a new one.
static const char *new_disk(const char *event) {
    const char *name = NULL;
    if (!(event[0] == 'a' && event[1] == 'd' && event[2] == 'd' && event[3] == '@')) return NULL;
    for (const char *at = event; *at; at++)
        if (at[0] == '/' && at[1] == 'b' && at[2] == 'l' && at[3] == 'o' && at[4] == 'c' && at[5] == 'k' && at[6] == '/')
            name = at + 7;
    if (!name || name[0] != 's' || name[1] != 'd') return NULL;
    for (const char *at = name; *at; at++) if (*at == '/') return NULL;
    return name;
}
static int rescan(const char *devpath) {
    static char path[512];
    char *to = path, *end = path;
    for (const char *from = "/sys"; *from;) *to++ = *from++;
    for (; *devpath && to < path + sizeof path - 16; *to++ = *devpath++)
        if (devpath[0] == '/' && devpath[1] == 'b' && devpath[2] == 'l' && devpath[6] == '/') end = to;
    for (const char *from = "/rescan"; (*end++ = *from++);) {}
    long fd = sys(OPEN, path, 1, 0);
    long wrote = sys(WRITE, fd, "1", 1);
    sys(CLOSE, fd, 0, 0);
    return wrote != 1;
}
static void arrive(long disks, const char *directory) {
    static char device[64], place[256];
    struct { unsigned short family, zero; unsigned port, groups; } address = {AF_NETLINK, 0, 0, 1};
    long events = sys(SOCKET, AF_NETLINK, SOCK_DGRAM, UEVENTS);
    if (events < 0 || sys(BIND, events, &address, sizeof address)) fail("listening to events");
    put(1, "ready\n", 6);
    for (long number = 0; number < disks;) {
        long got = sys(READ, events, buffer, sizeof buffer - 1);
        if (got <= 0) fail("reading an event");
        buffer[got] = 0;
        const char *name = new_disk(buffer);
        if (!name) continue;
        char *to = device;
        for (const char *from = "/dev/"; *from;) *to++ = *from++;
        for (; *name && to < device + sizeof device - 1;) *to++ = *name++;
        *to = 0;
        join_number(place, directory, number++);
        sys(MKDIR, directory, 0700, 0);
        if (sys(MKDIR, place, 0700, 0)) fail("making a directory");
        // One whose size could not be asked for at its first try, while others came, is asked again.
        for (int attempt = 0; call(MOUNT, (long)device, (long)place, (long)"ext4", MS_RDONLY, (long)"noload");)
            if (++attempt == 50 || rescan(buffer + 4)) fail("mounting a disk that came");
    }
    put(1, "mounted\n", 8);
    while (disks-- > 0) {
        join_number(place, directory, disks);
        if (sys(UMOUNT, place, 0, 0) || sys(RMDIR, place, 0, 0)) fail("unmounting");
    }
    sys(RMDIR, directory, 0, 0);
}

static void option(long fs, const char *name, const char *value) {
    if (call(FSCONFIG, fs, FSCONFIG_STRING, (long)name, (long)value, 0)) fail("an option");
}
static void overlay(long rounds, long count, const char *layers, const char *directory) {
    static char path[256], upper[256], work[256];
    long taken = 0;
    join_number(upper, directory, 0);
    join_number(work, directory, 1);
    sys(MKDIR, directory, 0755, 0), sys(MKDIR, upper, 0755, 0), sys(MKDIR, work, 0755, 0);
    char root[256];
    join_number(root, directory, 2);
    while (rounds-- > 0) {
        long started = now();
        if (sys(MKDIR, root, 0755, 0)) fail("making the root");
        long fs = sys(FSOPEN, "overlay", 1, 0);
        if (fs < 0) fail("fsopen");
        for (long layer = 0; layer < count; layer++) {
            join_number(path, layers, layer);
            option(fs, "lowerdir+", path);
        }
        option(fs, "upperdir", upper), option(fs, "workdir", work);
        if (call(FSCONFIG, fs, FSCONFIG_CREATE, 0, 0, 0)) fail("fsconfig");
        long mounted = sys(FSMOUNT, fs, 1, 0);
        if (mounted < 0 || call(MOVE_MOUNT, mounted, (long)"", -100, (long)root, EMPTY_PATH)) fail("mounting layers");
        taken += now() - started;
        sys(CLOSE, mounted, 0, 0), sys(CLOSE, fs, 0, 0);
        if (sys(UMOUNT, root, 0, 0) || sys(RMDIR, root, 0, 0)) fail("unmounting layers");
    }
    report(taken);
}

__attribute__((used)) static _Noreturn void entry(long *stack) {
    long count = stack[0];
    char **words = (char **)(stack + 1);
    const char *mode = count > 1 ? words[1] : "boot";
    if (same(mode, "boot")) {
        dial(BRIDGE);
        mode = "wait";
    }
    while (same(mode, "wait")) sys(PAUSE, 0, 0, 0);
    if (same(mode, "true")) leave(0);
    if (same(mode, "spawn") && count == 3) spawn(number(words[2]));
    else if (container_mode(mode, (int)count - 2, words + 2)) leave(0);
    else if (same(mode, "mount") && count == 5) mount(number(words[2]), words[3], words[4]);
    else if (same(mode, "arrive") && count == 4) arrive(number(words[2]), words[3]);
    else if (same(mode, "overlay") && count == 6) overlay(number(words[2]), number(words[3]), words[4], words[5]);
    else if (same(mode, "fill") && count == 3) fill(1, number(words[2]));
    else if (same(mode, "write") && count == 4) fill(dial((unsigned)number(words[2])), number(words[3]));
    else if (same(mode, "pipe") && count == 4) pipe((unsigned)number(words[2]), number(words[3]));
    else if (same(mode, "drop") && count == 3) drop(dial((unsigned)number(words[2])));
    else if (same(mode, "echo") && count == 3) { int fd = dial((unsigned)number(words[2])); copy(fd, fd); }
    else if (same(mode, "cat") && count == 3) {
        long fd = sys(OPEN, words[2], 0, 0);
        if (fd < 0) fail("open");
        copy((int)fd, 1);
    } else if (same(mode, "load") && count == 3) {
        long fd = sys(OPEN, words[2], 0, 0);
        if (fd < 0) fail("open");
        drop((int)fd);
    } else fail("understanding the words");
    leave(0);
}
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall entry\n");
