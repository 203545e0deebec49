// A QEMU plugin that counts the guest's instructions (docs/devel/tcg-plugins.rst of QEMU). Time on
// a machine without hardware virtualisation depends on what else it does; this does not.
//
//   -plugin file=counter.so,socket=PATH
//
// Listens at PATH. For each byte that comes it sends a line with the number of instructions that
// the guest has executed so far.
//
// Debian packages QEMU without qemu-plugin.h, so what is used of it is declared here. Counting
// changed with version 2 of the interface (QEMU 9): before, QEMU added to a number of the
// plugin's; since, it keeps one number for each virtual CPU. This file knows both and takes what
// the QEMU that loads it has, so that one build serves Debian 12 (7.2) and 13 (10.0).
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MAYBE __attribute__((weak))

struct tb;
struct scoreboard;
struct entry { struct scoreboard *board; size_t offset; };
enum { ADD_U64 = 0 };
typedef uint64_t plugin_id;

size_t qemu_plugin_tb_n_insns(const struct tb *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct tb *));
// Version 1:
MAYBE void qemu_plugin_register_vcpu_tb_exec_inline(struct tb *, int operation, void *number, uint64_t value);
// Version 2 and later:
MAYBE struct scoreboard *qemu_plugin_scoreboard_new(size_t element);
MAYBE void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct tb *, int operation, struct entry, uint64_t value);
MAYBE uint64_t qemu_plugin_u64_sum(struct entry);

EXPORT int qemu_plugin_version = 1;
static uint64_t counted;
static struct entry entry;

// QEMU reads the version after it has loaded this file, and before it calls anything.
__attribute__((constructor)) static void choose(void) {
    if (qemu_plugin_scoreboard_new) qemu_plugin_version = 2;
}

static void translated(plugin_id id, struct tb *tb) {
    (void)id;
    uint64_t instructions = qemu_plugin_tb_n_insns(tb);
    if (entry.board) qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, ADD_U64, entry, instructions);
    else qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &counted, instructions);
}

static uint64_t total(void) {
    return entry.board ? qemu_plugin_u64_sum(entry) : __atomic_load_n(&counted, __ATOMIC_RELAXED);
}

static int listener;
static void *answer(void *unused) {
    (void)unused;
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) return NULL;
        for (char byte; read(peer, &byte, 1) == 1;) {
            char line[32];
            int length = snprintf(line, sizeof line, "%llu\n", (unsigned long long)total());
            if (write(peer, line, (size_t)length) != length) break;
        }
        close(peer);
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const void *about, int count, char **words) {
    (void)about;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (count != 1 || strncmp(words[0], "socket=", 7) || strlen(words[0] + 7) >= sizeof address.sun_path) {
        fprintf(stderr, "counter: the plugin takes one argument, socket=PATH\n");
        return 1;
    }
    strcpy(address.sun_path, words[0] + 7);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1)) {
        perror("counter: listening at the socket");
        return 1;
    }
    if (qemu_plugin_scoreboard_new) entry.board = qemu_plugin_scoreboard_new(sizeof(uint64_t));
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    pthread_t thread;
    return pthread_create(&thread, NULL, answer, NULL) != 0;
}
