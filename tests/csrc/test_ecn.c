/* SPDX-License-Identifier: MIT */
#include "packet/ecn.h"

#include "check.h"
#include "packets.h"

#include <stdlib.h>

#define DROP (-1)

/* RFC 6040 figure 4: rows the inner field, columns the outer one. */
static const int figure4[4][4] = {
	[WS_ECN_NOT_ECT] = {[WS_ECN_NOT_ECT] = WS_ECN_NOT_ECT,
			    [WS_ECN_ECT0] = WS_ECN_NOT_ECT,
			    [WS_ECN_ECT1] = WS_ECN_NOT_ECT,
			    [WS_ECN_CE] = DROP},
	[WS_ECN_ECT0] = {[WS_ECN_NOT_ECT] = WS_ECN_ECT0,
			 [WS_ECN_ECT0] = WS_ECN_ECT0,
			 [WS_ECN_ECT1] = WS_ECN_ECT1,
			 [WS_ECN_CE] = WS_ECN_CE},
	[WS_ECN_ECT1] = {[WS_ECN_NOT_ECT] = WS_ECN_ECT1,
			 [WS_ECN_ECT0] = WS_ECN_ECT1,
			 [WS_ECN_ECT1] = WS_ECN_ECT1,
			 [WS_ECN_CE] = WS_ECN_CE},
	[WS_ECN_CE] = {[WS_ECN_NOT_ECT] = WS_ECN_CE,
		       [WS_ECN_ECT0] = WS_ECN_CE,
		       [WS_ECN_ECT1] = WS_ECN_CE,
		       [WS_ECN_CE] = WS_ECN_CE},
};

/* Every outer byte on every inner byte: the result is the packet built with the right TOS. */
static void test_all(int version)
{
	uint8_t got[64], want[64], payload[8] = {1, 2, 3};
	struct model m = {.version = version,
			  .protocol = 17,
			  .ttl = 64,
			  .flow_label = 0xabcde,
			  .payload = payload,
			  .payload_bytes = 8};

	for (int inner = 0; inner < 256; inner++)
		for (int outer = 0; outer < 256; outer++) {
			int expect = figure4[inner & 3][outer & 3];
			size_t len;
			bool deliver;

			m.tos = (uint8_t)inner;
			m.id = (uint16_t)check_random();
			len = model_build(&m, got);
			CHECK_EQ(ws_ecn_encapsulate(got, len), inner & 3);
			deliver = ws_ecn_decapsulate((uint8_t)outer, got, len);
			CHECK_EQ(deliver, expect != DROP);
			if (expect != DROP)
				m.tos = (uint8_t)((inner & ~3) | expect);
			model_build(&m, want);
			CHECK(!memcmp(got, want, len));
		}
}

static void test_short(void)
{
	for (size_t len = 0; len < 40; len++)
		for (int version = 0; version < 16; version++) {
			uint8_t *packet = malloc(len), *before = malloc(len);

			if (len) {
				memset(packet, 0x02, len);
				packet[0] = (uint8_t)(version << 4 | 5);
				memcpy(before, packet, len);
			}
			if (version != 4 || len < 20) {
				CHECK_EQ(ws_ecn_encapsulate(packet, len), 0);
				CHECK(ws_ecn_decapsulate(WS_ECN_CE, packet, len));
				CHECK(!len || !memcmp(packet, before, len));
			} else {
				CHECK_EQ(ws_ecn_encapsulate(packet, len), 2);
			}
			free(packet);
			free(before);
		}
}

int main(void)
{
	test_all(4);
	test_all(6);
	test_short();
	return check_done();
}
