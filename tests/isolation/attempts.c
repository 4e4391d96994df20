// The attempts to get out that need system calls of their own. Calls that would
// do harm if they succeeded are made with arguments that cannot.

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "escape.h"

static int result(long value) {
  return value >= 0 ? 0 : errno;
}

// ------------------------------------------------------- mounts and namespaces

static int try_mount(void) {
  return result(mount("none", "/tmp", "tmpfs", 0, NULL));
}

static int try_bind(void) {
  return result(mount("/proc/1/root", "/tmp", NULL, MS_BIND | MS_REC, NULL));
}

static int try_remount(void) {
  return result(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
}

static int try_umount(void) {
  return result(umount2("/proc", MNT_DETACH));
}

static int try_pivot(void) {
  return result(syscall(SYS_pivot_root, "/", "/"));
}

static int try_chroot(void) {
  return result(chroot("/tmp"));
}

static int try_new_mount(void) {
  return result(syscall(430, "tmpfs", 0));  // fsopen
}

static int try_open_tree(void) {
  return result(
      syscall(428, AT_FDCWD, "/", 1 | 0x8000));  // a copy of the mounts
}

static int try_user_namespace(void) {
  return result(unshare(CLONE_NEWUSER));
}

static int try_mount_namespace(void) {
  return result(unshare(CLONE_NEWNS));
}

static int try_clone(void) {
  long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
  if (child == 0) _exit(0);
  return result(child);
}

static int try_clone3(void) {
  uint64_t arguments[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
  long child = syscall(435, arguments, sizeof(arguments));
  if (child == 0) _exit(0);
  return result(child);
}

static int try_setns(void) {
  static const char *const names[] = {"mnt",  "net", "pid",
                                      "user", "ipc", "uts"};
  int error = EPERM;
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/1/ns/%s", names[i]);
    int fd = open(path, O_RDONLY);
    if (fd < 0) continue;
    if (setns(fd, 0) == 0) return 0;
    error = errno;
  }
  return error;
}

static int try_open_by_handle(void) {
  // The root inode of most file systems, which a host's mount may be behind.
  struct {
    struct file_handle head;
    uint32_t inode[2];
  } handle = {
      .head = {.handle_bytes = 8, .handle_type = 1},
        .inode = {2,                 0               }
  };

  int fd = open("/", O_RDONLY);
  return result(syscall(SYS_open_by_handle_at, fd, &handle, O_RDONLY));
}

// ------------------------------------------------------------- other processes

static int try_ptrace(void) {
  return result(ptrace(PTRACE_ATTACH, 1, NULL, NULL));
}

static int try_seize(void) {
  return result(ptrace(PTRACE_SEIZE, 1, NULL, NULL));
}

static int copy_agent(long call) {
  char bytes[16] = {0};
  struct iovec here = {bytes, sizeof(bytes)};
  struct iovec there = {(void *)(uintptr_t)0x400000, sizeof(bytes)};
  return result(syscall(call, 1, &here, 1, &there, 1, 0));
}

static int try_read_memory(void) {
  return copy_agent(SYS_process_vm_readv);
}

static int try_write_memory(void) {
  return copy_agent(SYS_process_vm_writev);
}

static int try_memory_file(void) {
  int fd = open("/proc/1/mem", O_RDWR);
  if (fd < 0) return errno;
  char byte;
  return result(pread(fd, &byte, 1, 0x400000));
}

// Whatever descriptors the agent has, one of them is its way to the server.
static int try_take_descriptor(void) {
  long agent = syscall(434, 1, 0);  // pidfd_open
  if (agent < 0) return errno;
  int error = EPERM;
  for (int fd = 0; fd < 64; fd++) {
    long mine = syscall(438, agent, fd, 0);  // pidfd_getfd
    if (mine >= 0) return 0;
    if (errno != EPERM) error = errno;
  }
  return error;
}

// A frame of the agent's protocol that is longer than any may be, into whatever
// the agent has open.
static int try_hostile_frames(void) {
  static const unsigned char frame[] = {0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 1};
  int error = EACCES;
  for (int fd = 0; fd < 64; fd++) {
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/1/fd/%d", fd);
    int there = open(path, O_WRONLY | O_NONBLOCK);
    if (there >= 0) return write(there, frame, sizeof(frame)) > 0 ? 0 : errno;
    if (errno != ENOENT) error = errno;
  }
  return error;
}

// What came along from the agent or from the machine's side.
static int try_inherited(void) {
  for (int fd = 3; fd < 1024; fd++)
    if (fcntl(fd, F_GETFD) >= 0) return 0;
  return EBADF;
}

// Signals that the kernel or a handler of the agent's would act on.
static int try_signals(void) {
  for (int number = 1; number < 65; number++)
    (void)kill(1, number);
  return kill(1, 0) == 0 ? EPERM : 0;  // it must still be there
}

static int try_limits(void) {
  struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
  return result(prlimit(1, RLIMIT_NPROC, &limit, NULL));
}

static int try_kcmp(void) {
  return result(syscall(SYS_kcmp, 1, getpid(), 2, 0, 0));
}

// ------------------------------------------------------------------ the kernel

static int try_keyctl(void) {
  return result(syscall(SYS_keyctl, 0, -3, 1, 0, 0));  // the session's keyring
}

static int try_add_key(void) {
  return result(syscall(SYS_add_key, "user", "sbx", "x", 1, -4));
}

static int try_request_key(void) {
  return result(syscall(SYS_request_key, "user", "sbx", NULL, -4));
}

static int try_bpf(void) {
  uint32_t attributes[32] = {2, 4, 8, 1};  // an array of one
  return result(syscall(SYS_bpf, 0, attributes, sizeof(attributes)));
}

static int try_perf(void) {
  uint64_t attributes[16] = {(uint64_t)sizeof(attributes) << 32 | 1};
  return result(syscall(SYS_perf_event_open, attributes, -1, 0, -1, 0));
}

static int try_userfaultfd(void) {
  return result(syscall(SYS_userfaultfd, 1));
}

static int try_io_uring(void) {
  uint32_t parameters[30] = {0};
  return result(syscall(425, 1, parameters));
}

static int try_fanotify(void) {
  return result(syscall(SYS_fanotify_init, 4, O_RDONLY));  // FAN_CLASS_CONTENT
}

// EFAULT and the like mean that the kernel began to look.
static int try_module(void) {
  return result(syscall(SYS_init_module, NULL, 0UL, ""));
}

static int try_module_file(void) {
  return result(syscall(SYS_finit_module, -1, "", 0));
}

static int try_kexec(void) {
  return result(syscall(SYS_kexec_load, 0UL, 0UL, NULL, 0xffUL));
}

static int try_reboot(void) {
  return result(syscall(SYS_reboot, 1, 2, 3, NULL));  // magic that is none
}

static int try_swap(void) {
  return result(syscall(SYS_swapon, "/nothing", 0));
}

static int try_acct(void) {
  return result(syscall(SYS_acct, "/nothing"));
}

static int try_kernel_log(void) {
  char text[256];
  return result(syscall(SYS_syslog, 3, text, sizeof(text)));
}

static int try_clock(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return errno;
  return result(syscall(SYS_clock_settime, CLOCK_REALTIME, &now));
}

static int try_time_of_day(void) {
  struct timeval now;
  if (gettimeofday(&now, NULL) != 0) return errno;
  return result(syscall(SYS_settimeofday, &now, NULL));
}

static int try_hostname(void) {
  return result(sethostname("taken-over", 10));
}

static int try_real_time(void) {
  struct sched_param parameters = {.sched_priority = 50};
  return result(syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameters));
}

static int try_capabilities(void) {
  uint32_t head[2] = {0x20080522, 0};
  uint32_t all[6] = {~0U, ~0U, ~0U, ~0U, ~0U, ~0U};
  return result(syscall(SYS_capset, head, all));
}

static int try_new_privileges(void) {
  return result(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static int try_no_filter(void) {
  return result(prctl(PR_SET_SECCOMP, 0, 0, 0, 0));
}

#if defined(__x86_64__)
static int try_io_ports(void) {
  return result(syscall(SYS_iopl, 3));
}

// The filter knows the numbers of one way to call the kernel; these are others.
static int try_old_calls(void) {
  long value;
  __asm__ volatile("int $0x80"
                   : "=a"(value)
                   : "a"(310L), "b"((long)CLONE_NEWUSER)  // unshare
                   : "memory", "r8", "r9", "r10", "r11");
  return value >= 0 ? 0 : (int)-value;
}

static int try_x32_calls(void) {
  return result(syscall(0x40000000L | SYS_unshare, CLONE_NEWUSER));
}
#endif

// ------------------------------------------------------------ devices,
// terminals

static int try_device(mode_t kind, unsigned major, unsigned minor) {
  (void)unlink("/tmp/device");
  if (mknod("/tmp/device", kind | 0600, makedev(major, minor)) != 0)
    return errno;
  int fd = open("/tmp/device", O_RDWR);
  if (fd < 0) return errno;
  char byte;
  return result(read(fd, &byte, 1));
}

static int try_memory_device(void) {
  return try_device(S_IFCHR, 1, 1);
}

static int try_kernel_messages(void) {
  return try_device(S_IFCHR, 1, 11);
}

static int try_disk(void) {
  static const unsigned majors[] = {7, 8, 252, 253, 254, 259};
  int error = EPERM;
  for (size_t i = 0; i < sizeof(majors) / sizeof(*majors); i++) {
    error = try_device(S_IFBLK, majors[i], 0);
    if (error == 0) return 0;
  }
  return error;
}

static int try_terminal(void) {
  int error = EPERM;
  static const char *const names[] = {"/dev/tty", "/dev/console", "/dev/tty0",
                                      "/dev/ptmx"};
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    int fd = open(names[i], O_RDWR | O_NOCTTY);
    if (fd < 0) continue;
    if (ioctl(fd, TIOCSTI, "x") == 0) return 0;
    error = errno;
  }
  return ioctl(0, TIOCSTI, "x") == 0 ? 0 : error == ENOTTY ? EPERM : error;
}

// ------------------------------------------------------------------- the
// network

static int try_family(int family, int type, int protocol) {
  return result(socket(family, type, protocol));
}

static int try_vsock(void) {
  return try_family(AF_VSOCK, SOCK_STREAM, 0);
}

static int try_packet(void) {
  return try_family(AF_PACKET, SOCK_RAW, 0x300);
}

static int try_alg(void) {
  return try_family(38, SOCK_SEQPACKET, 0);
}

static int try_xdp(void) {
  return try_family(44, SOCK_RAW, 0);
}

static int try_bluetooth(void) {
  return try_family(31, SOCK_RAW, 1);
}

static int try_raw(void) {
  return try_family(AF_INET, SOCK_RAW, 1);
}

static int try_route(void) {
  struct {
    struct nlmsghdr head;
    struct rtmsg route;
  } request = {
      .head = {sizeof(request), RTM_NEWROUTE,
               NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0},
      .route = {.rtm_family = AF_INET,
               .rtm_table = RT_TABLE_MAIN,
               .rtm_protocol = RTPROT_BOOT,
               .rtm_type = RTN_UNREACHABLE                },
  };

  struct {
    struct nlmsghdr head;
    struct nlmsgerr body;
    char more[256];
  } answer = {0};

  int fd = socket(AF_NETLINK, SOCK_RAW, 0);
  if (fd < 0) return errno;
  if (send(fd, &request, sizeof(request), 0) < 0) return errno;
  if (recv(fd, &answer, sizeof(answer), 0) < 0) return errno;
  return -answer.body.error;
}

const NamedAttempt attempts[] = {
    {"mount",                 try_mount            },
    {"bind-mount",            try_bind             },
    {"remount",               try_remount          },
    {"umount",                try_umount           },
    {"pivot-root",            try_pivot            },
    {"chroot",                try_chroot           },
    {"fsopen",                try_new_mount        },
    {"open-tree",             try_open_tree        },
    {"user-namespace",        try_user_namespace   },
    {"mount-namespace",       try_mount_namespace  },
    {"clone-namespace",       try_clone            },
    {"clone3-namespace",      try_clone3           },
    {"setns",                 try_setns            },
    {"open-by-handle",        try_open_by_handle   },
    {"ptrace-agent",          try_ptrace           },
    {"seize-agent",           try_seize            },
    {"read-agent-memory",     try_read_memory      },
    {"write-agent-memory",    try_write_memory     },
    {"agent-memory-file",     try_memory_file      },
    {"take-agent-descriptor", try_take_descriptor  },
    {"hostile-frames",        try_hostile_frames   },
    {"inherited-descriptors", try_inherited,         EBADF},
    {"signal-agent",                       try_signals                              },
    {"limits-of-agent",                       try_limits},
    {"kcmp",                       try_kcmp                                         },
    {"keyctl",                       try_keyctl},
    {"add-key",                       try_add_key                                        },
    {"request-key",                       try_request_key},
    {"bpf",                       try_bpf                                                },
    {"perf",                       try_perf},
    {"userfaultfd",                       try_userfaultfd                                         },
    {"io-uring",                       try_io_uring},
    {"fanotify",                       try_fanotify                                         },
    {"kernel-module",                       try_module},
    {"kernel-module-file",                       try_module_file                                    },
    {"kexec",                       try_kexec },
    {"reboot",                       try_reboot                                   },
    {"swap",                       try_swap   },
    {"accounting",                       try_acct                             },
    {"kernel-log",                       try_kernel_log   },
    {"clock",                       try_clock                                  },
    {"time-of-day",                       try_time_of_day},
    {"hostname",                       try_hostname                                     },
    {"real-time",                       try_real_time},
    {"capabilities",                       try_capabilities                                  },
    {"new-privileges",                       try_new_privileges,EINVAL},
    {"no-filter",                 try_no_filter,                                            EINVAL},
#if defined(__x86_64__)
    {"io-ports",try_io_ports},
    {"32-bit-calls",              try_old_calls                             },
    {"x32-calls",          try_x32_calls    },
#endif
    {"memory-device",             try_memory_device           },
    {"kernel-messages",         try_kernel_messages},
    {"disk-device",       try_disk},
    {"terminal-input",           try_terminal                 },
    {"vsock",        try_vsock      },
    {"packet-socket",                 try_packet                     },
    {"alg-socket",         try_alg   },
    {"xdp-socket",            try_xdp                 },
    {"bluetooth-socket",            try_bluetooth              },
    {"raw-socket",      try_raw  },
    {"route",            try_route                    },
};

const size_t attempt_count = sizeof(attempts) / sizeof(*attempts);
