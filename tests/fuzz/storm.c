/* SPDX-License-Identifier: MIT */
/*
 * A fuzz target without libFuzzer, for numbers: inputs put together of the corpus and changed at
 * random, many times as many a second, nothing learned. The target's invariants and the sanitizers
 * are the same.
 *
 *   storm_<name> SECONDS SEED FILE...      an input follows from the seed and its number
 *   storm_<name> SECONDS SEED@N FILE...    begin with input N: how a failure is run again
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX_BYTES (64 << 10)
#define MAX_FILES 4096
#define PIECES 48

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void));

static struct {
	uint8_t *data;
	size_t len;
} files[MAX_FILES];
static size_t file_count;
static uint64_t seed, number, state;

/* splitmix64 */
static uint64_t draw(void)
{
	uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static void told(void)
{
	fprintf(stderr, "failed: run again from %llu@%llu\n", (unsigned long long)seed,
		(unsigned long long)number);
}

static void on_abort(int signal)
{
	(void)signal;
	told();
	_exit(1);
}

static void read_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = malloc(MAX_BYTES);
	size_t len;

	if (!file || !data || file_count == MAX_FILES) {
		fprintf(stderr, "%s: cannot be read\n", path);
		exit(2);
	}
	len = fread(data, 1, MAX_BYTES / PIECES, file);
	fclose(file);
	files[file_count].data = data;
	files[file_count++].len = len;
}

static size_t one(uint8_t *out)
{
	size_t len = 0;

	for (uint32_t pieces = 1 + (uint32_t)(draw() % PIECES); pieces; pieces--) {
		size_t which = draw() % file_count, size = files[which].len;
		uint8_t *at = out + len;

		memcpy(at, files[which].data, size);
		/* Half of the pieces as they are: they lead to where the others do harm. */
		for (uint32_t changes = draw() & 1 ? (uint32_t)(draw() % 16) : 0; changes && size;
		     changes--) {
			size_t where = draw() % size;

			switch (draw() % 4) {
			case 0:
				at[where] = (uint8_t)draw();
				break;
			case 1:
				at[where] ^= (uint8_t)(1u << draw() % 8);
				break;
			case 2:
				at[where] = draw() & 1 ? 0xff : 0;
				break;
			default:
				at[where] = at[draw() % size];
			}
		}
		len += size;
	}
	return len;
}

int main(int argc, char **argv)
{
	static uint8_t input[MAX_BYTES];
	struct timeval begun, now;
	char *end;

	if (argc < 4) {
		fprintf(stderr, "storm SECONDS SEED[@N] FILE...\n");
		return 2;
	}
	seed = strtoull(argv[2], &end, 10);
	number = *end == '@' ? strtoull(end + 1, NULL, 10) : 0;
	for (int i = 3; i < argc; i++)
		read_file(argv[i]);
	signal(SIGABRT, on_abort);
	__sanitizer_set_death_callback(told);
	gettimeofday(&begun, NULL);
	do {
		state = seed * UINT64_C(0x5851f42d4c957f2d) + number;
		(void)LLVMFuzzerTestOneInput(input, one(input));
		number++;
		gettimeofday(&now, NULL);
	} while (now.tv_sec - begun.tv_sec < atol(argv[1]));
	fprintf(stderr, "stat::number_of_executed_units: %llu\n", (unsigned long long)number);
	return 0;
}
