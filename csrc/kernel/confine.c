/* SPDX-License-Identifier: MIT */
/*
 * What the process may still reach once it is set up: files by Landlock
 * (landlock(7)), the kernel by a system call filter (seccomp(2)). Raw calls and
 * our own constants, so that neither libraries nor new kernel headers are needed.
 *
 * The filter names what is refused, not what is allowed: the C library and
 * Python begin to use new calls with each release, and one that is missing in a
 * list of allowed ones is a fault that shows in the field. In the systemd unit
 * stands a list of allowed ones, kept by systemd.
 */
#include "api/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Landlock: <linux/landlock.h>, as of its version 6 */

#define NR_LANDLOCK_CREATE_RULESET 444
#define NR_LANDLOCK_ADD_RULE 445
#define NR_LANDLOCK_RESTRICT_SELF 446
#define CREATE_RULESET_VERSION 1
#define RULE_PATH_BENEATH 1

#define FS_WRITE_FILE (1ULL << 1)
#define FS_READ_FILE (1ULL << 2)
#define FS_READ_DIR (1ULL << 3)
#define FS_REMOVE_FILE (1ULL << 5)
#define FS_MAKE_REG (1ULL << 8)
#define FS_MAKE_SOCK (1ULL << 9)
#define FS_TRUNCATE (1ULL << 14)
#define FS_OF_VERSION_1 ((1ULL << 13) - 1)
#define FS_REFER (1ULL << 13) /* version 2 */
#define FS_IOCTL_DEV (1ULL << 15) /* version 5 */
#define NET_TCP 3ULL /* version 4: bind and connect */
#define SCOPE_ALL 3ULL /* version 6: abstract sockets and signals of others */

#define READ (FS_READ_FILE | FS_READ_DIR)
#define WRITE (READ | FS_WRITE_FILE | FS_TRUNCATE | FS_REMOVE_FILE | FS_MAKE_REG | FS_MAKE_SOCK)
#define OF_A_FILE (FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE)

struct ruleset {
	uint64_t fs, net, scoped;
};

struct path_beneath {
	uint64_t access;
	int32_t fd;
} __attribute__((packed));

int ws_landlock_version(void)
{
	long version = syscall(NR_LANDLOCK_CREATE_RULESET, NULL, (size_t)0, CREATE_RULESET_VERSION);

	return version < 0 ? -errno : (int)version;
}

static struct ruleset what_is_known(int version, bool tcp)
{
	struct ruleset all = {.fs = FS_OF_VERSION_1};

	if (version >= 2)
		all.fs |= FS_REFER;
	if (version >= 3)
		all.fs |= FS_TRUNCATE;
	if (version >= 4 && !tcp)
		all.net = NET_TCP;
	if (version >= 5)
		all.fs |= FS_IOCTL_DEV;
	if (version >= 6)
		all.scoped = SCOPE_ALL;
	return all;
}

/* A path that is not there grants nothing. */
static int allow(int ruleset, uint64_t known, const struct ws_may *may)
{
	struct path_beneath rule = {.access = may->write ? WRITE : READ};
	struct stat info;
	int error = 0;

	rule.fd = open(may->path, O_PATH | O_CLOEXEC);
	if (rule.fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == EACCES ? 0 : -errno;
	if (fstat(rule.fd, &info) == 0 && !S_ISDIR(info.st_mode))
		rule.access &= OF_A_FILE;
	rule.access &= known;
	if (syscall(NR_LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, &rule, 0))
		error = -errno;
	close(rule.fd);
	return error;
}

int ws_landlock_restrict(const struct ws_may *may, size_t count, int tcp)
{
	int version = ws_landlock_version();
	struct ruleset all = what_is_known(version, tcp);
	/* Older kernels refuse a structure that is longer than theirs and not zero there. */
	size_t bytes = version >= 6   ? sizeof(all)
		       : version >= 4 ? offsetof(struct ruleset, scoped)
				      : offsetof(struct ruleset, net);
	int ruleset, error = 0;

	if (version < 0)
		return version;
	ruleset = (int)syscall(NR_LANDLOCK_CREATE_RULESET, &all, bytes, 0);
	if (ruleset < 0)
		return -errno;
	for (size_t i = 0; i < count && !error; i++)
		error = allow(ruleset, all.fs, &may[i]);
	if (!error && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		error = -errno;
	if (!error && syscall(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0))
		error = -errno;
	close(ruleset);
	return error ? error : version;
}

/* seccomp */

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define X32_BIT 0x40000000
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef ARCH
#define NEW_NAMESPACES                                                                             \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
	 CLONE_NEWPID | CLONE_NEWNET)
#define FILTER_MAX 512
/* No foreign code runs here: without it kernels before 5.16 slow the whole process down. */
#define SPECULATION SECCOMP_FILTER_FLAG_SPEC_ALLOW

/* Never needed once the agent stands. */
static const int refused[] = {
	/* other programs, and other processes */
	SYS_execve,
	SYS_execveat,
	SYS_ptrace,
	SYS_process_vm_readv,
	SYS_process_vm_writev,
	SYS_kcmp,
	SYS_pidfd_open,
	SYS_pidfd_getfd,
	SYS_pidfd_send_signal,
	SYS_process_madvise,
	/* other users; files for them, and files that make one another user */
	SYS_setuid,
	SYS_setgid,
	SYS_setreuid,
	SYS_setregid,
	SYS_setresuid,
	SYS_setresgid,
	SYS_setgroups,
	SYS_setfsuid,
	SYS_setfsgid,
	SYS_capset,
	SYS_fchmod,
	SYS_fchmodat,
	SYS_fchown,
	SYS_fchownat,
	SYS_mknodat,
	SYS_linkat,
	SYS_symlinkat,
	SYS_setxattr,
	SYS_lsetxattr,
	SYS_fsetxattr,
	SYS_removexattr,
	SYS_lremovexattr,
	SYS_fremovexattr,
	/* the tree of files */
	SYS_mount,
	SYS_umount2,
	SYS_pivot_root,
	SYS_chroot,
	SYS_open_tree,
	SYS_move_mount,
	SYS_fsopen,
	SYS_fsconfig,
	SYS_fsmount,
	SYS_fspick,
	SYS_quotactl,
	SYS_open_by_handle_at,
	SYS_name_to_handle_at,
	SYS_unshare,
	SYS_setns,
	/* the machine */
	SYS_init_module,
	SYS_finit_module,
	SYS_delete_module,
	SYS_kexec_load,
	SYS_reboot,
	SYS_swapon,
	SYS_swapoff,
	SYS_acct,
	SYS_syslog,
	SYS_settimeofday,
	SYS_clock_settime,
	SYS_clock_adjtime,
	SYS_adjtimex,
	SYS_sethostname,
	SYS_setdomainname,
	SYS_vhangup,
	SYS_personality,
	/* large and rarely used parts of the kernel */
	SYS_add_key,
	SYS_request_key,
	SYS_keyctl,
	SYS_perf_event_open,
	SYS_userfaultfd,
	SYS_fanotify_init,
	SYS_io_setup,
	SYS_io_submit,
	SYS_mbind,
	SYS_set_mempolicy,
	SYS_migrate_pages,
	SYS_move_pages,
	SYS_mq_open,
	SYS_shmget,
	SYS_semget,
	SYS_msgget,
#ifdef SYS_kexec_file_load
	SYS_kexec_file_load,
#endif
#ifdef SYS_mount_setattr
	SYS_mount_setattr,
#endif
#ifdef SYS_quotactl_fd
	SYS_quotactl_fd,
#endif
#ifdef SYS_memfd_secret
	SYS_memfd_secret,
#endif
#ifdef __x86_64__
	SYS_fork,
	SYS_vfork,
	SYS_chmod,
	SYS_chown,
	SYS_lchown,
	SYS_mknod,
	SYS_link,
	SYS_symlink,
	SYS_iopl,
	SYS_ioperm,
	SYS_modify_ldt,
	SYS_uselib,
	SYS_create_module,
#endif
};

/* What loads a program or finds those of others; what is loaded goes on to be used. */
static const uint32_t refused_bpf[] = {
	BPF_MAP_CREATE,		 BPF_PROG_LOAD,	      BPF_OBJ_PIN,	     BPF_OBJ_GET,
	BPF_PROG_GET_NEXT_ID,	 BPF_MAP_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID,
	BPF_RAW_TRACEPOINT_OPEN, BPF_BTF_LOAD,	      BPF_BTF_GET_FD_BY_ID,  BPF_LINK_GET_FD_BY_ID,
	BPF_ENABLE_STATS,
};

struct program {
	struct sock_filter code[FILTER_MAX];
	uint16_t len;
};

static void emit(struct program *p, struct sock_filter instruction)
{
	if (p->len < FILTER_MAX)
		p->code[p->len] = instruction;
	p->len++;
}

static void load(struct program *p, size_t offset)
{
	emit(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

/* The low half: on both machines the only one that these arguments have. */
static void load_argument(struct program *p, int n)
{
	load(p, offsetof(struct seccomp_data, args) + (size_t)n * 8);
}

static void answer(struct program *p, int error)
{
	emit(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
					     error ? SECCOMP_RET_ERRNO | (uint32_t)error
						   : SECCOMP_RET_ALLOW));
}

/* Refuses with `error` what equals `value`. */
static void refuse(struct program *p, uint32_t value, int error)
{
	emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
	answer(p, error);
}

/* Begins what holds for one call: skips `skip` instructions at any other. */
static void for_call(struct program *p, long call, uint8_t skip)
{
	emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, skip));
}

static void head(struct program *p)
{
	load(p, offsetof(struct seccomp_data, arch));
	emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0));
	answer(p, EPERM);
	load(p, offsetof(struct seccomp_data, nr));
#ifdef X32_BIT
	emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1));
	answer(p, EPERM);
#endif
}

static int install(struct program *p, unsigned int flags)
{
	struct sock_fprog filter = {.len = p->len, .filter = p->code};

	if (p->len > FILTER_MAX)
		return -E2BIG;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	/* With TSYNC a thread that cannot take the filter is a positive result. */
	switch (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter)) {
	case 0:
		return 0;
	case -1:
		return -errno;
	default:
		return -ESRCH;
	}
}

int ws_seccomp_restrict(void)
{
	static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
	const uint8_t nfamilies = sizeof(families) / sizeof(families[0]);
	const uint8_t nbpf = sizeof(refused_bpf) / sizeof(refused_bpf[0]);
	struct program p = {.len = 0};

	head(&p);
	/* glibc does without it: its arguments lie in memory, where no filter sees them. */
	refuse(&p, SYS_clone3, ENOSYS);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		refuse(&p, (uint32_t)refused[i], EPERM);

	/* Threads, but no processes and no namespaces. */
	for_call(&p, SYS_clone, 6);
	load_argument(&p, 0);
	emit(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NEW_NAMESPACES, 0, 1));
	answer(&p, EPERM);
	emit(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0));
	answer(&p, EPERM);
	answer(&p, 0);

	for_call(&p, SYS_socket, nfamilies + 2 + 1);
	load_argument(&p, 0);
	for (uint8_t i = 0; i < nfamilies; i++)
		emit(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, families[i],
						      nfamilies - i, 0));
	answer(&p, EAFNOSUPPORT);
	answer(&p, 0);

	for_call(&p, SYS_bpf, 2 * nbpf + 2);
	load_argument(&p, 0);
	for (uint8_t i = 0; i < nbpf; i++)
		refuse(&p, refused_bpf[i], EPERM);
	answer(&p, 0);

	answer(&p, 0);
	return install(&p, SPECULATION);
}

int ws_seccomp_close_doors(void)
{
	struct program p = {.len = 0};

	head(&p);
	refuse(&p, SYS_io_uring_setup, EPERM);
	for_call(&p, SYS_socket, 4);
	load_argument(&p, 0);
	refuse(&p, AF_UNIX, EPERM);
	answer(&p, 0);
	/* A pair of datagram sockets could be turned to somebody else's. */
	for_call(&p, SYS_socketpair, 5);
	load_argument(&p, 1);
	emit(&p, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf));
	emit(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOCK_STREAM, 1, 0));
	answer(&p, EPERM);
	answer(&p, 0);
	answer(&p, 0);
	return install(&p, SPECULATION | SECCOMP_FILTER_FLAG_TSYNC);
}
#else
int ws_seccomp_restrict(void)
{
	return -ENOTSUP;
}

int ws_seccomp_close_doors(void)
{
	return -ENOTSUP;
}
#endif
