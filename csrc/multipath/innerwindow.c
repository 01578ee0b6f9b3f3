/* SPDX-License-Identifier: MIT */
#include "multipath/innerwindow.h"

#include "packet/ip.h"

#define SCALE_MOST 14 /* RFC 7323 section 2.3 */

enum {
	OPTION_END,
	OPTION_NONE,
	OPTION_SCALE = 3,
	OPTION_SACK = 4,
	OPTION_MD5 = 19,
	OPTION_AO = 29,
	OPTION_MPTCP = 30
};

/* Of the SYNs; both were seen, or hands off. */
enum { SYN_LEFT = 1, SYN_CAME = 2, BOTH = SYN_LEFT | SYN_CAME, LEFT_ALONE = 4 };

/* Of our end and the other one, in this order whichever way the packet goes. */
static uint32_t key_of(uint32_t salt, const uint8_t *packet, const uint8_t *tcp, bool leaves)
{
	size_t both, at = ws_ip_addresses(packet, &both), half = both / 2;
	size_t ours = leaves ? 0 : half;
	uint32_t hash = salt, ports = ws_get32(tcp);

	for (size_t i = 0; i < both; i += sizeof(hash))
		hash = ws_flow_mix(hash, ws_get32(packet + at + (ours + i) % both));
	return ws_flow_mix(hash, leaves ? ports : ports << 16 | ports >> 16);
}

/* What a SYN offers; false: nothing that its windows could be made smaller with. */
static bool offers(const uint8_t *tcp, uint8_t *scale)
{
	size_t end = ws_tcp_header_bytes(tcp), at = WS_TCP_BYTES;
	bool scaled = false, sack = false;

	while (at < end && tcp[at] != OPTION_END) {
		size_t bytes = tcp[at] == OPTION_NONE ? 1 : at + 1 < end ? tcp[at + 1] : 0;

		if (!bytes || (bytes < 2 && tcp[at] != OPTION_NONE) || bytes > end - at)
			return false;
		if (tcp[at] == OPTION_SCALE && bytes == 3) {
			scaled = true;
			*scale = tcp[at + 2] < SCALE_MOST ? tcp[at + 2] : SCALE_MOST;
		}
		if (tcp[at] == OPTION_MD5 || tcp[at] == OPTION_AO || tcp[at] == OPTION_MPTCP)
			return false;
		sack = sack || tcp[at] == OPTION_SACK;
		at += bytes;
	}
	return scaled && sack;
}

/* Each end's first SYN counts: it leaves twice, may be sent again, and anybody could send another. */
static void note_syn(struct ws_sender *sender, uint32_t key, const uint8_t *tcp, uint8_t way)
{
	bool answer = tcp[WS_TCP_FLAGS] & WS_TCP_ACKED;
	uint32_t isn = answer ? ws_get32(tcp + WS_TCP_ACK) - 1 : ws_get32(tcp + WS_TCP_SEQ);
	uint8_t scale = 0;

	/* Another connection, of these ends or of others; of an answer alone nothing can be known. */
	if (!answer && (sender->key != key || sender->isn != isn))
		*sender = (struct ws_sender){.key = key, .isn = isn};
	else if (sender->key == key && sender->isn != isn)
		*sender = (struct ws_sender){0};
	if (sender->key != key || sender->syns & way)
		return;
	/* Both must offer it, or there is none. */
	sender->syns |= way | (offers(tcp, &scale) ? 0 : LEFT_ALONE);
	if (way == SYN_CAME)
		sender->scale = scale;
}

static bool is_known(const struct ws_sender *sender, uint32_t key)
{
	return sender->key == key && sender->syns == BOTH;
}

/* Who is at our end of it; *tcp: its header, with *len bytes from there on. A SYN is noted, and has nobody. */
static struct ws_sender *sender_of(struct ws_sender *senders, uint32_t salt, const uint8_t *packet,
				   size_t *len, uint8_t way, const uint8_t **tcp)
{
	struct ws_sender *sender;
	uint32_t key;

	*tcp = ws_ip_tcp(packet, len);
	if (!*tcp)
		return NULL;
	key = key_of(salt, packet, *tcp, way == SYN_LEFT);
	sender = &senders[key % WS_SENDERS];
	if ((*tcp)[WS_TCP_FLAGS] & WS_TCP_SYN) {
		note_syn(sender, key, *tcp, way);
		return NULL;
	}
	return is_known(sender, key) ? sender : NULL;
}

void ws_inner_leaves(struct ws_sender *senders, uint32_t salt, const uint8_t *packet, size_t len,
		     uint32_t queue, bool own, bool bbr)
{
	const uint8_t *tcp;
	struct ws_sender *sender = sender_of(senders, salt, packet, &len, SYN_LEFT, &tcp);
	uint32_t payload, end;

	if (!sender)
		return;
	payload = (uint32_t)(len - ws_tcp_header_bytes(tcp));
	if (!payload)
		return;
	end = ws_get32(tcp + WS_TCP_SEQ) + payload;
	if (!sender->sends)
		sender->acked = sender->told = sender->round_end = end - payload;
	if (!sender->sends || (int32_t)(end - sender->sent) > 0)
		sender->sent = end;
	else
		sender->again = true;
	sender->sends = true;
	sender->queue = (uint16_t)queue;
	sender->own = own;
	sender->bbr = bbr;
}

bool ws_inner_known(const struct ws_sender *senders, uint32_t salt, const uint8_t *packet,
		    size_t len)
{
	const uint8_t *tcp = ws_ip_tcp(packet, &len);
	uint32_t key = tcp ? key_of(salt, packet, tcp, true) : 0;

	return tcp && is_known(&senders[key % WS_SENDERS], key);
}

struct ws_sender *ws_inner_comes(struct ws_sender *senders, uint32_t salt, const uint8_t *packet,
				 size_t len)
{
	const uint8_t *tcp;
	struct ws_sender *sender = sender_of(senders, salt, packet, &len, SYN_CAME, &tcp);

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
