/* SPDX-License-Identifier: MIT */
/*
 * The engine whole with several paths: scheduling, feedback, second copies, alignment and the
 * reordering buffer, under a clock that the input moves.
 *
 * Peers 0 and 1 are each other's other end: what the engine sends to one lies in flight until the
 * input says that it arrives, gets lost, comes twice, late or damaged. Peer 2 holds keys and says
 * what the input wants. Input: records of an operation byte, a length byte and that many bytes.
 *
 *  op % 8 = 0: packets from the TUN device for peer 0 or 1, whole or a super-packet
 *           1: datagrams in flight arrive, in any order, or do not
 *           2: time passes, and what is due is done
 *           3: the paths of a peer are others
 *           4: parameters of a path or a peer
 *           5: peer 2 sends: a frame as the input has it, a data frame, an ACK
 *           6: what else Python says: new keys, control frames, a rescue, a restart
 *           7: the bytes are what the TUN device gave, for peer 2
 *
 * Invariants: what leaves opens under its key, each number of a path once and in order; what
 * reaches the TUN device is whole IP packets from the sender's own addresses; between peers 0 and 1
 * each packet arrives unchanged and at most once.
 */
#include "packet/frame.h"
#include "session/paths.h"
#include "session/receive.h"
#include "session/seal.h"
#include "session/send.h"
#include "session/turn.h"

#include "multipath/ack.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000ULL
#define MTU 1420
#define PEERS 3
#define ADVERSARY 2
#define IN_FLIGHT 256
#define FLIGHT_BYTES 2048
#define BATCH 32
#define SERIALS (1u << 16)
#define PORT 7777
#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

struct flight {
	size_t len;
	uint32_t path;
	uint8_t data[FLIGHT_BYTES];
};

static ws_engine *engine;
static struct ws_aead *other;
static uint64_t now_ns;
static struct ws_tx tx;
static uint8_t tx_data[WS_BUFFER_BYTES];
static struct flight flights[IN_FLIGHT];
static uint32_t flying;
static uint8_t seen[SERIALS / 8];
static uint32_t next_serial;
/* Renewals so far, by peer; a message's index is (generation << 4) + receiver. */
static uint32_t generation[PEERS];
static uint64_t next_number[PEERS][WS_PATH_COUNT]; /* least that may leave towards this receiver */
static uint64_t said[WS_PATH_COUNT]; /* peer 2's numbers */
static uint64_t datagrams;
static uint32_t made, first_made; /* bits of peers; of the loop's */

/* Peers are made anew for each input: their memory is to be used again. */
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
	return "quarantine_size_mb=4:max_free_fill_size=0:max_malloc_fill_size=0";
}

/* In place of csrc/worker/clock.c. */
uint64_t ws_now_ns(void)
{
	return now_ns;
}

static void tell(void)
{
	fprintf(stderr, "stat::datagrams: %llu\n", (unsigned long long)datagrams);
}

/* keys */

/* The key of what goes to `receiver`: 0 and 1 are the loop's ends, 2 is we, 3 is peer 2. */
static void key_of(uint8_t key[WS_KEY_BYTES], uint32_t gen, uint32_t receiver)
{
	memset(key, 0, WS_KEY_BYTES);
	key[0] = (uint8_t)gen;
	key[1] = (uint8_t)(gen >> 8);
	key[2] = (uint8_t)(1 + receiver);
}

static uint32_t index_of(uint32_t gen, uint32_t receiver)
{
	return gen << 4 | receiver;
}

/* Who gets what we send to this peer. */
static uint32_t receiver_of(uint32_t peer)
{
	return peer == ADVERSARY ? 3 : 1 - peer;
}

static void renew(uint32_t peer, bool initiator)
{
	struct ws_keypair keypair = {
		.created_ns = now_ns,
		.reject_after_ns = 180 * WS_SECOND_NS,
		.rekey_after_ns = 120 * WS_SECOND_NS,
		.rekey_after_messages = UINT64_MAX / 2,
		.reject_after_messages = UINT64_MAX / 2,
		.initiator = initiator,
	};
	uint32_t gen = generation[peer];

	keypair.local_index = index_of(gen, peer);
	keypair.remote_index = index_of(gen, receiver_of(peer));
	key_of(keypair.send_key, gen, receiver_of(peer));
	key_of(keypair.receive_key, gen, peer);
	MUST(!ws_peer_install_keypair(engine, (int)peer, &keypair));
}

/* Both ends of the loop, or peer 2. */
static void renew_session(uint32_t peer, uint8_t how)
{
	uint32_t gen = ++generation[peer];

	if (peer == ADVERSARY) {
		memset(next_number[ADVERSARY], 0, sizeof(next_number[ADVERSARY]));
		renew(peer, !(how & 1));
		return;
	}
	gen = generation[0] > generation[1] ? generation[0] : generation[1];
	generation[0] = generation[1] = gen;
	memset(next_number, 0, 2 * sizeof(next_number[0]));
	/* The responder waits for the first message, or (a response got lost) goes on for a while. */
	renew(how & 1, false);
	if (!(how & 2))
		renew(1 - (how & 1), true);
}

/* what leaves */

static struct ws_tx *tx_get(struct ws_worker *worker)
{
	(void)worker;
	tx.data = tx_data;
	return &tx;
}

static void in_flight(const uint8_t *data, size_t len, uint32_t path)
{
	struct flight *flight = &flights[flying];

	if (flying == IN_FLIGHT || len > FLIGHT_BYTES)
		return; /* lost */
	memcpy(flight->data, data, len);
	flight->len = len;
	flight->path = path;
	flying++;
}

static void tx_submit(struct ws_worker *worker, struct ws_tx *sent)
{
	static uint8_t plain[WS_BUFFER_BYTES];

	(void)worker;
	if (sent->peer < 0) { /* a cookie reply */
		MUST(sent->len == WS_COOKIE_REPLY_BYTES);
		return;
	}
	MUST(sent == &tx && sent->len <= WS_TX_MAX_BYTES && sent->count <= WS_TX_MAX_SEGMENTS);
	MUST(sent->stride && sent->len <= sent->stride * sent->count &&
	     sent->len > sent->stride * (sent->count - 1));
	for (uint32_t at = 0; at < sent->len; at += sent->stride) {
		size_t len = sent->len - at < sent->stride ? sent->len - at : sent->stride;
		uint8_t *data = sent->data + at, key[WS_KEY_BYTES];
		uint64_t counter, number;
		uint32_t index, receiver, path;

		memcpy(&index, data + 4, sizeof(index));
		memcpy(&counter, data + 8, sizeof(counter));
		index = le32toh(index);
		counter = le64toh(counter);
		receiver = index & 15;
		path = (uint32_t)(counter >> WS_PATH_SHIFT);
		number = counter & ((UINT64_C(1) << WS_PATH_SHIFT) - 1);
		MUST(data[0] == WS_MSG_TRANSPORT && path < WS_PATH_COUNT);
		MUST(receiver <= 1 || receiver == 3);
		key_of(key, index >> 4, receiver);
		MUST(ws_aead_open(other, key, counter, plain, data + 16, len - 16));
		/* Never the same nonce again. A key that was replaced may still be in use. */
		if (index >> 4 == generation[receiver == 3 ? ADVERSARY : receiver]) {
			uint64_t *next = &next_number[receiver == 3 ? ADVERSARY : receiver][path];

			MUST(number >= *next);
			*next = number + 1;
		}
		if (len > 32)
			MUST(plain[0] & WS_FRAME_DATA || plain[0] >> 4 == WS_FRAME_CONTROL_NIBBLE ||
			     plain[0] >> 4 == 4 || plain[0] >> 4 == 6);
		if (receiver <= 1)
			in_flight(data, len, path);
	}
}

static void tx_flush(struct ws_worker *worker)
{
	(void)worker;
}

/* what arrives */

static uint8_t fill(uint32_t serial, size_t at)
{
	return (uint8_t)(serial * 31 + at * 7 + (serial >> 8));
}

/* Each segment begins with its serial. */
static void payload(const uint8_t *data, size_t len, size_t segment)
{
	while (len) {
		size_t bytes = len < segment ? len : segment;
		uint32_t serial;

		MUST(bytes >= 8);
		memcpy(&serial, data, sizeof(serial));
		MUST(serial < next_serial && !(seen[serial / 8] >> serial % 8 & 1));
		seen[serial / 8] |= (uint8_t)(1u << serial % 8);
		for (size_t i = 4; i < bytes; i++)
			MUST(data[i] == fill(serial, i));
		data += bytes;
		len -= bytes;
	}
}

static void tun_write(struct ws_worker *worker, const struct iovec *iov, uint32_t count,
		      uint32_t packets)
{
	static uint8_t packet[2 * WS_BUFFER_BYTES];
	uint16_t gso_size;
	size_t len = 0;

	(void)worker, (void)packets;
	MUST(count >= 2 && iov[0].iov_len == WS_VNET_BYTES);
	memcpy(&gso_size, (const uint8_t *)iov[0].iov_base + 4, sizeof(gso_size));
	for (uint32_t i = 1; i < count; i++) {
		MUST(len + iov[i].iov_len <= sizeof(packet));
		memcpy(packet + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	if (packet[0] >> 4 == 6) {
		MUST(len == 40 + ((size_t)packet[4] << 8 | packet[5]) && packet[8] == 0xfd);
		return;
	}
	MUST(packet[0] >> 4 == 4 && len == ((size_t)packet[2] << 8 | packet[3]));
	MUST(packet[12] >= 10 && packet[12] <= 12);
	if (packet[12] == 12)
		return; /* peer 2 says what it likes */
	MUST(packet[0] == 0x45 && packet[9] == 17 && packet[16] == 21 - packet[12]);
	MUST(((uint32_t)packet[22] << 8 | packet[23]) == PORT && len > 28);
	payload(packet + 28, len - 28, gso_size ? gso_size : len - 28);
}

static const struct ws_io_ops ops = {
	.name = "fuzz",
	.tx_get = tx_get,
	.tx_submit = tx_submit,
	.tx_flush = tx_flush,
	.tun_write = tun_write,
};

/* Every datagram ends in one counter at least, or on its way to the TUN device. */
static void receive(struct ws_worker *worker, uint8_t *data, size_t len, uint32_t from, uint8_t tos)
{
	union ws_sockaddr source = {.in = {.sin_family = AF_INET}};
	struct ws_rx rx = {.data = data, .len = len, .from = &source, .tos = tos & 3, .socket = -1};

	source.in.sin_port = (in_port_t)(1 + from);
	source.in.sin_addr.s_addr = htobe32(0x7f000001);
	datagrams++;
	worker->now_ns = now_ns;
	ws_receive(worker, &rx);
}

/* An input's own world */

static void parameters(uint32_t peer)
{
	const struct ws_multipath_params tune = {.scheduler = 0,
						 .repair = 1,
						 .repair_age_us = 200000,
						 .reorder_depth = 512,
						 .loss_wait_us = 20000,
						 .path_idle_us = 200000,
						 .ack_interval_us = 10000,
						 .align = 1};
	struct ws_path_params path = {
		.srtt_us = 10000, .cap_permille = 1000, .max_packet = MTU, .rescue_us = 50000};

	MUST(!ws_peer_tune(engine, (int)peer, &tune));
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		path.srtt_us = 10000 + i * 3000;
		MUST(!ws_peer_tune_path(engine, (int)peer, i, &path));
	}
}

static void set_paths(uint32_t peer, uint8_t present, uint8_t usable, uint32_t flags, uint16_t port)
{
	struct ws_path paths[WS_PATH_COUNT];
	size_t count = 0;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (present >> i & 1)
			paths[count++] = (struct ws_path){
				.id = i,
				.usable = usable >> i & 1,
				.remote = {.family = 4,
					   .port = (uint16_t)(port + i + 1),
					   .ip = {127, 0, 0, 1}},
			};
	MUST(!ws_peer_set_paths(engine, (int)peer, paths, count, flags));
}

static void fresh(void)
{
	const struct ws_config config = {.workers = 1, .mtu = MTU, .cipher = WS_CIPHER_OPENSSL};

	if (!engine) {
		now_ns = 1000 * WS_SECOND_NS;
		other = ws_aead_new(WS_CIPHER_OPENSSL);
		engine = ws_engine_new(&config, NULL, 0);
		MUST(other && engine);
		engine->worker[0]->io = &ops;
		atexit(tell);
	}
	/* What waits for its turn is delivered: it is of the input before, and judged by that. */
	for (uint32_t i = 0; i < PEERS; i++)
		(void)ws_peer_remove(engine, (int)i);
	now_ns = 1000 * WS_SECOND_NS;
	flying = next_serial = 0;
	memset(seen, 0, sizeof(seen));
	memset(said, 0, sizeof(said));
	memset(next_number, 0, sizeof(next_number));
	for (int i = 0; i < PEERS; i++)
		MUST(ws_peer_add(engine) == i);
	made = 0;
}

/* A peer's buffers cost more than most inputs: only those that it speaks of. */
static void make(uint32_t peer)
{
	const struct ws_prefix prefixes[] = {{.family = 4, .cidr = 8, .ip = {(uint8_t)(10 + peer)}},
					     {.family = 6, .cidr = 8, .ip = {0xfd}}};
	const struct ws_addr remote = {.family = 4, .port = 1, .ip = {127, 0, 0, 1}}, none = {0};
	int number = (int)peer;

	if (made >> peer & 1)
		return;
	if (peer != ADVERSARY && !(made & 3))
		first_made = peer;
	made |= 1u << peer;
	MUST(!ws_peer_set_allowed_ips(engine, number, prefixes, peer == ADVERSARY ? 2 : 1));
	MUST(!ws_peer_set_endpoint(engine, number, &remote, &none, 0));
	MUST(!ws_peer_set_frames(engine, number, WS_FRAMES_BUNDLES, 0));
	MUST(!ws_peer_multipath(engine, number, MTU, 0));
	parameters(peer);
	set_paths(peer, 3, 3, true, 0);
	/* Both ends of the loop, or neither. */
	if (peer != ADVERSARY)
		make(1 - peer);
	if (peer == ADVERSARY || peer == first_made)
		renew_session(peer, 0);
}

static uint32_t byte(const uint8_t *data, size_t len, size_t at)
{
	return at < len ? data[at] : 0;
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* A UDP packet of so many segments, each with a serial of its own, left to us to cut. */
static void from_tun(struct ws_worker *worker, uint32_t peer, uint32_t segment, uint32_t segments,
		     uint8_t tos)
{
	static uint8_t frame[WS_BUFFER_BYTES];
	uint8_t *packet = frame + WS_VNET_BYTES;
	size_t len = 28 + (size_t)segment * segments;
	uint32_t sum = 0;

	if (next_serial + segments > SERIALS || len > 65535)
		return;
	memset(frame, 0, WS_VNET_BYTES + 28);
	frame[0] = 1; /* NEEDS_CSUM, from the UDP header on */
	frame[6] = 20;
	frame[8] = 6;
	if (segments > 1) {
		frame[1] = 5; /* VIRTIO_NET_HDR_GSO_UDP_L4 */
		frame[2] = 28;
		frame[4] = (uint8_t)segment;
		frame[5] = (uint8_t)(segment >> 8);
	}
	packet[0] = 0x45;
	packet[1] = tos;
	put16(packet + 2, (uint32_t)len);
	put16(packet + 4, next_serial);
	put16(packet + 6, 0x4000);
	packet[8] = 64;
	packet[9] = 17;
	packet[12] = (uint8_t)(11 - peer); /* from the address that the other end allows */
	packet[16] = (uint8_t)(10 + peer);
	for (int i = 0; i < 20; i += 2)
		sum += (uint32_t)packet[i] << 8 | packet[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	put16(packet + 10, ~((sum & 0xffff) + (sum >> 16)));
	put16(packet + 20, 1000 + (next_serial & 3)); /* a few flows */
	put16(packet + 22, PORT);
	put16(packet + 24, (uint32_t)(len - 20));
	for (uint32_t k = 0; k < segments; k++) {
		uint8_t *at = packet + 28 + (size_t)k * segment;

		memcpy(at, &next_serial, 4);
		for (uint32_t i = 4; i < segment; i++)
			at[i] = fill(next_serial, i);
		next_serial++;
	}
	/* The pseudo header's sum. */
	sum = ((uint32_t)packet[12] + packet[16]) << 8;
	sum += 17 + (uint32_t)(len - 20);
	put16(packet + 26, (sum & 0xffff) + (sum >> 16));
	worker->now_ns = now_ns;
	ws_send_packet(worker, frame, WS_VNET_BYTES + len);
}

static void arrive(struct ws_worker *worker, const uint8_t *data, size_t len)
{
	/* What is merged stays where it came in until the flush. */
	static uint8_t buffers[BATCH][FLIGHT_BYTES];

	for (size_t i = 0; i < len && flying; i++) {
		uint8_t *buffer = buffers[i % BATCH];

		/* The oldest, or one of those behind it. */
		uint32_t pick = data[i] & 0x80 ? (data[i] >> 2 & 31) % flying : 0;
		struct flight *flight = &flights[pick];
		uint8_t how = data[i] & 3;
		size_t bytes = flight->len;
		uint32_t path = flight->path;

		if (i % BATCH == 0)
			ws_receive_flush(worker);
		memcpy(buffer, flight->data, bytes);
		if (how == 1)
			receive(worker, buffer, bytes, path, 0); /* and comes once more */
		if (how != 1) {
			memmove(flight, flight + 1, (flying - pick - 1) * sizeof(*flight));
			flying--;
		}
		if (how == 2)
			continue; /* lost */
		if (how == 3 && data[i] & 0x40) {
			uint64_t auth = worker->stats.drops[WS_DROP_AUTH];
			uint64_t delivered = worker->stats.rx_packets;

			buffer[16 + data[i] % (bytes - 16)] ^= 4;
			receive(worker, buffer, bytes, path, 0);
			MUST(worker->stats.drops[WS_DROP_AUTH] <= auth + 1);
			MUST(worker->stats.rx_packets == delivered);
			continue;
		}
		if (how != 1)
			receive(worker, buffer, bytes, how == 3 ? path + 100 : path,
				data[i] >> 4 & 3);
	}
	ws_receive_flush(worker);
	ws_seal_flush(worker);
}

/* Peer 2's message, sealed as its next on this path. */
static void say(struct ws_worker *worker, uint32_t path, const uint8_t *plain, size_t len,
		uint32_t skip, uint8_t tos)
{
	static uint8_t message[WS_BUFFER_BYTES];
	uint32_t index = htole32(index_of(generation[ADVERSARY], ADVERSARY));
	uint64_t counter, wire;
	uint8_t key[WS_KEY_BYTES];

	said[path] += skip;
	counter = said[path]++ | (uint64_t)path << WS_PATH_SHIFT;
	wire = htole64(counter);
	memset(message, 0, 16);
	message[0] = WS_MSG_TRANSPORT;
	memcpy(message + 4, &index, 4);
	memcpy(message + 8, &wire, 8);
	key_of(key, generation[ADVERSARY], ADVERSARY);
	ws_aead_seal(other, key, counter, message + 16, plain, len);
	receive(worker, message, len + 32, path + 50, tos);
	ws_receive_flush(worker);
	ws_seal_flush(worker);
}

/* A data frame of one packet or a bundle of two, the seq near the last one. */
static void say_data(struct ws_worker *worker, uint32_t path, const uint8_t *data, size_t len)
{
	static uint32_t seq;
	uint8_t frame[WS_FRAME_HEADER_BYTES + 200] = {0};
	uint32_t size = 20 + byte(data, len, 2) % 60, count = 1;
	uint8_t flags = (uint8_t)byte(data, len, 0) & WS_FRAME_FLAGS;
	size_t at = WS_FRAME_HEADER_BYTES;

	seq += (uint32_t)(int32_t)(int8_t)byte(data, len, 1);
	ws_frame_encode(frame, flags, now_ns - byte(data, len, 3) * MS, seq);
	if (flags & WS_FRAME_BUNDLE)
		count = 2;
	for (uint32_t i = 0; i < count; i++) {
		if (flags & WS_FRAME_BUNDLE) {
			frame[at++] = (uint8_t)size;
			frame[at++] = 0;
		}
		frame[at] = 0x45;
		put16(frame + at + 2, size);
		frame[at + 9] = (uint8_t)(byte(data, len, 4) & 1 ? 6 : 17);
		frame[at + 12] = 12;
		frame[at + 16] = 10;
		if (size >= 40 && frame[at + 9] == 6) {
			frame[at + 32] = 0x50;
			frame[at + 33] = 0x10; /* ACK, nothing else: may wait for others */
		}
		at += size;
	}
	seq++;
	say(worker, path, frame, at, 0, 0);
}

/* An ACK near the truth, or past it. */
static void say_ack(struct ws_worker *worker, uint32_t path, const uint8_t *data, size_t len)
{
	struct ws_ack ack = {.time_us = (uint32_t)(now_ns / 1000),
			     .next_seq = byte(data, len, 0),
			     .path_count = 1 + byte(data, len, 1) % 3};
	uint8_t frame[WS_ACK_MAX_BYTES];

	for (uint32_t i = 0; i < ack.path_count; i++) {
		uint32_t id = (path + i) % WS_PATH_COUNT;
		uint64_t sent = next_number[ADVERSARY][id];
		uint32_t less = byte(data, len, 2 + i * 3);

		ack.paths[i] = (struct ws_ack_path){
			.path = (uint8_t)id,
			.hold_16us = (uint16_t)byte(data, len, 3 + i * 3),
			.highest = (uint32_t)(sent - less),
			.datagrams = (uint32_t)(sent - less - byte(data, len, 4 + i * 3)),
			.bytes = 100 * (sent - less),
			.arrived_us = (uint32_t)(now_ns / 1000),
			.echo_us = (uint32_t)(now_ns / 1000 - 1000 * less) & 0xffffff,
		};
	}
	ack.gap_count = (uint8_t)(byte(data, len, 12) % 4);
	for (uint32_t i = 0; i < ack.gap_count; i++)
		ack.gaps[i] = (struct ws_ack_gap){ack.next_seq + byte(data, len, 13 + i),
						  (uint16_t)(1 + byte(data, len, 16 + i))};
	say(worker, path, frame, ws_ack_encode(&ack, frame), 0, 0);
}

static void tune(uint32_t peer, const uint8_t *data, size_t len)
{
	const struct ws_multipath_params all = {.scheduler = byte(data, len, 0) % 5,
						.repair = byte(data, len, 5) & 1,
						.repair_age_us = byte(data, len, 6) * 1000,
						.reorder_depth = 1 + byte(data, len, 7) * 17,
						.loss_wait_us = byte(data, len, 9) * 500,
						.path_idle_us = byte(data, len, 10) * 1000,
						.deliver_late = byte(data, len, 5) >> 1 & 1,
						.ack_interval_us = byte(data, len, 11) * 500,
						.align = byte(data, len, 5) >> 2 & 1,
						.loose_hold_us = byte(data, len, 15) * 1000};
	const struct ws_path_params one = {.srtt_us = byte(data, len, 3) * 1000,
					   .cap_permille = byte(data, len, 4) * 5,
					   .tier = byte(data, len, 5) & 3,
					   .degraded = byte(data, len, 5) >> 2 & 1,
					   .max_packet = 576 + byte(data, len, 7) * 4,
					   .rescue_us = byte(data, len, 8) * 1000};

	if (len > 9)
		MUST(!ws_peer_tune(engine, (int)peer, &all));
	else
		MUST(!ws_peer_tune_path(engine, (int)peer, byte(data, len, 0) % WS_PATH_COUNT,
					&one));
}

static void python(uint32_t peer, const uint8_t *data, size_t len)
{
	uint8_t frame[64] = {(uint8_t)(0x10 | (byte(data, len, 2) & 15)), 1, 0, WS_HEARTBEAT_ASK};
	uint32_t path = byte(data, len, 1) % WS_PATH_COUNT;

	switch (byte(data, len, 0) % 8) {
	case 0:
		renew_session(peer, (uint8_t)byte(data, len, 1));
		break;
	case 1:
		(void)ws_peer_send_path_control(engine, (int)peer, path, frame,
						4 + byte(data, len, 3) % 60,
						byte(data, len, 4) * 6);
		break;
	case 2:
		(void)ws_peer_rescue_path(engine, (int)peer, path);
		break;
	case 3: /* a restart of the loop's ends would bring what came before once more */
		(void)ws_peer_multipath(engine, ADVERSARY, MTU, 1);
		break;
	case 4:
		(void)ws_peer_clear_keypairs(engine, (int)peer);
		break;
	case 5:
		(void)ws_peer_set_frames(engine, (int)peer, 1 + byte(data, len, 1) % 2,
					 byte(data, len, 2) * 6);
		break;
	case 6:
		(void)ws_peer_drop_staged(engine, (int)peer);
		break;
	default:
		(void)ws_peer_send_keepalive(engine, (int)peer);
	}
}

static void drain(void)
{
	static struct ws_upcall upcall;

	while (ws_upcall_next(engine, &upcall))
		MUST(upcall.peer >= -1 && upcall.peer < PEERS && upcall.path < WS_PATH_COUNT);
}

static void act(struct ws_worker *worker, uint8_t op, const uint8_t *data, size_t len)
{
	uint32_t peer = (op >> 3) % PEERS;
	static uint8_t frame[512];

	make((op & 7) == 5 || (op & 7) == 7 ? ADVERSARY : (op & 7) == 0 ? peer & 1 : peer);
	switch (op & 7) {
	case 0:
		from_tun(worker, peer & 1, 8 + byte(data, len, 0) * 5, 1 + byte(data, len, 1) % 48,
			 (uint8_t)(byte(data, len, 2) & 3));
		ws_seal_flush(worker);
		break;
	case 1:
		arrive(worker, data, len);
		break;
	case 2:
		now_ns += (byte(data, len, 0) + 256ULL * byte(data, len, 1)) * MS / 20;
		if (op >> 3 == 31)
			now_ns += 100 * WS_SECOND_NS;
		break;
	case 3:
		set_paths(peer, (uint8_t)byte(data, len, 0), (uint8_t)byte(data, len, 1),
			  byte(data, len, 2) & (WS_PATHS_SCHEDULE | WS_PATHS_KEEP),
			  (uint16_t)(byte(data, len, 3) * 100));
		break;
	case 4:
		tune(peer, data, len);
		break;
	case 5:
		if (op >> 6 == 0)
			say_data(worker, op >> 3 & 7, data, len);
		else if (op >> 6 == 1)
			say_ack(worker, op >> 3 & 7, data, len);
		else
			say(worker, op >> 3 & 7, data, len, op >> 6 & 1, byte(data, len, 0) & 3);
		break;
	case 6:
		python(peer, data, len);
		break;
	default:
		memcpy(frame, data, len);
		if (len > WS_VNET_BYTES + 20 && frame[WS_VNET_BYTES] >> 4 == 4)
			frame[WS_VNET_BYTES + 16] = 12;
		worker->now_ns = now_ns;
		ws_send_packet(worker, frame, len);
		ws_seal_flush(worker);
	}
	worker->now_ns = now_ns;
	ws_paths_tick(worker);
	(void)ws_turn_wait_ns(worker);
	drain();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fresh();
	while (size >= 2) {
		uint8_t op = data[0];
		size_t len = data[1];

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		act(engine->worker[0], op, data, len);
		data += len;
		size -= len;
	}
	return 0;
}
