/* SPDX-License-Identifier: MIT */
/*
 * Loads the programs of bpf/. libbpf is bound at run time, so one build works
 * with and without it.
 */
#include "kernel/bpf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#if defined(__has_include) && !defined(WS_WITHOUT_LIBBPF)
#if __has_include(<bpf/libbpf.h>)
#define HAVE_LIBBPF 1
#include <bpf/libbpf.h>
#include <dlfcn.h>
#endif
#endif

#ifdef HAVE_LIBBPF
static struct {
	void *library;
	libbpf_print_fn_t (*set_print)(libbpf_print_fn_t print);
	struct bpf_object *(*open_file)(const char *path, const struct bpf_object_open_opts *opts);
	int (*load)(struct bpf_object *object);
	void (*close)(struct bpf_object *object);
	struct bpf_program *(*find_program)(const struct bpf_object *object, const char *name);
	int (*program_fd)(const struct bpf_program *program);
	int (*find_map_fd)(const struct bpf_object *object, const char *name);
	int (*possible_cpus)(void);
	int (*hook_create)(struct bpf_tc_hook *hook);
	int (*tc_attach)(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);
	int (*tc_detach)(const struct bpf_tc_hook *hook, const struct bpf_tc_opts *opts);
} lib;

static const char *const names[PROGRAMS] = {"shield", "paths", "steer", "tunsteer", "relay"};

/* The handle is kept for the life of the process. */
static bool lib_load(void)
{
	const struct {
		void **function;
		const char *name;
	} wanted[] = {
		{(void **)&lib.set_print, "libbpf_set_print"},
		{(void **)&lib.open_file, "bpf_object__open_file"},
		{(void **)&lib.load, "bpf_object__load"},
		{(void **)&lib.close, "bpf_object__close"},
		{(void **)&lib.find_program, "bpf_object__find_program_by_name"},
		{(void **)&lib.program_fd, "bpf_program__fd"},
		{(void **)&lib.find_map_fd, "bpf_object__find_map_fd_by_name"},
		{(void **)&lib.possible_cpus, "libbpf_num_possible_cpus"},
		{(void **)&lib.hook_create, "bpf_tc_hook_create"},
		{(void **)&lib.tc_attach, "bpf_tc_attach"},
		{(void **)&lib.tc_detach, "bpf_tc_detach"},
	};
	void *library;

	if (lib.library)
		return true;
	library = dlopen("libbpf.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return false;
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		*wanted[i].function = dlsym(library, wanted[i].name);
		if (!*wanted[i].function) {
			dlclose(library);
			return false;
		}
	}
	lib.set_print(NULL);
	lib.library = library;
	return true;
}

static struct bpf_object *load_object(const char *folder, const char *name, char *error,
				      size_t error_bytes)
{
	struct bpf_object *object;
	char path[4096];

	if (snprintf(path, sizeof(path), "%s/%s.bpf.o", folder, name) >= (int)sizeof(path) ||
	    access(path, R_OK)) {
		snprintf(error, error_bytes,
			 "%s is missing (`make build` with clang and libbpf-dev)", path);
		return NULL;
	}
	object = lib.open_file(path, NULL);
	if (!object) {
		snprintf(error, error_bytes, "%s: %s", path, strerror(errno));
		return NULL;
	}
	if (lib.load(object)) {
		if (errno == EPERM || errno == EACCES)
			snprintf(error, error_bytes,
				 "the kernel does not let us load %s: it takes CAP_BPF, "
				 "CAP_PERFMON and CAP_NET_ADMIN at start, and Linux 5.19",
				 name);
		else
			snprintf(error, error_bytes,
				 "the kernel refuses %s: %s (Linux 5.19 or newer is needed)", name,
				 strerror(errno));
		lib.close(object);
		return NULL;
	}
	return object;
}

static int program_of(const struct ws_bpf *bpf, int which, const char *name)
{
	struct bpf_program *program;

	program = bpf->object[which] ? lib.find_program(bpf->object[which], name) : NULL;
	return program ? lib.program_fd(program) : -1;
}

static int map_of(const struct ws_bpf *bpf, int which, const char *name)
{
	int fd = bpf->object[which] ? lib.find_map_fd(bpf->object[which], name) : -1;

	return fd < 0 ? -1 : fd;
}

static void find_all(struct ws_bpf *bpf)
{
	bpf->program.shield_tc[0] = program_of(bpf, SHIELD, "shield_tc");
	bpf->program.shield_tc[1] = program_of(bpf, SHIELD, "shield_tc_bare");
	bpf->program.shield_xdp = program_of(bpf, SHIELD, "shield_xdp");
	bpf->program.paths_in[0] = program_of(bpf, PATHS, "paths_in");
	bpf->program.paths_in[1] = program_of(bpf, PATHS, "paths_in_bare");
	bpf->program.paths_out[0] = program_of(bpf, PATHS, "paths_out");
	bpf->program.paths_out[1] = program_of(bpf, PATHS, "paths_out_bare");
	bpf->program.steer = program_of(bpf, STEER, "steer");
	bpf->program.tunsteer = program_of(bpf, TUNSTEER, "tunsteer");
	bpf->program.relay = program_of(bpf, RELAY, "relay_tc");
	bpf->map.ports = map_of(bpf, SHIELD, "ports");
	bpf->map.locals = map_of(bpf, SHIELD, "locals");
	bpf->map.known = map_of(bpf, SHIELD, "known");
	bpf->map.known_cells = map_of(bpf, SHIELD, "known_cells");
	bpf->map.limits = map_of(bpf, SHIELD, "limits");
	bpf->map.counts = map_of(bpf, SHIELD, "counts");
	bpf->map.awaited = map_of(bpf, SHIELD, "awaited");
	bpf->map.awaited_cells = map_of(bpf, SHIELD, "awaited_cells");
	bpf->map.path_ports = map_of(bpf, PATHS, "ports");
	bpf->map.paths = map_of(bpf, PATHS, "paths");
	bpf->map.strangers = map_of(bpf, PATHS, "strangers");
	bpf->map.groups = map_of(bpf, STEER, "groups");
	bpf->map.sockets = map_of(bpf, STEER, "sockets");
	bpf->map.workers = map_of(bpf, STEER, "workers");
	bpf->map.steer_counts = map_of(bpf, STEER, "counts");
	bpf->map.owners = map_of(bpf, TUNSTEER, "owners");
	bpf->map.tunsteer_counts = map_of(bpf, TUNSTEER, "counts");
	bpf->map.relay_ports = map_of(bpf, RELAY, "ports");
	bpf->map.relay_locals = map_of(bpf, RELAY, "locals");
	bpf->map.relay_bound = map_of(bpf, RELAY, "bound");
	bpf->map.relay_slots = map_of(bpf, RELAY, "slots");
	bpf->map.relay_shares = map_of(bpf, RELAY, "shares");
	bpf->map.relay_state = map_of(bpf, RELAY, "state");
	bpf->map.relay_tallies = map_of(bpf, RELAY, "tallies");
	bpf->map.relay_counts = map_of(bpf, RELAY, "counts");
}

ws_bpf *ws_bpf_open(const char *folder, uint32_t programs, uint32_t tag, char *error,
		    size_t error_bytes)
{
	char line[4352];
	struct ws_bpf *bpf;

	error[0] = '\0';
	if (!lib_load()) {
		snprintf(error, error_bytes, "libbpf.so.1 is missing (apt install libbpf1)");
		return NULL;
	}
	bpf = calloc(1, sizeof(*bpf));
	if (!bpf)
		goto no_memory;
	bpf->tag = tag;
	if (getrandom(&bpf->seed, sizeof(bpf->seed), 0) != sizeof(bpf->seed)) {
		snprintf(error, error_bytes, "no random numbers");
		free(bpf);
		return NULL;
	}
	bpf->cpus = lib.possible_cpus();
	if (bpf->cpus < 1)
		goto no_memory;
	bpf->per_cpu = calloc((size_t)bpf->cpus, sizeof(struct ws_path_value));
	if (!bpf->per_cpu)
		goto no_memory;
	for (int i = 0; i < PROGRAMS; i++) {
		if (!(programs >> i & 1))
			continue;
		bpf->object[i] = load_object(folder, names[i], line, sizeof(line));
		if (!bpf->object[i] && !error[0])
			snprintf(error, error_bytes, "%s", line);
	}
	find_all(bpf);
	bpf->relay = bpf->object[RELAY] ? ws_bpf_relay_new(bpf) : NULL;
	if (bpf->object[RELAY] && !bpf->relay) {
		lib.close(bpf->object[RELAY]);
		bpf->object[RELAY] = NULL;
		find_all(bpf);
		if (!error[0])
			snprintf(error, error_bytes, "no memory for the maps of relay");
	}
	if (ws_bpf_loaded(bpf))
		return bpf;
	ws_bpf_free(bpf);
	return NULL;
no_memory:
	snprintf(error, error_bytes, "no memory");
	if (bpf)
		ws_bpf_free(bpf);
	return NULL;
}

void ws_bpf_objects_close(struct ws_bpf *bpf)
{
	for (int i = 0; i < PROGRAMS; i++) {
		if (bpf->object[i])
			lib.close(bpf->object[i]);
	}
}

int ws_bpf_legacy(const struct ws_bpf *bpf, int program, uint32_t ifindex, bool egress,
		  uint32_t priority)
{
	DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
			    .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	DECLARE_LIBBPF_OPTS(bpf_tc_opts, opts, .handle = bpf->tag, .priority = priority);
	int error;

	if (program < 0)
		return lib.tc_detach(&hook, &opts);
	error = lib.hook_create(&hook);
	if (error && error != -EEXIST)
		return error;
	/* REPLACE: what a killed agent of the same tag left is taken over. */
	opts.flags = BPF_TC_F_REPLACE;
	opts.prog_fd = program;
	return lib.tc_attach(&hook, &opts);
}
#else
ws_bpf *ws_bpf_open(const char *folder, uint32_t programs, uint32_t tag, char *error,
		    size_t error_bytes)
{
	(void)folder;
	(void)programs;
	(void)tag;
	snprintf(error, error_bytes, "built without libbpf (apt install libbpf-dev, make build)");
	return NULL;
}

void ws_bpf_objects_close(struct ws_bpf *bpf)
{
	(void)bpf;
}

int ws_bpf_legacy(const struct ws_bpf *bpf, int program, uint32_t ifindex, bool egress,
		  uint32_t priority)
{
	(void)bpf;
	(void)program;
	(void)ifindex;
	(void)egress;
	(void)priority;
	return -ENOTSUP;
}
#endif
