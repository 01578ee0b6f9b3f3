/* SPDX-License-Identifier: MIT */
/* Less and less that this process may do. */
#ifndef WS_API_CONFINE_H
#define WS_API_CONFINE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Drops every capability of the calling thread but CAP_NET_ADMIN (effective,
 * permitted; inheritable and ambient become empty; bounding as far as allowed)
 * and forbids new ones through exec. Capabilities belong to threads: call it
 * while there is one only. -EPERM: the thread has no CAP_NET_ADMIN.
 */
int ws_caps_keep_net_admin(void);
/* The same for all capabilities. */
int ws_caps_drop_all(void);

/* A file, or a folder and all that is in it, that may be read; or written, made and removed too. */
struct ws_may {
	const char *path;
	int write;
};

/* Landlock's version (landlock(7)); -ENOSYS or -EOPNOTSUPP: the kernel has none. */
int ws_landlock_version(void);
/*
 * From now on the calling thread, and what it starts, opens nothing but `may`
 * (what is not there is left out), runs no programs, signals and traces no other
 * process, and has TCP only with `tcp`. What is open stays usable. Returns
 * Landlock's version or a negative errno.
 */
int ws_landlock_restrict(const struct ws_may *may, size_t count, int tcp);
/*
 * Refuses system calls that the agent never needs once it stands, of the calling
 * thread and what it starts: programs, processes, other users, mounts, modules,
 * new BPF programs. -ENOTSUP: not on this machine.
 */
int ws_seccomp_restrict(void);
/*
 * For all threads, once control sockets and rings are made: no UNIX socket may be
 * opened any more, for root is let in by whoever listens there, and no io_uring,
 * whose operations no filter sees.
 */
int ws_seccomp_close_doors(void);
/* No core dumps and no ptrace by others: keys stay in this process. */
int ws_process_protect(void);
/* SIGKILL when the thread that forked this process ends; a change of user undoes it. */
int ws_process_end_with_parent(void);

#endif
