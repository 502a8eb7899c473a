/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * SipHash-1-3 (Aumasson, Bernstein 2012) of the bytes that `src/director/selection.rs` lists.
 */
#ifndef TUNLB_SIPHASH_H
#define TUNLB_SIPHASH_H

#include "layout.h"

struct sip {
	__u64 v0, v1, v2, v3;
};

#define ROTATE(word, bits) ((word) << (bits) | (word) >> (64 - (bits)))

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = ROTATE(s->v1, 13) ^ s->v0;
	s->v0 = ROTATE(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ROTATE(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ROTATE(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ROTATE(s->v1, 17) ^ s->v2;
	s->v2 = ROTATE(s->v2, 32);
}

static __always_inline void sip_word(struct sip *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

static __always_inline struct sip sip_begin(const struct settings *settings)
{
	struct sip s = {
		.v0 = settings->key[0] ^ 0x736f6d6570736575,
		.v1 = settings->key[1] ^ 0x646f72616e646f6d,
		.v2 = settings->key[0] ^ 0x6c7967656e657261,
		.v3 = settings->key[1] ^ 0x7465646279746573,
	};
	return s;
}

/* `rest`: the bytes after the last whole word, and the length of all in the highest byte. */
static __always_inline __u64 sip_end(struct sip *s, __u64 rest)
{
	sip_word(s, rest);
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* Two words of an address as one of the hash. */
static __always_inline __u64 sip_pair(__be32 first, __be32 second)
{
	return first | (__u64)second << 32;
}

static __always_inline void sip_address(struct sip *s, const __be32 *address)
{
	sip_word(s, sip_pair(address[0], address[1]));
	sip_word(s, sip_pair(address[2], address[3]));
}

/* The hash of a 5-tuple. */
static __always_inline __u64 hash_flow(const struct settings *settings, const struct flow_key *key)
{
	struct sip s = sip_begin(settings);
	__u64 rest = key->source_port | (__u64)key->destination_port << 16 | (__u64)key->protocol << 32;

	if (key->family == 4) {
		sip_word(&s, sip_pair(key->source[0], key->destination[0]));
		return sip_end(&s, rest | 13ULL << 56);
	}
	sip_address(&s, key->source);
	sip_address(&s, key->destination);
	return sip_end(&s, rest | 37ULL << 56);
}

static __always_inline __u64 hash_client(const struct settings *settings, const struct flow_key *key)
{
	struct sip s = sip_begin(settings);

	if (key->family == 4)
		return sip_end(&s, key->source[0] | 4ULL << 56);
	sip_address(&s, key->source);
	return sip_end(&s, 16ULL << 56);
}

static __always_inline __u64 hash_port(const struct settings *settings, const struct flow_key *key)
{
	struct sip s = sip_begin(settings);

	return sip_end(&s, key->destination_port | 2ULL << 56);
}

#endif
