/* SPDX-License-Identifier: MIT */
/*
 * What the process may still do once it is set up: capabilities(7), raw calls
 * so that no library is needed.
 */
#include "api/confine.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From CAPABILITY_U32S_3 words; bit `cap` of the set. */
static __u32 bit(const struct __user_cap_data_struct *data, int cap)
{
	return data[CAP_TO_INDEX(cap)].permitted & CAP_TO_MASK(cap);
}

/* All but `keep`; -1: all. */
static int drop_but(int keep)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	memset(data, 0, sizeof(data));
	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	if (keep >= 0 && !bit(data, keep))
		return -EPERM;

	/*
	 * The bounding set first: it needs CAP_SETPCAP, which goes next. Without it
	 * (a service that started with CAP_NET_ADMIN alone) the set cannot be
	 * lowered, and PR_SET_NO_NEW_PRIVS alone sees to it that nothing comes back.
	 */
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
		if (cap != keep && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
			return -errno;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		return -errno;

	memset(data, 0, sizeof(data));
	if (keep >= 0) {
		data[CAP_TO_INDEX(keep)].effective = CAP_TO_MASK(keep);
		data[CAP_TO_INDEX(keep)].permitted = CAP_TO_MASK(keep);
	}
	if (syscall(SYS_capset, &header, data) < 0)
		return -errno;
	return 0;
}

int ws_caps_keep_net_admin(void)
{
	return drop_but(CAP_NET_ADMIN);
}

int ws_caps_drop_all(void)
{
	return drop_but(-1);
}

int ws_process_end_with_parent(void)
{
	return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ? -errno : 0;
}

int ws_process_protect(void)
{
	const struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return -errno;
	return 0;
}
