/* SPDX-License-Identifier: MIT */
/*
 * Both pipelines of the engine, whole, over a backend that keeps what it is
 * given. Input: records of an operation byte, a 16-bit little-endian length
 * and that many bytes.
 *
 *  op % 4 = 0: the bytes arrive as a datagram
 *           1: the bytes arrive sealed, as the plaintext of a peer's transport message
 *           2: the same with one bit flipped: must be refused
 *           3: the bytes are what the TUN device gave; the high bits choose data frames
 *  op >> 2 chooses the TOS byte, and how often GRO cuts the datagram.
 *
 * Datagrams for RELAYED_INDEX go on to another host.
 *
 * Invariants: every datagram ends in exactly one counter; what reaches the
 * TUN device is whole IP packets from the peer's own addresses; what leaves
 * is transport messages that open under the key, each counter once, or byte for byte what came.
 */
#include "session/paths.h"
#include "session/receive.h"
#include "session/relay.h"
#include "session/seal.h"
#include "session/send.h"
#include "session/turn.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCAL_INDEX 0x11223344
#define REMOTE_INDEX 0x55667788
#define RELAYED_INDEX 0x99aabbcc

static struct ws_tx tx;
static uint8_t tx_data[WS_BUFFER_BYTES];
static struct ws_aead *other;
static const uint8_t key_in[WS_KEY_BYTES] = {1}, key_out[WS_KEY_BYTES] = {2};
static uint64_t tun_packets, next_out;

#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

static struct ws_tx *tx_get(struct ws_worker *worker)
{
	(void)worker;
	tx.data = tx_data;
	return &tx;
}

static ws_engine *engine;

/* Two packets at least, then zeros. */
static void bundled(const uint8_t *plain, size_t len)
{
	size_t at = WS_FRAME_HEADER_BYTES, packets = 0;

	MUST(engine->peer_by_number[0]->bundles);
	MUST(len <= WS_FRAME_HEADER_BYTES + WS_BUNDLE_MAX_BYTES);
	while (at + 2 < len && (plain[at] || plain[at + 1])) {
		size_t bytes = (size_t)plain[at] | (size_t)plain[at + 1] << 8;

		MUST(bytes >= 20 && bytes <= len - at - 2);
		MUST(plain[at + 2] >> 4 == 4 || plain[at + 2] >> 4 == 6);
		at += 2 + bytes;
		packets++;
	}
	MUST(packets >= 2);
	while (at < len)
		MUST(!plain[at++]);
}

/* What the receive under way is of. */
static const uint8_t *came;
static size_t came_bytes;

/* Each of its datagrams stands somewhere in what came. */
static void unchanged(const struct ws_tx *sent)
{
	for (uint32_t i = 0; i < sent->len; i += sent->stride) {
		size_t len = sent->len - i < sent->stride ? sent->len - i : sent->stride, at = 0;
		uint32_t index;

		while (at + len <= came_bytes && memcmp(came + at, sent->data + i, len))
			at++;
		MUST(at + len <= came_bytes);
		memcpy(&index, sent->data + i + 4, sizeof(index));
		MUST(sent->data[i] == WS_MSG_TRANSPORT && le32toh(index) == RELAYED_INDEX);
	}
	MUST(sent->remote.sa.sa_family == AF_INET6);
}

static void tx_submit(struct ws_worker *worker, struct ws_tx *sent)
{
	static uint8_t plain[WS_BUFFER_BYTES];

	(void)worker;
	if (sent->peer == WS_TX_RELAY) {
		MUST(sent->len && sent->len <= WS_TX_MAX_BYTES &&
		     sent->count <= WS_TX_MAX_SEGMENTS);
		unchanged(sent);
		return;
	}
	if (sent->peer < 0) { /* a cookie reply */
		MUST(sent->len == WS_COOKIE_REPLY_BYTES && sent->data[0] == WS_MSG_COOKIE_REPLY);
		return;
	}
	MUST(sent == &tx && sent->len <= WS_TX_MAX_BYTES && sent->count <= WS_TX_MAX_SEGMENTS);
	MUST(sent->stride && sent->len <= sent->stride * sent->count &&
	     sent->len > sent->stride * (sent->count - 1));
	for (uint32_t at = 0; at < sent->len; at += sent->stride) {
		size_t len = sent->len - at < sent->stride ? sent->len - at : sent->stride;
		uint64_t counter;
		uint32_t index;

		memcpy(&index, sent->data + at + 4, sizeof(index));
		memcpy(&counter, sent->data + at + 8, sizeof(counter));
		MUST(sent->data[at] == WS_MSG_TRANSPORT && le32toh(index) == REMOTE_INDEX);
		MUST(le64toh(counter) == next_out++);
		MUST(ws_aead_open(other, key_out, le64toh(counter), plain, sent->data + at + 16,
				  len - 16));
		if (len == 32)
			continue;
		if (engine->peer_by_number[0]->frames && plain[0] & WS_FRAME_DATA) {
			MUST(!(plain[0] & ~(WS_FRAME_DATA | WS_FRAME_FLAGS)));
			if (plain[0] & WS_FRAME_BUNDLE)
				bundled(plain, len - 32);
			else
				MUST(plain[8] >> 4 == 4 || plain[8] >> 4 == 6);
		} else {
			MUST(plain[0] >> 4 == 4 || plain[0] >> 4 == 6);
		}
	}
}

static void tx_flush(struct ws_worker *worker)
{
	(void)worker;
}

static void tun_write(struct ws_worker *worker, const struct iovec *iov, uint32_t count,
		      uint32_t packets)
{
	static uint8_t packet[2 * WS_BUFFER_BYTES];
	size_t len = 0;

	(void)worker;
	MUST(count >= 2 && iov[0].iov_len == WS_VNET_BYTES);
	for (uint32_t i = 1; i < count; i++) {
		MUST(len + iov[i].iov_len <= sizeof(packet));
		memcpy(packet + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	if (packet[0] >> 4 == 4)
		MUST(len == ((size_t)packet[2] << 8 | packet[3]) && packet[12] == 10);
	else
		MUST(packet[0] >> 4 == 6 && len == 40 + ((size_t)packet[4] << 8 | packet[5]) &&
		     packet[8] == 0xfd);
	tun_packets += packets;
}

static const struct ws_io_ops ops = {
	.name = "fuzz",
	.tx_get = tx_get,
	.tx_submit = tx_submit,
	.tx_flush = tx_flush,
	.tun_write = tun_write,
};

static uint64_t arrived;

/* Beside libFuzzer's own statistics: its runs are of many datagrams. */
static void tell(void)
{
	fprintf(stderr, "stat::datagrams: %llu\n", (unsigned long long)arrived);
}

static void set_up(void)
{
	const struct ws_config config = {.workers = 1, .mtu = 1420, .cipher = WS_CIPHER_OPENSSL};
	const struct ws_prefix prefixes[] = {{.family = 4, .cidr = 8, .ip = {10}},
					     {.family = 6, .cidr = 8, .ip = {0xfd}}};
	const struct ws_relay relay = {
		.index = RELAYED_INDEX,
		.place_count = 1,
		.places = {{.family = 4, .port = 1}}, /* where arrive() has them from */
		.remote = {.family = 6, .port = 7, .ip = {0x20, 1}},
	};

	other = ws_aead_new(WS_CIPHER_OPENSSL);
	engine = ws_engine_new(&config, NULL, 0);
	MUST(other && engine && ws_peer_add(engine) == 0);
	engine->worker[0]->io = &ops;
	MUST(!ws_peer_set_allowed_ips(engine, 0, prefixes, 2));
	MUST(!ws_relay_set(engine, &relay));
	atexit(tell);
}

/* As if nothing had been sent or received yet. */
static void fresh_session(void)
{
	const struct ws_addr remote = {.family = 4, .port = 1, .ip = {127, 0, 0, 1}}, none = {0};
	struct ws_keypair keypair = {
		.local_index = LOCAL_INDEX,
		.remote_index = REMOTE_INDEX,
		.reject_after_ns = UINT64_MAX / 4,
		.rekey_after_ns = UINT64_MAX / 4,
		.rekey_after_messages = UINT64_MAX / 2,
		.reject_after_messages = UINT64_MAX / 2,
		.initiator = 1,
	};

	memcpy(keypair.send_key, key_out, WS_KEY_BYTES);
	memcpy(keypair.receive_key, key_in, WS_KEY_BYTES);
	tun_packets = next_out = 0;
	MUST(!ws_peer_clear_keypairs(engine, 0));
	MUST(!ws_peer_set_endpoint(engine, 0, &remote, &none, 0));
	MUST(!ws_peer_install_keypair(engine, 0, &keypair));
}

/* Datagrams that came to an end, one way or another. */
static uint64_t accounted(const struct ws_stats *stats)
{
	uint64_t sum = 0;

	for (int i = WS_DROP_SHORT; i <= WS_DROP_UPCALL_FULL; i++)
		sum += stats->drops[i];
	for (int i = WS_DROP_STRANGERS_FULL; i <= WS_DROP_DESTINATION; i++)
		sum += stats->drops[i];
	sum += stats->drops[WS_DROP_FRAME] + stats->drops[WS_DROP_CONTROL_RATE] +
	       stats->drops[WS_DROP_PATH] + stats->drops[WS_DROP_TUNNEL] +
	       stats->drops[WS_DROP_INSIDE] + stats->drops[WS_DROP_RELAY_SOURCE] +
	       stats->drops[WS_DROP_RELAY_RATE] + stats->relayed;
	return sum + stats->keepalives_rx + stats->handshake_rx + stats->control_rx + tun_packets;
}

static void drain(void)
{
	static struct ws_upcall upcall;

	while (ws_upcall_next(engine, &upcall))
		;
}

/* Each datagram is accounted for once; a bundle by each of its packets, `most` at most. */
static void arrive(struct ws_worker *worker, uint8_t op, uint8_t *data, size_t len, size_t most)
{
	static const union ws_sockaddr from = {.in = {.sin_family = AF_INET, .sin_port = 256}};
	struct ws_rx rx = {.data = data, .len = len, .from = &from, .tos = op >> 2 & 3};
	const struct ws_stats *stats = &worker->stats;
	uint64_t before = accounted(stats);
	uint64_t datagrams;

	if (op & 0x40)
		rx.stride = 1 + len / 3;
	datagrams = rx.stride && len ? (len + rx.stride - 1) / rx.stride : 1;
	arrived += datagrams;
	came = data;
	came_bytes = len;
	ws_receive(worker, &rx);
	ws_receive_flush(worker);
	ws_seal_flush(worker);
	MUST(accounted(stats) - before >= datagrams);
	MUST(accounted(stats) - before <= datagrams * most);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t buffer[3 * WS_BUFFER_BYTES];
	struct ws_worker *worker;
	uint64_t counter = 0;

	if (!engine)
		set_up();
	fresh_session();
	worker = engine->worker[0];
	while (size >= 3) {
		uint8_t op = data[0];
		size_t len = data[1] | (size_t)data[2] << 8;
		uint64_t auth = worker->stats.drops[WS_DROP_AUTH];
		uint32_t index = htole32(LOCAL_INDEX);
		uint64_t wire = htole64(counter);

		data += 3;
		size -= 3;
		if (len > size)
			len = size;
		switch (op & 3) {
		case 0:
			memcpy(buffer, data, len);
			arrive(worker, op, buffer, len, 1);
			break;
		case 1:
		case 2:
			memset(buffer, 0, 16);
			buffer[0] = WS_MSG_TRANSPORT;
			memcpy(buffer + 4, &index, 4);
			memcpy(buffer + 8, &wire, 8);
			ws_aead_seal(other, key_in, counter++, buffer + 16, data, len);
			if ((op & 3) == 2) {
				buffer[16 + op % (len + 16)] ^= 1;
				arrive(worker, op & 0x3f, buffer, len + 32, 1);
				MUST(worker->stats.drops[WS_DROP_AUTH] == auth + 1);
			} else {
				/* A length and a byte at least for each packet of a bundle. */
				arrive(worker, op & 0x3f, buffer, len + 32,
				       len && (data[0] & 0xa0) == 0xa0 ? 1 + len / 3 : 1);
			}
			break;
		default:
			memcpy(buffer, data, len);
			MUST(!ws_peer_set_frames(engine, 0, op >> 7 ? op >> 5 & 3 : 0,
						 op & 0x40 ? 100 : 0));
			ws_send_packet(worker, buffer, len);
			ws_seal_flush(worker);
		}
		drain();
		data += len;
		size -= len;
	}
	return 0;
}
