/* SPDX-License-Identifier: MIT */
/*
 * The engine whole, over a backend that keeps what it is given: what an anchor relays, from whom,
 * where to, and that it is byte for byte what came.
 */
#include "engine/thread.h"
#include "session/receive.h"
#include "session/relay.h"
#include "session/seal.h"

#include "check.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define INDEX 0x01020304
#define KEPT_MAX 64

struct sent {
	uint32_t len, stride, count;
	uint8_t tos;
	union ws_sockaddr remote;
	struct ws_addr local;
	bool no_gso;
	uint8_t data[WS_BUFFER_BYTES];
};

static struct sent sent[KEPT_MAX];
static size_t sent_count;
static uint8_t tx_data[WS_BUFFER_BYTES], rx_data[WS_BUFFER_BYTES];
static struct ws_tx open_tx = {.data = tx_data};
static ws_engine *engine;

static struct ws_tx *tx_get(struct ws_worker *worker)
{
	(void)worker;
	return &open_tx;
}

static void tx_submit(struct ws_worker *worker, struct ws_tx *tx)
{
	struct sent *to = &sent[sent_count++];

	(void)worker;
	if (sent_count == KEPT_MAX || tx->peer != WS_TX_RELAY || tx->len > WS_TX_MAX_BYTES ||
	    tx->count > WS_TX_MAX_SEGMENTS)
		abort();
	*to = (struct sent){.len = tx->len,
			    .stride = tx->stride,
			    .count = tx->count,
			    .tos = tx->ecn,
			    .remote = tx->remote,
			    .local = tx->local,
			    .no_gso = tx->no_gso};
	memcpy(to->data, tx->data, tx->len);
}

static void tx_flush(struct ws_worker *worker)
{
	(void)worker;
}

static void destroy(struct ws_worker *worker)
{
	(void)worker;
}

static const struct ws_io_ops ops = {
	.name = "relay",
	.destroy = destroy,
	.tx_get = tx_get,
	.tx_submit = tx_submit,
	.tx_flush = tx_flush,
};

static struct ws_addr v4(uint8_t last, uint16_t port)
{
	return (struct ws_addr){.family = 4, .port = port, .ip = {192, 0, 2, last}};
}

static struct ws_addr v6(uint8_t last, uint16_t port)
{
	struct ws_addr addr = {.family = 6, .port = port, .ip = {0x20, 1, 0xd, 0xb8}};

	addr.ip[15] = last;
	return addr;
}

static void begin(uint32_t workers)
{
	const struct ws_config config = {
		.workers = workers, .mtu = 1420, .cipher = WS_CIPHER_OPENSSL};

	engine = ws_engine_new(&config, NULL, 0);
	if (!engine)
		abort();
	for (uint32_t i = 0; i < workers; i++)
		engine->worker[i]->io = &ops;
	sent_count = 0;
}

static void end(void)
{
	ws_engine_free(engine);
}

static struct ws_relay binding(uint32_t index)
{
	struct ws_relay relay = {.index = index, .sender = 1, .place_count = 1};

	relay.places[0] = v4(1, 51820);
	relay.remote = v4(2, 4242);
	relay.local = v4(3, 51820);
	return relay;
}

static void put_index(uint8_t *at, uint32_t index)
{
	index = htole32(index);
	memcpy(at + 4, &index, sizeof(index));
}

/* Runs of `count` datagrams of `stride` bytes, all different, for `index`, at rx_data + at. */
static size_t fill(size_t at, uint32_t index, size_t stride, size_t count)
{
	static uint8_t next;

	for (size_t i = 0; i < count; i++, at += stride) {
		for (size_t b = 0; b < stride; b++)
			rx_data[at + b] = next++;
		memcpy(rx_data + at, (const uint8_t[]){WS_MSG_TRANSPORT, 0, 0, 0}, 4);
		put_index(rx_data + at, index);
	}
	return at;
}

static void receive(struct ws_worker *worker, struct ws_addr from, size_t len, size_t stride,
		    uint8_t tos)
{
	union ws_sockaddr sa;
	socklen_t bytes;
	struct ws_rx rx = {.data = rx_data, .len = len, .stride = stride, .from = &sa, .tos = tos};

	ws_addr_to_sockaddr(&from, &sa, &bytes);
	worker->now_ns = ws_now_ns();
	ws_receive(worker, &rx);
	ws_receive_flush(worker);
	ws_seal_flush(worker);
}

static uint64_t drops(enum ws_drop reason)
{
	uint64_t all = 0;

	for (uint32_t i = 0; i < engine->workers; i++)
		all += engine->worker[i]->stats.drops[reason];
	return all;
}

static void unbound_is_an_unknown_key(void)
{
	struct ws_relay relay = binding(INDEX);

	begin(1);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 100, 1), 0, 0);
	CHECK(drops(WS_DROP_NO_KEY) == 1);
	CHECK(ws_relay_set(engine, &relay) == 0);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX + 1, 100, 1), 0, 0);
	CHECK(drops(WS_DROP_NO_KEY) == 2);
	CHECK(ws_relay_remove(engine, INDEX, NULL) == 0);
	CHECK(ws_relay_remove(engine, INDEX, NULL) == -ENOENT);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 100, 1), 0, 0);
	CHECK(drops(WS_DROP_NO_KEY) == 3);
	CHECK(sent_count == 0);
	end();
}

static void a_run_goes_on_whole_and_unchanged(void)
{
	static const size_t strides[] = {32, 64, 1252, 1452};
	struct ws_relay relay = binding(INDEX);
	struct ws_relay_count count;

	for (size_t s = 0; s < sizeof(strides) / sizeof(strides[0]); s++) {
		size_t n = 65507 / strides[s] < 64 ? 65507 / strides[s] : 64, len;

		begin(1);
		CHECK(ws_relay_set(engine, &relay) == 0);
		/* The last one shorter, as a kernel's GRO has it. */
		len = fill(0, INDEX, strides[s], n);
		len -= strides[s] > 32 ? 16 : 0;
		receive(engine->worker[0], v4(1, 51820), len, strides[s], 0xb9);
		CHECK(sent_count == 1);
		CHECK(sent[0].len == len && sent[0].stride == strides[s] && sent[0].count == n);
		CHECK(!memcmp(sent[0].data, rx_data, len));
		CHECK(sent[0].tos == 0xb9);
		CHECK(sent[0].remote.sa.sa_family == AF_INET &&
		      ntohs(sent[0].remote.in.sin_port) == 4242);
		CHECK(sent[0].local.ip[3] == 3);
		CHECK(ws_relay_list(engine, &count, 1) == 1);
		CHECK(count.index == INDEX && count.stats.datagrams == n &&
		      count.stats.bytes == len);
		CHECK(engine->worker[0]->stats.relayed == n);
		end();
	}
}

static void mixed_indices_are_taken_apart(void)
{
	struct ws_relay one = binding(INDEX), two = binding(INDEX + 1);
	size_t at;

	begin(1);
	two.remote = v6(9, 77);
	two.local = v6(8, 51820);
	CHECK(ws_relay_set(engine, &one) == 0);
	CHECK(ws_relay_set(engine, &two) == 0);
	at = fill(0, INDEX, 200, 3);
	at = fill(at, 999, 200, 1); /* nobody's */
	at = fill(at, INDEX + 1, 200, 2);
	at = fill(at, INDEX, 200, 1);
	receive(engine->worker[0], v4(1, 51820), at, 200, 2);
	CHECK(sent_count == 3);
	CHECK(sent[0].count == 3 && !memcmp(sent[0].data, rx_data, 600));
	CHECK(sent[1].count == 2 && !memcmp(sent[1].data, rx_data + 800, 400));
	CHECK(sent[1].remote.sa.sa_family == AF_INET6);
	CHECK(sent[2].count == 1 && !memcmp(sent[2].data, rx_data + 1200, 200));
	CHECK(drops(WS_DROP_NO_KEY) == 1);
	/* From IPv6 to IPv4 as well; another TOS is another send. */
	one.places[0] = v6(1, 5);
	CHECK(ws_relay_set(engine, &one) == 0);
	receive(engine->worker[0], v6(1, 5), fill(0, INDEX, 80, 1), 0, 3);
	CHECK(sent_count == 4 && sent[3].tos == 3);
	end();
}

static void only_the_senders_places_are_heard(void)
{
	struct ws_relay relay = binding(INDEX);
	struct ws_relay_count count;

	begin(1);
	relay.place_count = 2;
	relay.places[1] = v6(7, 1000);
	CHECK(ws_relay_set(engine, &relay) == 0);
	fill(0, INDEX, 64, 1);
	receive(engine->worker[0], v4(1, 51821), 64, 0, 0);
	receive(engine->worker[0], v4(2, 51820), 64, 0, 0);
	receive(engine->worker[0], v6(7, 1001), 64, 0, 0);
	CHECK(sent_count == 0 && drops(WS_DROP_RELAY_SOURCE) == 3);
	receive(engine->worker[0], v6(7, 1000), 64, 0, 0);
	receive(engine->worker[0], v4(1, 51820), 64, 0, 0);
	CHECK(sent_count == 2);
	/* Its places are others now: at once, and the counters go on. */
	relay.place_count = 1;
	relay.places[0] = v4(5, 5);
	CHECK(ws_relay_set(engine, &relay) == 0);
	receive(engine->worker[0], v4(1, 51820), 64, 0, 0);
	CHECK(sent_count == 2 && drops(WS_DROP_RELAY_SOURCE) == 4);
	CHECK(ws_relay_list(engine, &count, 1) == 1);
	CHECK(count.stats.datagrams == 2 && count.stats.elsewhere == 4);
	end();
}

static void short_and_odd_ones_are_not_relayed(void)
{
	struct ws_relay relay = binding(INDEX);

	begin(1);
	CHECK(ws_relay_set(engine, &relay) == 0);
	for (size_t len = 0; len < 32; len++) {
		fill(0, INDEX, 64, 1);
		receive(engine->worker[0], v4(1, 51820), len, 0, 0);
	}
	CHECK(drops(WS_DROP_SHORT) == 32);
	for (uint32_t type = 0; type < 4; type++) {
		fill(0, INDEX, 64, 1);
		rx_data[type] ^= 1; /* no transport message, or reserved bytes set */
		receive(engine->worker[0], v4(1, 51820), 64, 0, 0);
	}
	CHECK(sent_count == 0);
	relay.most_bytes = 500;
	CHECK(ws_relay_set(engine, &relay) == 0);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 501, 1), 0, 0);
	CHECK(sent_count == 0);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 500, 1), 0, 0);
	CHECK(sent_count == 1);
	relay.most_bytes = 0;
	CHECK(ws_relay_set(engine, &relay) == 0);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 65520, 1), 0, 0);
	CHECK(sent_count == 1);
	end();
}

static void a_member_has_its_rate(void)
{
	struct ws_relay one = binding(INDEX), two = binding(INDEX + 1), other = binding(INDEX + 2);
	uint64_t first;

	begin(1);
	other.sender = 2;
	CHECK(ws_relay_set(engine, &one) == 0 && ws_relay_set(engine, &two) == 0 &&
	      ws_relay_set(engine, &other) == 0);
	ws_relay_rate(engine, 8000); /* a kB a second; 64 KiB at once */
	for (int i = 0; i < 100; i++) {
		receive(engine->worker[0], v4(1, 51820), fill(0, INDEX + (i & 1), 1000, 1), 0, 0);
		sent_count = 0;
	}
	first = drops(WS_DROP_RELAY_RATE);
	CHECK(first >= 34 && first <= 36);
	/* Another member has its own. */
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX + 2, 1000, 1), 0, 0);
	CHECK(sent_count == 1);
	ws_relay_rate(engine, 0);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 1000, 1), 0, 0);
	CHECK(sent_count == 2 && drops(WS_DROP_RELAY_RATE) == first);
	end();
}

static void bindings_are_bounded_and_found(void)
{
	static struct ws_relay_count counts[WS_RELAY_MOST + 1];
	struct ws_relay relay = binding(1);

	begin(1);
	for (uint32_t i = 1; i <= WS_RELAY_MOST; i++) {
		relay.index = i * 2654435761U;
		CHECK(ws_relay_set(engine, &relay) == 0);
	}
	relay.index = 5;
	CHECK(ws_relay_set(engine, &relay) == -ENOSPC);
	CHECK(ws_relay_list(engine, counts, WS_RELAY_MOST + 1) == WS_RELAY_MOST);
	for (uint32_t i = 1; i <= WS_RELAY_MOST; i += 3)
		CHECK(ws_relay_remove(engine, i * 2654435761U, NULL) == 0);
	for (uint32_t i = 1; i <= WS_RELAY_MOST; i++) {
		bool bound = ws_relay_find(engine->worker[0]->relay, i * 2654435761U) != NULL;

		CHECK(bound == (i % 3 != 1));
	}
	relay.index = 0;
	CHECK(ws_relay_set(engine, &relay) == -EINVAL);
	relay.index = 1;
	relay.place_count = 9;
	CHECK(ws_relay_set(engine, &relay) == -EINVAL);
	relay = binding(1);
	relay.remote.family = 0;
	CHECK(ws_relay_set(engine, &relay) == -EINVAL);
	relay = binding(1);
	relay.sender = -1;
	CHECK(ws_relay_set(engine, &relay) == -EINVAL);
	end();
}

static void an_own_session_is_never_relayed(void)
{
	struct ws_keypair keypair = {
		.local_index = INDEX,
		.remote_index = 1,
		.created_ns = ws_now_ns(),
		.reject_after_ns = 180 * WS_SECOND_NS,
		.rekey_after_ns = 120 * WS_SECOND_NS,
		.rekey_after_messages = 1 << 20,
		.reject_after_messages = 1 << 20,
		.initiator = 1,
	};
	struct ws_relay relay = binding(INDEX);
	int peer;

	begin(1);
	peer = ws_peer_add(engine);
	CHECK(ws_peer_install_keypair(engine, peer, &keypair) == 0);
	CHECK(ws_relay_set(engine, &relay) == -EEXIST);
	CHECK(ws_peer_clear_keypairs(engine, peer) == 0);
	CHECK(ws_relay_set(engine, &relay) == 0);
	/* A keypair that comes later has the last word. */
	CHECK(ws_peer_install_keypair(engine, peer, &keypair) == 0);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 64, 1), 0, 0);
	CHECK(sent_count == 0 && engine->worker[0]->stats.relayed == 0);
	end();
}

static void workers_have_the_indices_that_are_theirs(void)
{
	struct ws_relay relay = binding(9);
	struct ws_relay_count counts[8];

	begin(4);
	for (uint32_t i = 1; i < 9; i++) {
		relay.index = i;
		CHECK(ws_relay_set(engine, &relay) == 0);
		CHECK(ws_relay_find(engine->worker[i % 4]->relay, i) != NULL);
	}
	CHECK(ws_relay_list(engine, counts, 8) == 8);
	CHECK(ws_relay_list(engine, counts, 3) == 3);
	receive(engine->worker[2], v4(1, 51820), fill(0, 6, 64, 2), 64, 0);
	CHECK(sent_count == 1 && sent[0].count == 2);
	end();
}

static void a_refused_run_is_sent_one_by_one_for_a_while(void)
{
	struct ws_relay relay = binding(INDEX);

	begin(1);
	CHECK(ws_relay_set(engine, &relay) == 0);
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 64, 2), 64, 0);
	CHECK(!sent[0].no_gso);
	ws_relay_refused_run(engine->worker[0], INDEX, ws_now_ns() + WS_SECOND_NS);
	ws_relay_refused_run(engine->worker[0], INDEX + 1, 0); /* not bound any more */
	receive(engine->worker[0], v4(1, 51820), fill(0, INDEX, 64, 2), 64, 0);
	CHECK(sent[1].no_gso);
	end();
}

int main(void)
{
	unbound_is_an_unknown_key();
	a_run_goes_on_whole_and_unchanged();
	mixed_indices_are_taken_apart();
	only_the_senders_places_are_heard();
	short_and_odd_ones_are_not_relayed();
	a_member_has_its_rate();
	bindings_are_bounded_and_found();
	an_own_session_is_never_relayed();
	workers_have_the_indices_that_are_theirs();
	a_refused_run_is_sent_one_by_one_for_a_while();
	return check_done();
}
