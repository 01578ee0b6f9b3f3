/* SPDX-License-Identifier: MIT */
#include "multipath/innerwindow.h"

#include "packet/ip.h"

#define SCALE_MOST 14 /* RFC 7323 section 2.3 */

enum { OPTION_END, OPTION_NONE, OPTION_SCALE = 3, OPTION_MD5 = 19, OPTION_AO = 29 };

/* Of the SYNs; both were seen, or hands off. */
enum { SYN_LEFT = 1, SYN_CAME = 2, BOTH = SYN_LEFT | SYN_CAME, SIGNED = 4 };

/* Of a SYN's options; false: without a scale. */
static bool scale_of(const uint8_t *tcp, uint8_t *scale, bool *is_signed)
{
	size_t end = ws_tcp_header_bytes(tcp), at = WS_TCP_BYTES;
	bool found = false;

	while (at < end && tcp[at] != OPTION_END) {
		size_t bytes = tcp[at] == OPTION_NONE ? 1 : at + 1 < end ? tcp[at + 1] : 0;

		if (!bytes || (bytes < 2 && tcp[at] != OPTION_NONE) || bytes > end - at)
			break;
		if (tcp[at] == OPTION_SCALE && bytes == 3) {
			found = true;
			*scale = tcp[at + 2] < SCALE_MOST ? tcp[at + 2] : SCALE_MOST;
		}
		*is_signed = *is_signed || tcp[at] == OPTION_MD5 || tcp[at] == OPTION_AO;
		at += bytes;
	}
	return found;
}

static void note_syn(struct ws_sender *senders, const uint8_t *packet, const uint8_t *tcp,
		     uint8_t way)
{
	uint32_t key = ws_tcp_hash(packet, tcp);
	struct ws_sender *sender = &senders[key % WS_SENDERS];
	bool is_signed = false;
	uint8_t scale = 0;

	if (!(tcp[WS_TCP_FLAGS] & WS_TCP_ACKED))
		*sender = (struct ws_sender){.key = key};
	if (sender->key != key)
		return;
	/* Both must offer one, or there is none. */
	if (!scale_of(tcp, &scale, &is_signed))
		is_signed = true;
	if (way == SYN_CAME)
		sender->scale = scale;
	sender->syns |= way | (is_signed ? SIGNED : 0);
}

/* Who is at one of its ends; NULL: not known. */
static struct ws_sender *sender_of(struct ws_sender *senders, const uint8_t *packet,
				   const uint8_t *tcp)
{
	uint32_t key = ws_tcp_hash(packet, tcp);
	struct ws_sender *sender = &senders[key % WS_SENDERS];

	return sender->key == key && sender->syns == BOTH ? sender : NULL;
}

void ws_inner_leaves(struct ws_sender *senders, const uint8_t *packet, size_t len, uint32_t queue,
		     bool bbr)
{
	const uint8_t *tcp = ws_ip_tcp(packet, &len);
	struct ws_sender *sender;
	uint32_t payload, end;

	if (!tcp)
		return;
	if (tcp[WS_TCP_FLAGS] & WS_TCP_SYN) {
		note_syn(senders, packet, tcp, SYN_LEFT);
		return;
	}
	payload = (uint32_t)(len - ws_tcp_header_bytes(tcp));
	sender = payload ? sender_of(senders, packet, tcp) : NULL;
	if (!sender)
		return;
	end = ws_get32(tcp + WS_TCP_SEQ) + payload;
	if (!sender->sends || (int32_t)(end - sender->sent) > 0)
		sender->sent = end;
	sender->sends = true;
	sender->queue = (uint16_t)queue;
	sender->bbr = bbr;
}

bool ws_inner_known(struct ws_sender *senders, const uint8_t *packet, size_t len)
{
	const uint8_t *tcp = ws_ip_tcp(packet, &len);

	return tcp && sender_of(senders, packet, tcp);
}

struct ws_sender *ws_inner_comes(struct ws_sender *senders, const uint8_t *packet, size_t len)
{
	const uint8_t *tcp = ws_ip_tcp(packet, &len);
	struct ws_sender *sender;

	if (!tcp)
		return NULL;
	if (tcp[WS_TCP_FLAGS] & WS_TCP_SYN) {
		note_syn(senders, packet, tcp, SYN_CAME);
		return NULL;
	}
	sender = sender_of(senders, packet, tcp);
	/* With all acknowledged no more ACKs would come to open it again. */
	if (!sender || !sender->sends || !(tcp[WS_TCP_FLAGS] & WS_TCP_ACKED) ||
	    (int32_t)(sender->sent - ws_get32(tcp + WS_TCP_ACK)) <= 0)
		return NULL;
	return sender;
}

/* RFC 1624: the sum over all when one word of it changes. */
static uint16_t sum_with(uint16_t sum, uint16_t old, uint16_t new)
{
	uint32_t of = (uint16_t)~sum + (uint32_t)(uint16_t)~old + new;

	of = (of & 0xffff) + (of >> 16);
	return (uint16_t) ~((of & 0xffff) + (of >> 16));
}

bool ws_inner_narrow(const struct ws_sender *sender, uint8_t *packet, size_t len, uint64_t room,
		     bool partial)
{
	const uint8_t *found = ws_ip_tcp(packet, &len);
	uint8_t *tcp = packet + (found - packet);
	uint32_t under_way = sender->sent - ws_get32(tcp + WS_TCP_ACK);
	uint16_t field = ws_get16(tcp + WS_TCP_WINDOW);
	/* Up to the next whole one: what was sent stays inside. */
	uint64_t may = (under_way + room + (1u << sender->scale) - 1) >> sender->scale;

	if (may >= field)
		return false;
	ws_put16(tcp + WS_TCP_WINDOW, (uint16_t)may);
	if (!partial)
		ws_put16(tcp + WS_TCP_CHECKSUM,
			 sum_with(ws_get16(tcp + WS_TCP_CHECKSUM), field, (uint16_t)may));
	return true;
}
