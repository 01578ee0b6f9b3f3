/* SPDX-License-Identifier: MIT */
/* One way each to make a packet unlike its neighbours. */
#ifndef WS_TEST_COALESCE_CHANGES_H
#define WS_TEST_COALESCE_CHANGES_H

#include "packets.h"

static void tos(struct model *m)
{
	m->tos ^= 2;
}
static void ttl(struct model *m)
{
	m->ttl--;
}
static void flow_label(struct model *m)
{
	m->flow_label ^= 1;
}
static void no_df(struct model *m)
{
	m->fragment ^= 0x4000;
}
static void other_id(struct model *m)
{
	m->id += 7;
}
static void ack(struct model *m)
{
	m->ack++;
}
static void window(struct model *m)
{
	m->window++;
}
static void urgent(struct model *m)
{
	m->urgent++;
}
static void options(struct model *m)
{
	m->option_fill++;
}
static void options_length(struct model *m)
{
	m->tcp_options += 4;
}
static void ip_options(struct model *m)
{
	m->ip_options = 4;
}
static void gap(struct model *m)
{
	m->seq += 100;
}
static void retransmit(struct model *m)
{
	m->seq -= 100;
}
static void longer(struct model *m)
{
	m->payload_bytes++;
}
static void shorter(struct model *m)
{
	m->payload_bytes--;
}
static void empty(struct model *m)
{
	m->payload_bytes = 0;
}
static void psh(struct model *m)
{
	m->flags |= 0x08;
}
static void fin(struct model *m)
{
	m->flags |= 0x01;
}
static void syn(struct model *m)
{
	m->flags |= 0x02;
}
static void rst(struct model *m)
{
	m->flags |= 0x04;
}
static void no_ack(struct model *m)
{
	m->flags = 0;
}
static void urg(struct model *m)
{
	m->flags |= 0x20;
}
static void ece(struct model *m)
{
	m->flags |= 0x40;
}
static void cwr(struct model *m)
{
	m->flags |= 0x80;
}
static void accurate_ecn(struct model *m)
{
	m->reserved = 1;
}
static void no_checksum(struct model *m)
{
	m->no_checksum = true;
}

#endif
