// The system call filter, in the kernel's own little instruction set: a list
// of what sandboxed programs do not need and kernels have been broken through.
// Refused calls fail with an ordinary errno, so that programs cope.

#define _GNU_SOURCE

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "agent.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the filter knows no system call numbers for this machine"
#endif

// Newer than some C libraries; the same number on every machine.
enum {
  NR_IO_URING_SETUP = 425,
  NR_IO_URING_ENTER = 426,
  NR_IO_URING_REGISTER = 427,
  NR_OPEN_TREE = 428,
  NR_MOVE_MOUNT = 429,
  NR_FSOPEN = 430,
  NR_FSCONFIG = 431,
  NR_FSMOUNT = 432,
  NR_FSPICK = 433,
  NR_CLONE3 = 435,
  NR_MOUNT_SETATTR = 442,
  NR_QUOTACTL_FD = 443,
  NR_OPEN_TREE_ATTR = 467,
  X32_BIT = 0x40000000,
};

#define NAMESPACES                                                             \
  (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |               \
   CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | 0x80 /* CLONE_NEWTIME */)

static const int refused[] = {
    // Keys are the host user's, not the sandbox's.
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    // Wide and often broken surfaces.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    NR_IO_URING_SETUP,
    NR_IO_URING_ENTER,
    NR_IO_URING_REGISTER,
    SYS_kcmp,
    SYS_lookup_dcookie,
    SYS_vhangup,
    SYS_syslog,
    SYS_acct,
    // Other namespaces and mounts.
    SYS_setns,
    SYS_unshare,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    NR_OPEN_TREE,
    NR_MOVE_MOUNT,
    NR_FSOPEN,
    NR_FSCONFIG,
    NR_FSMOUNT,
    NR_FSPICK,
    NR_MOUNT_SETATTR,
    NR_OPEN_TREE_ATTR,
    SYS_open_by_handle_at,
    // The machine itself.
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_quotactl,
    NR_QUOTACTL_FD,
    SYS_clock_settime,
    SYS_settimeofday,
    SYS_adjtimex,
    SYS_clock_adjtime,
#if defined(__x86_64__)
    SYS_iopl,
    SYS_ioperm,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
    SYS_create_module,
    SYS_get_kernel_syms,
    SYS_query_module,
    SYS_nfsservctl,
#endif
};

enum { FIXED = 40, CAPACITY = FIXED + 2 * sizeof(refused) / sizeof(*refused) };

typedef struct Program {
  struct sock_filter steps[CAPACITY];
  unsigned short count;
} Program;

static void add(Program *program, unsigned code, unsigned value, unsigned yes,
                unsigned no) {
  program->steps[program->count++] = (struct sock_filter){
      (unsigned short)code, (unsigned char)yes, (unsigned char)no, value};
}

static void load(Program *program, size_t offset) {
  add(program, BPF_LD | BPF_W | BPF_ABS, (unsigned)offset, 0, 0);
}

static void refuse(Program *program, int error) {
  add(program, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error, 0, 0);
}

static void allow(Program *program) {
  add(program, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
}

// Continues with the next step when the loaded word is `value`, else skips.
static void when_equal(Program *program, unsigned value, unsigned skip) {
  add(program, BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip);
}

static size_t argument(int index) {
  // The low half on the little-endian machines that are supported.
  return offsetof(struct seccomp_data, args) + (size_t)index * 8;
}

static void check_architecture(Program *program) {
  load(program, offsetof(struct seccomp_data, arch));
  add(program, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
  refuse(program, ENOSYS);
  load(program, offsetof(struct seccomp_data, nr));
#if defined(__x86_64__)
  add(program, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
  refuse(program, ENOSYS);
#endif
}

static void check_clone(Program *program) {
  // clone3's flags lie in memory, where a filter cannot look: the C libraries
  // fall back to clone.
  when_equal(program, NR_CLONE3, 1);
  refuse(program, ENOSYS);
  when_equal(program, SYS_clone, 4);
  load(program, argument(0));
  add(program, BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1);
  refuse(program, EPERM);
  allow(program);
}

static void check_ioctl(Program *program) {
  // Both put text into a terminal as if its user had typed it.
  when_equal(program, SYS_ioctl, 5);
  load(program, argument(1));
  add(program, BPF_JMP | BPF_JEQ | BPF_K, TIOCSTI, 1, 0);
  when_equal(program, 0x541C /* TIOCLINUX */, 1);
  refuse(program, EPERM);
  allow(program);
}

static void check_socket(Program *program) {
  static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

  enum { COUNT = sizeof(families) / sizeof(*families) };

  when_equal(program, SYS_socket, 3 + COUNT);
  load(program, argument(0));
  for (unsigned i = 0; i < COUNT; i++)
    add(program, BPF_JMP | BPF_JEQ | BPF_K, (unsigned)families[i], COUNT - i,
        0);
  refuse(program, EAFNOSUPPORT);
  allow(program);
}

int seccomp_install(void) {
  Program program = {.count = 0};
  check_architecture(&program);
  check_clone(&program);
  check_ioctl(&program);
  check_socket(&program);
  for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
    when_equal(&program, (unsigned)refused[i], 1);
    refuse(&program, EPERM);
  }
  allow(&program);

  struct sock_fprog filter = {program.count, program.steps};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) != 0)
    return errno;
  return 0;
}
