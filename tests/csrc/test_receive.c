/* SPDX-License-Identifier: MIT */
/*
 * The engine whole, over a backend that keeps what it is given: which counter
 * takes which first byte of a message's text. With "vectors": lines from
 * standard input, answered for test_frame_vectors.py.
 *
 *  recv PATH TEXT           the text of the peer's next message on a path; out:
 *                           drops REASON:COUNT... | up HEX... | tun PARTIAL:HEX... | next SEQ |
 *                           time US (of the header, as the next ACK echoes it, or "-")
 *  send TIME SEQ CSUM_START CSUM_OFFSET GSO_TYPE GSO_SIZE PACKET
 *                           what the TUN device gave; out: the texts of the messages
 *
 * Each line meets a peer, a session and paths that have seen nothing yet.
 */
#include "engine/thread.h"
#include "multipath/multipath_internal.h"
#include "session/paths.h"
#include "session/receive.h"
#include "session/seal.h"
#include "session/send.h"

#include "check.h"

#include <endian.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define LOCAL_INDEX 7
#define TEXT_MAX 2048
#define KEPT_MAX 64

struct kept {
	size_t len;
	bool partial;
	uint8_t data[TEXT_MAX];
};

static struct kept tun[KEPT_MAX], texts[KEPT_MAX];
static size_t tun_count, text_count, replies;
static ws_engine *engine;
static struct ws_aead *other;
static const uint8_t key_in[WS_KEY_BYTES] = {1}, key_out[WS_KEY_BYTES] = {2};
static uint64_t counters[WS_PATH_COUNT];
static uint8_t tx_data[WS_BUFFER_BYTES];
static struct ws_tx open_tx = {.data = tx_data};

static void must(bool condition)
{
	if (!condition)
		abort();
}

static struct ws_tx *tx_get(struct ws_worker *worker)
{
	(void)worker;
	return &open_tx;
}

static void tx_submit(struct ws_worker *worker, struct ws_tx *tx)
{
	(void)worker;
	if (tx->peer < 0) { /* a cookie reply */
		must(tx->len == WS_COOKIE_REPLY_BYTES && tx->count == 1 &&
		     tx->data[0] == WS_MSG_COOKIE_REPLY);
		replies++;
		return;
	}
	for (uint32_t at = 0; at < tx->len; at += tx->stride) {
		size_t len = tx->len - at < tx->stride ? tx->len - at : tx->stride;
		struct kept *text = &texts[text_count];
		uint64_t counter;

		memcpy(&counter, tx->data + at + 8, sizeof(counter));
		if (text_count == KEPT_MAX || len > TEXT_MAX ||
		    !ws_aead_open(other, key_out, le64toh(counter), text->data,
				  tx->data + at + WS_TRANSPORT_HEADER_BYTES,
				  len - WS_TRANSPORT_HEADER_BYTES))
			abort();
		text->len = len - WS_TRANSPORT_HEADER_BYTES - WS_TAG_BYTES;
		text_count++;
	}
}

static void tx_flush(struct ws_worker *worker)
{
	(void)worker;
}

static void tun_write(struct ws_worker *worker, const struct iovec *iov, uint32_t count,
		      uint32_t packets)
{
	struct kept *packet = &tun[tun_count++];
	struct virtio_net_hdr vnet;

	(void)worker;
	if (tun_count == KEPT_MAX || packets != 1)
		abort();
	memcpy(&vnet, iov[0].iov_base, sizeof(vnet));
	packet->partial = vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	packet->len = 0;
	for (uint32_t i = 1; i < count; i++) {
		if (packet->len + iov[i].iov_len > TEXT_MAX)
			abort();
		memcpy(packet->data + packet->len, iov[i].iov_base, iov[i].iov_len);
		packet->len += iov[i].iov_len;
	}
}

static void destroy(struct ws_worker *worker)
{
	(void)worker;
}

static const struct ws_io_ops ops = {
	.name = "vectors",
	.destroy = destroy,
	.tx_get = tx_get,
	.tx_submit = tx_submit,
	.tx_flush = tx_flush,
	.tun_write = tun_write,
};

/* A peer of which nothing is known but its addresses, 10.0.0.0/8 and fd00::/8. */
static void fresh(bool paths)
{
	const struct ws_config config = {.workers = 1, .mtu = 1420, .cipher = WS_CIPHER_OPENSSL};
	const struct ws_prefix prefixes[] = {{.family = 4, .cidr = 8, .ip = {10}},
					     {.family = 6, .cidr = 8, .ip = {0xfd}}};
	const struct ws_addr remote = {.family = 4, .port = 1, .ip = {127, 0, 0, 1}}, none = {0};
	struct ws_keypair keypair = {
		.local_index = LOCAL_INDEX,
		.remote_index = LOCAL_INDEX + 1,
		.reject_after_ns = UINT64_MAX / 4,
		.rekey_after_ns = UINT64_MAX / 4,
		.rekey_after_messages = UINT64_MAX / 2,
		.reject_after_messages = UINT64_MAX / 2,
		.initiator = 1,
	};

	if (engine)
		must(!ws_peer_remove(engine, 0));
	else
		engine = ws_engine_new(&config, NULL, 0);
	if (!other)
		other = ws_aead_new(WS_CIPHER_OPENSSL);
	memcpy(keypair.send_key, key_out, WS_KEY_BYTES);
	memcpy(keypair.receive_key, key_in, WS_KEY_BYTES);
	must(engine && other && ws_peer_add(engine) == 0);
	engine->worker[0]->io = &ops;
	memset(counters, 0, sizeof(counters));
	must(!ws_peer_set_allowed_ips(engine, 0, prefixes, 2));
	must(!ws_peer_set_endpoint(engine, 0, &remote, &none, 0));
	must(!paths || !ws_peer_multipath(engine, 0, 1500, 0));
	must(!ws_peer_install_keypair(engine, 0, &keypair));
	tun_count = text_count = 0;
}

static void receive_from(uint16_t port, uint32_t path, const uint8_t *text, size_t len)
{
	const union ws_sockaddr from = {.in = {.sin_family = AF_INET, .sin_port = htons(port)}};
	static uint8_t data[TEXT_MAX + 32];
	struct ws_rx rx = {.data = data, .len = len + 32, .from = &from};
	uint64_t number = counters[path % WS_PATH_COUNT]++;
	uint64_t counter = number | (uint64_t)path << WS_PATH_SHIFT, wire = htole64(counter);
	uint32_t index = htole32(LOCAL_INDEX);

	memset(data, 0, 16);
	data[0] = WS_MSG_TRANSPORT;
	memcpy(data + 4, &index, 4);
	memcpy(data + 8, &wire, 8);
	ws_aead_seal(other, key_in, counter, data + 16, text, len);
	engine->worker[0]->rx_serial++; /* as a backend counts its receives */
	ws_receive(engine->worker[0], &rx);
	ws_receive_flush(engine->worker[0]);
}

static void receive_text(uint32_t path, const uint8_t *text, size_t len)
{
	receive_from(1, path, text, len);
}

static void print_hex(const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		printf("%02x", data[i]);
}

static size_t read_hex(const char *from, uint8_t *to, size_t room)
{
	size_t len = 0;
	unsigned byte;

	while (len < room && sscanf(from + 2 * len, "%2x", &byte) == 1)
		to[len++] = (uint8_t)byte;
	return len;
}

static void answer_received(const char *line)
{
	static struct ws_upcall upcall;
	static uint8_t text[TEXT_MAX];
	struct ws_stats before;
	const struct ws_multipath *core;
	unsigned path;
	int at;

	must(sscanf(line, "recv %u %n", &path, &at) == 1);
	fresh(true);
	before = engine->worker[0]->stats;
	receive_text(path, text, read_hex(line + at, text, sizeof(text)));
	printf("drops");
	for (int i = 0; i < WS_DROP_COUNT; i++)
		if (engine->worker[0]->stats.drops[i] != before.drops[i])
			printf(" %d:%d", i,
			       (int)(engine->worker[0]->stats.drops[i] - before.drops[i]));
	printf(" | up");
	while (ws_upcall_next(engine, &upcall))
		if (upcall.type == WS_UP_CONTROL) {
			printf(" ");
			print_hex(upcall.data, upcall.len);
		}
	printf(" | tun");
	for (size_t i = 0; i < tun_count; i++) {
		printf(" %d:", tun[i].partial);
		print_hex(tun[i].data, tun[i].len);
	}
	core = ws_paths_core(engine->peer_by_number[0]->paths);
	printf(" | next %u", core->passed ? core->pass_next : ws_reorder_next(core->reorder));
	if (path < WS_PATH_COUNT && core->rx[path].seen)
		printf(" | time %u\n", core->rx[path].echo_us);
	else
		printf(" | time -\n");
}

static void answer_sent(const char *line)
{
	static uint8_t frame[WS_BUFFER_BYTES];
	unsigned time_us, seq, start, offset, type, size;
	struct virtio_net_hdr vnet;
	size_t len;
	int at;

	must(sscanf(line, "send %u %u %u %u %u %u %n", &time_us, &seq, &start, &offset, &type,
		    &size, &at) == 6);
	vnet = (struct virtio_net_hdr){
		.flags = start ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
		.gso_type = (uint8_t)type,
		.gso_size = (uint16_t)size,
		.csum_start = (uint16_t)start,
		.csum_offset = (uint16_t)offset,
	};
	memcpy(frame, &vnet, sizeof(vnet));
	len = read_hex(line + at, frame + sizeof(vnet), sizeof(frame) - sizeof(vnet));
	fresh(false);
	must(!ws_peer_set_frames(engine, 0, WS_FRAMES_BUNDLES, 0));
	engine->worker[0]->now_ns = (uint64_t)time_us * 1000;
	engine->peer_by_number[0]->data_seq = seq;
	ws_send_packet(engine->worker[0], frame, sizeof(vnet) + len);
	ws_seal_flush(engine->worker[0]);
	for (size_t i = 0; i < text_count; i++) {
		printf(i ? " " : "");
		print_hex(texts[i].data, texts[i].len);
	}
	printf("\n");
}

static int vectors(void)
{
	static char line[1 << 17];

	while (fgets(line, sizeof(line), stdin)) {
		if (line[0] == 'r')
			answer_received(line);
		else
			answer_sent(line);
	}
	return 0;
}

/* Behind every first byte stands the same packet, as a frame and as a bundle would have it. */
static void every_first_byte(void)
{
	static const uint8_t packet[20] = {0x45, 0, 0,	20, 0, 0, 0,  0, 64, 1,
					   0,	 0, 10, 0,  0, 2, 10, 0, 0,  1};

	for (unsigned first = 0; first < 256; first++) {
		uint8_t text[48] = {0};
		const uint64_t *drops;
		bool bundle = (first & 0xa0) == 0xa0;
		bool taken =
			first >= 0x80 && first < 0xc0 && !(first & 2) && !(bundle && first & 0x1c);

		text[0] = (uint8_t)first;
		text[8] = sizeof(packet);
		memcpy(text + (bundle ? 10 : 8), packet, sizeof(packet));
		fresh(true);
		drops = engine->worker[0]->stats.drops;
		/* A copy that is the first to come: nobody knows whether its original came. */
		bool copy = (first & 0x1c) == 0x14;
		uint64_t frame = drops[WS_DROP_FRAME], malformed = drops[WS_DROP_MALFORMED];
		uint64_t up = engine->worker[0]->stats.control_rx;

		receive_text(0, text, sizeof(text));
		CHECK_EQ(tun_count, taken && !copy);
		CHECK_EQ(drops[WS_DROP_FRAME] - frame, first >= 0x80 && !taken);
		/* As an IPv6 header it is whole, and its source is nobody's. */
		CHECK_EQ(drops[WS_DROP_MALFORMED] - malformed,
			 first < 0x80 && first >> 4 != 1 && first >> 4 != 6);
		/* ACKs and heartbeats are taken in C. */
		if (first >> 4 == 1 && first != WS_CONTROL_ACK && first != WS_CONTROL_HEARTBEAT)
			CHECK_EQ(engine->worker[0]->stats.control_rx - up, 1);
	}
}

/* Runs of another worker's session, more than its ring takes: each counts once, where it came. */
static void foreign_runs(void)
{
	enum { RUNS = 50 }; /* 3 MB for 2 MiB */
	const struct ws_config config = {.workers = 2, .mtu = 1420, .cipher = WS_CIPHER_OPENSSL};
	static const union ws_sockaddr from = {.in = {.sin_family = AF_INET, .sin_port = 256}};
	static uint8_t data[60000] = {WS_MSG_TRANSPORT, [4] = 1};
	const struct ws_rx rx = {.data = data, .len = sizeof(data), .from = &from};
	ws_engine *two = ws_engine_new(&config, NULL, 0);
	const struct ws_stats *here, *owner;
	uint64_t full;

	must(two);
	two->worker[0]->io = two->worker[1]->io = &ops;
	here = &two->worker[0]->stats;
	owner = &two->worker[1]->stats;
	for (int i = 0; i < RUNS; i++)
		ws_receive(two->worker[0], &rx);
	ws_drain(two->worker[1]);
	full = here->drops[WS_DROP_HANDOFF_FULL];
	CHECK(full > 0 && full < RUNS);
	CHECK_EQ(owner->drops[WS_DROP_NO_KEY], RUNS - full);
	CHECK_EQ(here->foreign_rx, RUNS);
	CHECK_EQ(here->rx_batches, RUNS);
	CHECK_EQ(owner->rx_batches, 0);
	ws_engine_free(two);
}

/* Lists of addresses are dear to Python: no more of them than it takes, and the rest is not hurt. */
static void control_by_type(void)
{
	static const struct {
		uint8_t type;
		uint64_t most;
	} sent[] = {{WS_CONTROL_PATH_ANNOUNCE, 4},
		    {0x1f, 4},
		    {WS_CONTROL_OFFER, 8},
		    {WS_CONTROL_PATH_PROBE, 100}};
	struct ws_worker *worker;
	struct ws_upcall upcall;

	fresh(false);
	worker = engine->worker[0];
	while (ws_upcall_next(engine, &upcall))
		; /* what others left */
	for (int second = 1; second <= 2; second++) {
		worker->now_ns += second * WS_SECOND_NS;
		for (size_t i = 0; i < sizeof(sent) / sizeof(sent[0]); i++) {
			const uint8_t text[64] = {sent[i].type, 1};
			uint64_t up = worker->stats.control_rx;
			uint64_t refused = worker->stats.drops[WS_DROP_CONTROL_RATE];

			for (int k = 0; k < 150; k++) {
				receive_text(0, text, sizeof(text));
				while (ws_upcall_next(engine, &upcall))
					;
			}
			CHECK_EQ(worker->stats.control_rx - up, sent[i].most);
			CHECK_EQ(worker->stats.drops[WS_DROP_CONTROL_RATE] - refused,
				 150 - sent[i].most);
		}
	}
}

static uint16_t port_of_peer(void)
{
	struct ws_addr remote, local;

	ws_peer_endpoint(ws_peer_stats(engine, 0), &remote, &local);
	return remote.port;
}

/* Its endpoint follows a peer's latest datagram, but not where Python says that path 0 stays. */
static void who_is_told_to_stays(void)
{
	const struct ws_addr elsewhere = {.family = 4, .port = 5, .ip = {127, 0, 0, 2}}, none = {0};
	const struct ws_path only = {.id = 0, .usable = 1, .remote = elsewhere};
	const uint8_t text[16] = {WS_CONTROL_OFFER, 1};

	fresh(true);
	receive_from(3, 0, text, sizeof(text));
	CHECK_EQ(port_of_peer(), 3);
	must(!ws_peer_set_paths(engine, 0, &only, 1, 0));
	receive_from(4, 0, text, sizeof(text));
	CHECK_EQ(port_of_peer(), 4);
	must(!ws_peer_set_paths(engine, 0, &only, 1, WS_PATHS_STAY));
	receive_from(3, 0, text, sizeof(text));
	receive_from(3, 0, NULL, 0);
	CHECK_EQ(port_of_peer(), 4);
	must(!ws_peer_set_endpoint(engine, 0, &elsewhere, &none, 0));
	receive_from(3, 0, text, sizeof(text));
	CHECK_EQ(port_of_peer(), 5);
	/* Data over several paths goes by these alone; then each end is free again. */
	must(!ws_peer_set_paths(engine, 0, &only, 1, WS_PATHS_SCHEDULE));
	receive_from(6, 0, text, sizeof(text));
	CHECK_EQ(port_of_peer(), 5);
	must(!ws_peer_set_paths(engine, 0, NULL, 0, 0));
	receive_from(6, 0, text, sizeof(text));
	CHECK_EQ(port_of_peer(), 6);
}

/* What is no question sets off neither a keepalive in answer nor a new handshake for want of one. */
static void which_frames_want_an_answer(void)
{
	static const struct {
		uint8_t type;
		bool wants;
	} frames[] = {{WS_CONTROL_OFFER, true},	       {WS_CONTROL_PATH_ANNOUNCE, true},
		      {WS_CONTROL_PATH_PROBE, true},   {WS_CONTROL_PATH_PROBE_REPLY, false},
		      {WS_CONTROL_HEARTBEAT, false},   {WS_CONTROL_GOSSIP_UPDATE, true},
		      {WS_CONTROL_POST_QUANTUM, true}, {WS_CONTROL_KEEP, false}};
	const struct ws_addr remote = {.family = 4, .port = 1, .ip = {127, 0, 0, 1}};
	struct ws_path paths[2] = {{.id = 0, .usable = 1, .remote = remote},
				   {.id = 1, .usable = 0, .remote = remote}};
	const struct ws_peer_stats *stats;

	for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
		const uint8_t text[48] = {frames[i].type, 1};

		fresh(true);
		engine->worker[0]->now_ns = 77;
		stats = ws_peer_stats(engine, 0);
		receive_text(0, text, sizeof(text));
		CHECK_EQ(stats->last_received_ns, 77);
		CHECK_EQ(stats->unsent_since_ns, frames[i].wants ? 77 : 0);
		must(!ws_send_path_control(engine->worker[0], engine->peer_by_number[0],
					   WS_WAY_PEER, text, sizeof(text), 0));
		CHECK_EQ(stats->last_sent_ns, 77);
		CHECK_EQ(stats->unanswered_since_ns, frames[i].wants ? 77 : 0);
	}
	/* On a way that carries no data it is for the path manager to judge. */
	for (uint32_t path = 0; path < 2; path++) {
		const uint8_t probe[24] = {WS_CONTROL_PATH_PROBE, 1};

		fresh(true);
		must(!ws_peer_set_paths(engine, 0, paths, 2, 0));
		engine->worker[0]->now_ns = 77;
		must(!ws_send_path_control(engine->worker[0], engine->peer_by_number[0], path,
					   probe, sizeof(probe), 0));
		CHECK_EQ(ws_peer_stats(engine, 0)->unanswered_since_ns, path ? 0 : 77);
	}
}

static bool asked_for_keys(void)
{
	struct ws_upcall upcall;
	bool asked = false;

	while (ws_upcall_next(engine, &upcall))
		asked = asked || upcall.type == WS_UP_NEED_HANDSHAKE;
	return asked;
}

/* Between two nodes a session without data is Python's to renew; to a WireGuard, as WireGuard does. */
static void keepalives_renew_as_wireguard_does_or_late(void)
{
	static const struct {
		uint64_t second;
		bool frames, asked;
	} cases[] = {{119, false, false},
		     {121, false, true},
		     {121, true, false},
		     {164, true, false},
		     {166, true, true}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ws_keys *keys;

		fresh(false);
		must(!cases[i].frames || !ws_peer_set_frames(engine, 0, WS_FRAMES_BUNDLES, 0));
		keys = engine->peer_by_number[0]->current;
		keys->rekey_at_ns = 120 * WS_SECOND_NS;
		keys->receive_rekey_at_ns = 165 * WS_SECOND_NS;
		engine->worker[0]->now_ns = cases[i].second * WS_SECOND_NS;
		asked_for_keys();
		must(!ws_send_keepalive(engine->worker[0], engine->peer_by_number[0]));
		CHECK_EQ(asked_for_keys(), cases[i].asked);
	}
}

static struct ws_addr place(uint8_t byte)
{
	struct ws_addr addr = {.family = 6, .port = (uint16_t)(byte << 8 | byte)};

	memset(addr.ip, byte, sizeof(addr.ip));
	addr.scope_id = byte;
	return addr;
}

static _Atomic bool moved_enough;

static void *move_about(void *peer)
{
	for (uint32_t i = 0; i < 300000; i++) {
		struct ws_addr at = place((uint8_t)(1 + i % 200));

		ws_peer_point(engine->worker[0], peer, &at, &at);
	}
	atomic_store(&moved_enough, true);
	return NULL;
}

/* What Python reads while the worker moves the peer is one place, not halves of two. */
static void endpoint_is_never_torn(void)
{
	struct ws_addr remote, local, whole;
	uint64_t torn = 0, read = 0;
	pthread_t writer;

	fresh(false);
	must(!pthread_create(&writer, NULL, move_about, engine->peer_by_number[0]));
	while (!atomic_load(&moved_enough)) {
		ws_peer_endpoint(ws_peer_stats(engine, 0), &remote, &local);
		if (remote.port < 256)
			continue; /* where fresh() put it */
		whole = place(remote.ip[0]);
		torn += memcmp(&remote, &whole, sizeof(whole)) ||
			memcmp(&local, &whole, sizeof(whole));
		read++;
	}
	must(!pthread_join(writer, NULL));
	CHECK(read > 0);
	CHECK_EQ(torn, 0);
}

/* A datagram from outside every session. */
static void receive_raw(uint8_t *data, size_t len, uint32_t ip, bool group)
{
	const union ws_sockaddr from = {
		.in = {.sin_family = AF_INET, .sin_port = 256, .sin_addr.s_addr = htonl(ip)}};
	const struct ws_rx rx = {
		.data = data, .len = len, .from = &from, .socket = -1, .group = group};

	ws_receive(engine->worker[0], &rx);
}

/* An initiation with a right mac1 for the engine's key of zeros, and nothing else right. */
static void make_initiation(uint8_t message[WS_INITIATION_BYTES])
{
	size_t size = WS_MAC_BYTES, written;
	const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_END};
	uint8_t input[40] = "mac1----", key[32];
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);

	memset(message, 0x5a, WS_INITIATION_BYTES);
	memset(message, 0, 4);
	message[0] = WS_MSG_INITIATION;
	memset(message + WS_INITIATION_BYTES - WS_MAC_BYTES, 0, WS_MAC_BYTES);
	must(EVP_Digest(input, sizeof(input), key, NULL, EVP_blake2s256(), NULL));
	must(EVP_MAC_init(ctx, key, sizeof(key), params));
	must(EVP_MAC_update(ctx, message, WS_INITIATION_BYTES - 2 * WS_MAC_BYTES));
	must(EVP_MAC_final(ctx, message + WS_INITIATION_BYTES - 2 * WS_MAC_BYTES, &written, size));
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(mac);
}

static void drain(void)
{
	static struct ws_upcall upcall;

	while (ws_upcall_next(engine, &upcall))
		;
}

/* Strangers fill their own ring: what peers say finds room, and so does who shows a cookie. */
static void strangers_crowd_out_nobody(void)
{
	enum { FLOOD = 60000, FRAMES = 100 };
	static const uint8_t frame[16] = {WS_CONTROL_PATH_PROBE};
	uint8_t message[WS_INITIATION_BYTES];
	struct ws_stats before;
	const struct ws_stats *now;

	fresh(false);
	drain();
	make_initiation(message);
	now = &engine->worker[0]->stats;
	before = *now;
	engine->worker[0]->now_ns = ws_now_ns();
	replies = 0;
	for (uint32_t i = 0; i < FLOOD; i++)
		receive_raw(message, sizeof(message), 0x0b000000 + i * 977, false);
	for (int i = 0; i < FRAMES; i++)
		receive_text(0, frame, sizeof(frame));
	CHECK_EQ(now->control_rx - before.control_rx, FRAMES);
	CHECK_EQ(now->drops[WS_DROP_UPCALL_FULL] - before.drops[WS_DROP_UPCALL_FULL], 0);
	CHECK(now->handshake_rx - before.handshake_rx >= 450);
	CHECK(now->handshake_rx - before.handshake_rx <= 600);
	CHECK(replies > 0 && replies < 4100);
	CHECK_EQ(now->cookies_tx - before.cookies_tx, replies);
	CHECK_EQ(now->handshake_rx - before.handshake_rx + now->drops[WS_DROP_ASKED] -
			 before.drops[WS_DROP_ASKED] + now->drops[WS_DROP_LOAD] -
			 before.drops[WS_DROP_LOAD] + now->drops[WS_DROP_STRANGERS_FULL] -
			 before.drops[WS_DROP_STRANGERS_FULL],
		 FLOOD);
	drain();
}

/* No key is needed for any of these: none may reach Python. */
static void what_nobody_asked_for(void)
{
	enum { EACH = 100000 };
	uint8_t response[WS_RESPONSE_BYTES] = {WS_MSG_RESPONSE};
	uint8_t cookie[WS_COOKIE_REPLY_BYTES] = {WS_MSG_COOKIE_REPLY};
	uint8_t request[WS_BOOTSTRAP_BYTES] = {WS_MSG_BOOTSTRAP_REQUEST};
	uint8_t present[WS_PRESENT_BYTES] = {WS_MSG_PRESENT};
	uint8_t reply[WS_BOOTSTRAP_BYTES] = {WS_MSG_BOOTSTRAP_REPLY};
	const struct ws_addr nowhere = {.family = 4, .port = 9, .ip = {127, 0, 0, 1}};
	const struct ws_addr none = {0};
	uint8_t initiation[WS_INITIATION_BYTES];
	const struct ws_stats *now = &engine->worker[0]->stats;
	struct ws_stats before = *now;

	engine->worker[0]->now_ns = ws_now_ns();
	for (uint32_t i = 0; i < EACH; i++) {
		uint32_t id = htole32(i * 40503);

		memcpy(response + 8, &id, 4);
		memcpy(cookie + 4, &id, 4);
		memcpy(reply + 4, &id, 4);
		receive_raw(response, sizeof(response), i, false);
		receive_raw(cookie, sizeof(cookie), i, false);
		receive_raw(reply, sizeof(reply), i, false);
		receive_raw(request, sizeof(request), i, false);
		receive_raw(present, sizeof(present), i, false);
	}
	CHECK_EQ(now->drops[WS_DROP_UNASKED] - before.drops[WS_DROP_UNASKED], 3 * EACH);
	CHECK_EQ(now->drops[WS_DROP_BOOTSTRAP] - before.drops[WS_DROP_BOOTSTRAP], 2 * EACH);
	CHECK_EQ(now->handshake_rx, before.handshake_rx);

	/* An initiation of ours is out (there is no socket: it is on its way all the same). */
	make_initiation(initiation);
	(void)ws_send(engine, &nowhere, &none, 0, initiation, sizeof(initiation));
	memcpy(cookie + 4, initiation + 4, 4);
	engine->worker[0]->now_ns =
		ws_now_ns(); /* an emulated machine took seconds for the above */
	before = *now;
	for (int i = 0; i < 100; i++)
		receive_raw(cookie, sizeof(cookie), 1, false);
	CHECK_EQ(now->handshake_rx - before.handshake_rx, WS_AWAIT_ANSWERS);
	drain();
}

static void to_a_group(void)
{
	uint8_t initiation[WS_INITIATION_BYTES];
	const struct ws_stats *now = &engine->worker[0]->stats;
	struct ws_stats before = *now;

	make_initiation(initiation);
	for (uint32_t i = 0; i < 5000; i++)
		receive_raw(initiation, sizeof(initiation), i, true);
	CHECK_EQ(now->drops[WS_DROP_DESTINATION] - before.drops[WS_DROP_DESTINATION], 5000);
	CHECK_EQ(now->handshake_rx, before.handshake_rx);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "vectors"))
		return vectors();
	every_first_byte();
	foreign_runs();
	who_is_told_to_stays();
	which_frames_want_an_answer();
	keepalives_renew_as_wireguard_does_or_late();
	control_by_type();
	endpoint_is_never_torn();
	strangers_crowd_out_nobody();
	what_nobody_asked_for();
	to_a_group();
	ws_engine_free(engine);
	ws_aead_free(other);
	return check_done();
}
