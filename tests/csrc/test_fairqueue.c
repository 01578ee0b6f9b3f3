/* SPDX-License-Identifier: MIT */
/*
 * Queues by inner flow: each flow keeps its order, bytes are shared evenly, one that begins goes first,
 * the longest one is cut, and whatever comes nothing is lost, kept or counted twice.
 */
#include "check.h"
#include "multipath/fairqueue.h"
#include "packet/ip.h"

#include <stdlib.h>
#include <string.h>

#define STRIDE 1536

static void *memory;
static struct ws_fq fq;

static void begin(void)
{
	memset(memory, 0, ws_fq_bytes(STRIDE));
	ws_fq_init(&fq, memory, STRIDE, 7);
}

/* A UDP packet of a port's flow; serial goes to its end. */
static bool put(uint16_t port, uint32_t len, uint32_t serial)
{
	uint8_t *packet = ws_fq_place(&fq);

	if (!packet)
		return false;
	memset(packet, 0, len);
	packet[0] = 0x45;
	packet[WS_IPV4_PROTOCOL] = WS_PROTOCOL_UDP;
	ws_put16(packet + WS_IPV4_BYTES, port);
	ws_put32(packet + len - 4, serial);
	ws_fq_put(&fq, len, 0, 0, serial);
	return true;
}

static uint16_t port_of(const uint8_t *data)
{
	return ws_get16(data + WS_IPV4_BYTES);
}

static void shares_by_bytes(void)
{
	uint32_t bytes[2] = {0}, last[2] = {0};
	const struct ws_fq_packet *packet;
	const uint8_t *data;

	begin();
	for (uint32_t i = 1; i <= 1000; i++) {
		CHECK(put(1, 1500, i));
		CHECK(put(2, 300, i));
	}
	for (unsigned i = 0; i < 600; i++) {
		unsigned flow;

		packet = ws_fq_peek(&fq, &data);
		CHECK(packet == ws_fq_peek(&fq, &data));
		flow = port_of(data) - 1;
		CHECK(ws_get32(data + packet->len - 4) == ++last[flow]);
		bytes[flow] += packet->len;
		ws_fq_take(&fq);
	}
	CHECK(bytes[0] < bytes[1] + 4000);
	CHECK(bytes[1] < bytes[0] + 4000);
}

static void one_that_begins_goes_first(void)
{
	const uint8_t *data;

	begin();
	for (uint32_t i = 0; i < 100; i++)
		CHECK(put(1, 1500, i));
	for (unsigned i = 0; i < 50; i++) {
		(void)ws_fq_peek(&fq, &data);
		ws_fq_take(&fq);
	}
	CHECK(put(2, 200, 0));
	(void)ws_fq_peek(&fq, &data);
	CHECK_EQ(port_of(data), 2);
	ws_fq_take(&fq);
	(void)ws_fq_peek(&fq, &data);
	CHECK_EQ(port_of(data), 1);
}

/* WS_FQ_FLOWS: of as many flows two thirds have a queue of their own. */
static void queues(void)
{
	bool used[1 << 16] = {false};
	const struct ws_fq_packet *packet;
	const uint8_t *data;
	uint32_t count = 0;

	begin();
	for (uint32_t i = 0; i < 256; i++)
		CHECK(put((uint16_t)check_random(), 100, i));
	for (; (packet = ws_fq_peek(&fq, &data)); ws_fq_take(&fq)) {
		count += !used[packet->flow];
		used[packet->flow] = true;
	}
	CHECK(count > 140 && count < 185);
}

static void the_longest_is_cut(void)
{
	const struct ws_fq_packet *packet;
	const uint8_t *data;

	begin();
	CHECK(put(2, 200, 5));
	for (uint32_t i = 0; i < WS_FQ_PACKETS - 1; i++)
		CHECK(put(1, 1500, i));
	CHECK(!put(3, 100, 0));
	CHECK(ws_fq_cut(&fq));
	CHECK(put(3, 100, 0));
	CHECK_EQ(fq.packets, WS_FQ_PACKETS);
	while ((packet = ws_fq_peek(&fq, &data))) {
		CHECK(port_of(data) != 1 || ws_get32(data + packet->len - 4) != 0); /* the oldest */
		ws_fq_take(&fq);
	}
	CHECK_EQ(fq.packets, 0);
	CHECK_EQ(fq.bytes, 0);
	CHECK(!ws_fq_cut(&fq));
	ws_fq_take(&fq);
}

static uint32_t busy(void)
{
	uint32_t count = 0;

	for (uint32_t flow = 0; flow < WS_FQ_FLOWS; flow++)
		count += ws_fq_flow_bytes(&fq, flow) > 0;
	return count;
}

static void who_is_busy(void)
{
	const uint8_t *data;

	begin();
	for (uint32_t i = 0; i < 3; i++)
		CHECK(put(1, 1000, i) && put(2, 100, i));
	CHECK_EQ(fq.busy, 2);
	CHECK_EQ(ws_fq_flow_bytes(&fq, ws_fq_peek(&fq, &data)->flow), 3000);
	for (uint32_t i = 0; i < 6; i++) {
		(void)ws_fq_peek(&fq, &data);
		ws_fq_take(&fq);
		CHECK_EQ(fq.busy, busy());
	}
	CHECK_EQ(fq.busy, 0);
}

/* Anything may stand in a packet. */
static void survives_anything(void)
{
	uint64_t bytes = 0;
	uint32_t waiting = 0;
	const struct ws_fq_packet *packet;
	const uint8_t *data;

	begin();
	for (unsigned i = 0; i < 100000; i++) {
		uint32_t len = 1 + (uint32_t)check_random() % (check_random() & 1 ? 60 : STRIDE);
		uint8_t *place;

		switch (check_random() % 8) {
		case 0:
			packet = ws_fq_peek(&fq, &data);
			CHECK(!packet == !waiting);
			if (packet) {
				bytes -= packet->len;
				waiting--;
			}
			ws_fq_take(&fq);
			break;
		case 1:
			bytes = fq.bytes;
			CHECK(ws_fq_cut(&fq) == (waiting > 0));
			waiting -= waiting > 0;
			CHECK(fq.bytes <= bytes);
			bytes = fq.bytes;
			break;
		default:
			place = ws_fq_place(&fq);
			if (!place)
				break;
			for (uint32_t k = 0; k < len; k += 8) {
				uint64_t word = check_random();

				memcpy(place + k, &word, len - k < 8 ? len - k : 8);
			}
			ws_fq_put(&fq, len, 0, 0, i);
			bytes += len;
			waiting++;
		}
		if (i % 50 == 0)
			CHECK_EQ(fq.busy, busy());
		CHECK_EQ(fq.packets, waiting);
		CHECK_EQ(fq.bytes, bytes);
		if (i % 20000 == 19999) { /* the keys are gone */
			memset(memory, 0, ws_fq_bytes(STRIDE));
			ws_fq_forget(&fq);
			waiting = 0;
			bytes = 0;
		}
	}
}

/* A TCP's segment with this much of its stream. True: it is known to be sent once more. */
static bool again(uint16_t port, uint32_t seq, uint32_t payload)
{
	uint32_t len = WS_IPV4_BYTES + WS_TCP_BYTES + payload;
	uint8_t *packet = ws_fq_place(&fq), *tcp = packet + WS_IPV4_BYTES;
	const struct ws_fq_packet *next;
	const uint8_t *data;
	bool is;

	memset(packet, 0, len);
	packet[0] = 0x45;
	packet[WS_IPV4_PROTOCOL] = WS_PROTOCOL_TCP;
	ws_put16(tcp, port);
	ws_put32(tcp + WS_TCP_SEQ, seq);
	tcp[WS_TCP_DATA_OFFSET] = WS_TCP_BYTES / 4 << 4;
	ws_fq_put(&fq, len, 0, 0, 1);
	next = ws_fq_peek(&fq, &data);
	is = next->again;
	ws_fq_take(&fq);
	return is;
}

static void what_a_tcp_sends_again_is_known(void)
{
	begin();
	CHECK(!again(1, 0xfffffe00, 1000)); /* round the end of its numbers */
	CHECK(!again(1, 0xfffffe00 + 1000, 1000));
	CHECK(again(1, 0xfffffe00, 1000));
	CHECK(again(1, 0xfffffe00 + 1000, 500));
	CHECK(!again(1, 0xfffffe00 + 2000, 1000));
	CHECK(!again(1, 0xfffffe00 + 2500, 0)); /* says nothing */
	/* Another flow has nothing of this one. */
	for (uint16_t port = 2; port < 2000; port++) {
		CHECK(!again(port, 5000, 100));
		CHECK(again(port, 5000, 100));
		CHECK(!again(port, 5100, 100));
	}
}

int main(void)
{
	memory = malloc(ws_fq_bytes(STRIDE));
	CHECK(memory != NULL);
	shares_by_bytes();
	one_that_begins_goes_first();
	queues();
	the_longest_is_cut();
	who_is_busy();
	survives_anything();
	what_a_tcp_sends_again_is_known();
	free(memory);
	return check_done();
}
