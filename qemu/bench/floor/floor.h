// System calls without a C library, and what every mode of the floor program needs.
#pragma once
#include <stddef.h>

#define ALWAYS static inline __attribute__((always_inline))
enum { READ = 0, WRITE = 1, CLOSE = 3, PAUSE = 34, SOCKET = 41, CONNECT = 42, CLONE = 56, VFORK = 58,
       EXECVE = 59, EXIT = 60, WAIT4 = 61, CHDIR = 80, MKDIR = 83, RMDIR = 84, CHROOT = 161, MOUNT = 165, UMOUNT = 166, CLOCK_GETTIME = 228,
       OPEN = 2, GETPID = 39, GETPPID = 110, ACCESS = 21,
       SETNS = 308, PIDFD_OPEN = 434, BIND = 49, MOVE_MOUNT = 429, FSOPEN = 430, FSCONFIG = 431, FSMOUNT = 432 };
enum { AF_NETLINK = 16, SOCK_DGRAM = 2, UEVENTS = 15, FSCONFIG_STRING = 1, FSCONFIG_CREATE = 6, EMPTY_PATH = 4 };
enum { AF_VSOCK = 40, SOCK_STREAM = 1, HOST = 2, BRIDGE = 0x40000000, MONOTONIC = 1, SIGCHLD = 17 };
enum { NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 }; // mnt, uts, ipc, pid
enum { MS_RDONLY = 1, MS_BIND = 4096, MS_MOVE = 8192, MS_REC = 16384 };

// Inlined always: after vfork the child must not return from the function that called it.
ALWAYS long call(long n, long a, long b, long c, long d, long e) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}
#define sys(n, a, b, c) call(n, (long)(a), (long)(b), (long)(c), 0, 0)

static inline size_t length(const char *s) { size_t n = 0; while (s[n]) n++; return n; }
static inline int same(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *a == *b; }
static inline long number(const char *s) { long n = 0; while (*s >= '0' && *s <= '9') n = n * 10 + *s++ - '0'; return n; }

static inline _Noreturn void leave(int code) { for (;;) sys(EXIT, code, 0, 0); }
static inline _Noreturn void fail(const char *what) {
    sys(WRITE, 2, "floor: ", 7); sys(WRITE, 2, what, length(what)); sys(WRITE, 2, " failed\n", 8);
    leave(1);
}

static inline void put(int fd, const char *from, long left) {
    while (left > 0) {
        long n = sys(WRITE, fd, from, left);
        if (n <= 0) fail("write");
        from += n, left -= n;
    }
}
static inline long now(void) {
    long time[2];
    sys(CLOCK_GETTIME, MONOTONIC, time, 0);
    return time[0] * 1000000000 + time[1];
}
static inline void report(long value) {
    char text[24]; int at = sizeof text;
    text[--at] = '\n';
    do text[--at] = (char)('0' + value % 10); while (value /= 10);
    put(1, text + at, (long)sizeof text - at);
}
static inline void reap(long child) {
    int status = 0;
    if (child < 0) fail("a new process");
    if (sys(WAIT4, child, &status, 0) != child) fail("wait");
    if (status != 0) fail("the child");
}
// Whichever child ends first.
static inline void reap_any(void) {
    int status = 0;
    if (sys(WAIT4, -1, &status, 0) < 0 || status != 0) fail("a child");
}

// The modes of container.c; 0 for a mode that is none of them.
int container_mode(const char *mode, int count, char **words);
