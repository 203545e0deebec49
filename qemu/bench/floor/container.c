// Containers by bare system calls, in the order in which a runtime has to make them: the default
// spec with all of its namespaces, mounts, masks, device nodes and rules, control group, limits
// and capabilities. What is not needed by the spec is not done; what the spec needs is not left
// out, since a floor that does less is no floor.
//
// It runs where the guest runs, in the initial root of a VM with cgroup v2, which cannot be
// pivoted away: the new root is moved over it, as runtimes do there.
#include "floor.h"

enum { IOCTL = 16, SYMLINK = 88, UMASK = 95, CAPSET = 126, MKNOD = 133, PRCTL = 157,
       SETGROUPS = 116, SETRESUID = 117, SETRESGID = 119, SETRLIMIT = 160, SETHOSTNAME = 170,
       PIPE2 = 293, SECCOMP = 317, BPF = 321, CLONE3 = 435, CLOSE_RANGE = 436 };
enum { AF_INET = 2, CLOEXEC = 02000000, RDONLY = 0, WRONLY = 1, CREATE = 0100, DIRECTORY = 0200000 };
enum { NOSUID = 2, NODEV = 4, NOEXEC = 8, REMOUNT = 32, STRICTATIME = 1 << 24, RELATIME = 1 << 21, SLAVE = 1 << 19 };
enum { CLONE_PIDFD = 0x1000, CLONE_PARENT = 0x8000, CLONE_NEWNET = 0x40000000, CHR = 0020000, DROP_BOUNDING = 24,
       SUBREAPER = 36, RLIMIT_NOFILE = 7 };
#define CLONE_INTO_CGROUP 0x200000000UL

#define GROUPS "/sys/fs/cgroup/containers"
#define FILES "/run/bench/files"
static const char group_path[] = GROUPS "/floor";

// vfork and clone return twice on one stack: whoever calls them must not return.
ALWAYS long clone3(unsigned long flags, int *pidfd, long group) {
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, its size, tls, set_tid, its size, cgroup
    unsigned long args[11] = {flags | CLONE_INTO_CGROUP, (unsigned long)pidfd};
    args[4] = flags & CLONE_PARENT ? 0 : SIGCHLD;
    args[10] = (unsigned long)group;
    return sys(CLONE3, args, sizeof args, 0);
}

static long opened(const char *path, long flags) {
    long fd = sys(OPEN, path, flags | CLOEXEC, 0644);
    if (fd < 0) fail(path);
    return fd;
}
static void file(const char *path, const char *text) {
    long fd = opened(path, WRONLY | CREATE);
    put((int)fd, text, (long)length(text));
    sys(CLOSE, fd, 0, 0);
}
static void mounted(const char *source, const char *target, const char *type, long flags, const char *options) {
    if (call(MOUNT, (long)source, (long)target, (long)type, flags, (long)options)) fail(target);
}

// --- Device rules: deny all, then ten that allow, each a test of type, major and minor.

struct insn { unsigned char code, registers; short over; int value; };
static int ops;
static struct insn program[96];
static void op(int code, int to, int from, int offset, int value) {
    program[ops++] = (struct insn){(unsigned char)code, (unsigned char)(from << 4 | to), (short)offset, value};
}
static void restrict_devices(long group) {
    static const short rules[10][3] = {{2, -1, -1}, {1, -1, -1}, {2, 1, 3}, {2, 1, 5}, {2, 1, 7},
                                       {2, 1, 8}, {2, 1, 9}, {2, 5, 0}, {2, 5, 2}, {2, 136, -1}};
    ops = 0;
    op(0x61, 2, 1, 0, 0), op(0x57, 2, 0, 0, 0xffff), op(0x61, 4, 1, 4, 0), op(0x61, 5, 1, 8, 0);
    for (int rule = 0; rule < 10; rule++) {
        int first = ops;
        for (int part = 0; part < 3; part++) {
            static const int registers[] = {2, 4, 5};
            if (rules[rule][part] >= 0) op(0x56, registers[part], 0, 0, rules[rule][part]);
        }
        op(0xb7, 0, 0, 0, 1), op(0x95, 0, 0, 0, 0);
        for (int at = first; at < ops - 2; at++) program[at].over = (short)(ops - at - 1);
    }
    op(0xb7, 0, 0, 0, 0), op(0x95, 0, 0, 0, 0);
    // union bpf_attr of BPF_PROG_LOAD (5) and BPF_PROG_ATTACH (8)
    struct { unsigned kind, count; unsigned long code, license; } load = {15, (unsigned)ops, (unsigned long)program, (unsigned long)"MIT"};
    long fd = sys(BPF, 5, &load, sizeof load);
    if (fd < 0) fail("loading device rules");
    struct { unsigned target, program, kind, flags; } attach = {(unsigned)group, (unsigned)fd, 6, 2};
    if (sys(BPF, 8, &attach, sizeof attach)) fail("attaching device rules");
    sys(CLOSE, fd, 0, 0);
}

// --- A filter of the shape that engines send: some seventy intervals of numbers, by halves.

struct filter { unsigned short code; unsigned char yes, no; unsigned value; };
static struct filter filter[256];
static int filters;
// What an engine would refuse is let through by a value that the kernel does not remember as
// harmless: the same work, and this program goes on.
enum { ALLOW = 0x7fff0000, ASKED = ALLOW | 1, INTERVALS = 72, WIDTH = 6 };
static void instruction(int code, int yes, unsigned value) {
    filter[filters++] = (struct filter){(unsigned short)code, (unsigned char)yes, 0, value};
}
static void half(int from, int to) {
    if (to - from == 1) {
        instruction(0x06, 0, from & 1 ? ASKED : ALLOW);
        return;
    }
    int middle = (from + to) / 2, at = filters;
    instruction(0x35, 0, (unsigned)(middle * WIDTH));
    half(from, middle);
    filter[at].yes = (unsigned char)(filters - at - 1);
    half(middle, to);
}
static void restrict_calls(void) {
    filters = 0;
    instruction(0x20, 0, 4), instruction(0x15, 1, 0xc000003e), instruction(0x06, 0, 0), instruction(0x20, 0, 0);
    half(0, INTERVALS);
    struct { unsigned short count; struct filter *code; } all = {(unsigned short)filters, filter};
    if (sys(SECCOMP, 1, 0, &all)) fail("loading a filter");
}

// --- The process: what both the first one of a container and one that joins it are given.

static const char own_capabilities[] = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31};
static _Noreturn void execute(const char *path, int filtered) {
    char *const words[] = {(char *)path, "true", NULL};
    char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", NULL};
    unsigned long limit[2] = {1024, 1024};
    sys(SETRLIMIT, RLIMIT_NOFILE, limit, 0);
    unsigned wanted = 0;
    for (size_t at = 0; at < sizeof own_capabilities; at++) wanted |= 1u << own_capabilities[at];
    for (int one = 0; one <= 40; one++)
        if (one > 31 || !(wanted >> one & 1)) sys(PRCTL, DROP_BOUNDING, one, 0);
    if (filtered) restrict_calls();
    sys(SETGROUPS, 0, NULL, 0), sys(SETRESGID, 0, 0, 0), sys(SETRESUID, 0, 0, 0);
    unsigned header[2] = {0x20080522, 0}, sets[6] = {wanted, wanted};
    if (sys(CAPSET, header, sets, 0)) fail("capset");
    sys(CHDIR, "/", 0, 0), sys(UMASK, 022, 0, 0);
    sys(EXECVE, path, words, environment);
    fail("exec");
}

static void devices(void) {
    static const struct { const char *path; int major, minor; } nodes[] = {
        {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/tty", 5, 0}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}};
    static const char *const links[][2] = {
        {"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
        {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
    long mask = sys(UMASK, 0, 0, 0);
    for (int at = 0; at < 6; at++)
        if (sys(MKNOD, nodes[at].path, CHR | 0666, nodes[at].major << 8 | nodes[at].minor)) fail(nodes[at].path);
    sys(UMASK, mask, 0, 0);
    for (int at = 0; at < 5; at++)
        if (sys(SYMLINK, links[at][0], links[at][1], 0)) fail(links[at][1]);
}
static void mounts(void) {
    const long plain = NOSUID | NOEXEC | NODEV;
    mounted("proc", "proc", "proc", plain, NULL);
    mounted("tmpfs", "dev", "tmpfs", NOSUID | STRICTATIME, "mode=755,size=65536k");
    sys(MKDIR, "dev/pts", 0755, 0), sys(MKDIR, "dev/shm", 0755, 0), sys(MKDIR, "dev/mqueue", 0755, 0);
    mounted("devpts", "dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mounted("shm", "dev/shm", "tmpfs", plain, "mode=1777,size=65536k");
    mounted("mqueue", "dev/mqueue", "mqueue", plain, NULL);
    mounted("sysfs", "sys", "sysfs", plain | MS_RDONLY, NULL);
    mounted(group_path, "sys/fs/cgroup", NULL, MS_BIND, NULL);
    mounted(NULL, "sys/fs/cgroup", NULL, REMOUNT | MS_BIND | MS_RDONLY | plain | RELATIME, NULL);
    devices();
    mounted(FILES "/hostname", "etc/hostname", NULL, MS_BIND, NULL);
    mounted(FILES "/hosts", "etc/hosts", NULL, MS_BIND, NULL);
    mounted(FILES "/resolv.conf", "etc/resolv.conf", NULL, MS_BIND, NULL);
}
// Not every kernel has each of them.
static void masks(void) {
    static const char *const hidden[] = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"};
    static const char *const fixed[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    enum { ENOENT = 2, ENOTDIR = 20 };
    for (int at = 0; at < 5; at++) {
        long failed = call(MOUNT, (long)fixed[at], (long)fixed[at], 0, MS_BIND | MS_REC, 0);
        if (failed && failed != -ENOENT) fail(fixed[at]);
        if (!failed) mounted(NULL, fixed[at], NULL, MS_BIND | REMOUNT | MS_RDONLY | NOSUID | NOEXEC | NODEV, NULL);
    }
    for (int at = 0; at < 10; at++) {
        long failed = call(MOUNT, (long)"/dev/null", (long)hidden[at], 0, MS_BIND, 0);
        if (failed == -ENOTDIR) mounted("tmpfs", hidden[at], "tmpfs", MS_RDONLY, "size=0k,nr_blocks=1");
        else if (failed && failed != -ENOENT) fail(hidden[at]);
    }
}
static void raise_loopback(void) {
    struct { char name[16]; short flags; char rest[22]; } request = {"lo", 1 | 64, {0}};
    long fd = sys(SOCKET, AF_INET, SOCK_DGRAM | CLOEXEC, 0);
    if (fd < 0 || sys(IOCTL, fd, 0x8914, &request)) fail("raising the loopback");
    sys(CLOSE, fd, 0, 0);
}

static _Noreturn void enter(const char *root, const char *path, long ready, long go, int filtered) {
    char byte = 'r';
    if (sys(SETHOSTNAME, "container", 9, 0)) fail("sethostname");
    raise_loopback();
    mounted(NULL, "/", NULL, MS_REC | SLAVE, NULL);
    mounted(root, root, NULL, MS_BIND | MS_REC, NULL);
    if (sys(CHDIR, root, 0, 0)) fail("entering the root");
    mounts();
    mounted(".", "/", NULL, MS_MOVE, NULL);
    if (sys(CHROOT, ".", 0, 0) || sys(CHDIR, "/", 0, 0)) fail("entering the root");
    masks();
    long score = sys(OPEN, "/proc/self/oom_score_adj", WRONLY | CLOEXEC, 0);
    sys(WRITE, score, "0", 1);
    if (sys(WRITE, ready, &byte, 1) != 1 || sys(READ, go, &byte, 1) != 1) leave(1);
    sys(CLOSE_RANGE, 3, ~0u, 0);
    execute(path, filtered);
}

static void one(const char *root, const char *path, int filtered) {
    int ready[2], go[2], pidfd = -1;
    char byte = 's';
    file(FILES "/hostname", "container\n"), file(FILES "/resolv.conf", "");
    file(FILES "/hosts", "127.0.0.1 localhost\n127.0.0.1 container\n::1 ip6-localhost ip6-loopback\nfe00::0 ip6-localnet\n");
    if (sys(MKDIR, group_path, 0755, 0)) fail("making the control group");
    long group = opened(group_path, RDONLY | DIRECTORY);
    restrict_devices(group);
    if (sys(PIPE2, ready, CLOEXEC, 0) || sys(PIPE2, go, CLOEXEC, 0)) fail("pipes");
    long child = clone3(NEW_NAMESPACES | CLONE_NEWNET | CLONE_PIDFD, &pidfd, group);
    if (child == 0) {
        sys(CLOSE, ready[0], 0, 0), sys(CLOSE, go[1], 0, 0);
        enter(root, path, ready[1], go[0], filtered);
    }
    sys(CLOSE, ready[1], 0, 0), sys(CLOSE, go[0], 0, 0);
    if (child > 0 && sys(READ, ready[0], &byte, 1) != 1) fail("the child, before its start");
    if (sys(WRITE, go[1], &byte, 1) != 1) fail("starting the child");
    reap(child);
    sys(CLOSE, go[1], 0, 0), sys(CLOSE, ready[0], 0, 0), sys(CLOSE, pidfd, 0, 0), sys(CLOSE, group, 0, 0);
    if (sys(RMDIR, group_path, 0, 0)) fail("removing the control group");
}
static void contain(long rounds, const char *root, const char *path, int filtered) {
    sys(MKDIR, GROUPS, 0755, 0), sys(MKDIR, "/run/bench", 0700, 0), sys(MKDIR, FILES, 0700, 0);
    long started = now();
    while (rounds-- > 0) one(root, path, filtered);
    report(now() - started);
}

// The new pid namespace is that of children only, so there is one more.
static void join(long pid, long rounds, const char *path, const char *container, int filtered) {
    long joined = sys(PIDFD_OPEN, pid, 0, 0), group = opened(container, RDONLY | DIRECTORY);
    if (joined < 0) fail("opening the process");
    long started = now();
    while (rounds-- > 0) {
        long child = sys(VFORK, 0, 0, 0);
        if (child == 0) {
            if (sys(SETNS, joined, NEW_NAMESPACES | CLONE_NEWNET, 0)) fail("setns");
            long inner = clone3(CLONE_PARENT, NULL, group);
            if (inner == 0) execute(path, filtered);
            leave(inner < 0);
        }
        reap(child);
        reap_any();
    }
    report(now() - started);
}

// --- crun, as an engine calls it.

#define CRUN "/usr/bin/crun"
static void run(char *const words[]) {
    char *const environment[] = {"PATH=/usr/bin", NULL};
    long child = sys(VFORK, 0, 0, 0);
    if (child == 0) { sys(EXECVE, CRUN, words, environment); sys(EXIT, 127, 0, 0); }
    reap(child);
}
static void peer_create(const char *bundle) {
    // The initial root cannot be pivoted away.
    run((char *const[]){CRUN, "--root", "/run/crun", "create", "--no-pivot", "-b", (char *)bundle, "peer", NULL});
    run((char *const[]){CRUN, "--root", "/run/crun", "start", "peer", NULL});
}
static void peer_delete(void) {
    run((char *const[]){CRUN, "--root", "/run/crun", "delete", "--force", "peer", NULL});
}
static void peer(long rounds, const char *bundle) {
    sys(PRCTL, SUBREAPER, 1, 0);
    long started = now();
    while (rounds-- > 0) {
        peer_create(bundle);
        reap_any();
        peer_delete();
    }
    report(now() - started);
}
static void peer_exec(long rounds, const char *bundle, const char *path) {
    sys(PRCTL, SUBREAPER, 1, 0);
    peer_create(bundle);
    long started = now();
    while (rounds-- > 0) run((char *const[]){CRUN, "--root", "/run/crun", "exec", "peer", (char *)path, "true", NULL});
    long taken = now() - started;
    peer_delete();
    report(taken);
}

int container_mode(const char *mode, int count, char **words) {
    if (count < 2) return 0;
    int filtered = same(words[count - 1], "filter");
    count -= filtered;
    if (same(mode, "contain") && count == 3) contain(number(words[0]), words[1], words[2], filtered);
    else if (same(mode, "join") && count == 4) join(number(words[0]), number(words[1]), words[2], words[3], filtered);
    else if (same(mode, "peer") && count == 2) peer(number(words[0]), words[1]);
    else if (same(mode, "peer-exec") && count == 3) peer_exec(number(words[0]), words[1], words[2]);
    else return 0;
    return 1;
}
