/* SPDX-License-Identifier: MIT */
/*
 * ipsec-mb is bound at run time (dlopen), so one build works with and without
 * the library. Of its interfaces the one-piece job without parameter checks is
 * the fastest: measured at 1,420 bytes 414 ns, the direct init/update/finalize
 * calls 564, two updates 704, an SGL job 718. Hence two pieces are first
 * gathered in dst (40 ns) and sealed in place.
 */
#include "packet/aead.h"

#include "api/types.h"
#include "packet/aead_vectors.h"
#include "shared/wire.h"

#include <endian.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__has_include) && !defined(WS_WITHOUT_IPSEC_MB)
#if __has_include(<intel-ipsec-mb.h>)
#define HAVE_IPSEC_MB 1
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#endif
#endif

#define NONCE_BYTES 12
#define MAX_BYTES 65535
#define FORGET_BYTES 1100

struct ws_aead {
	uint32_t cipher;
	EVP_CIPHER_CTX *seal_ctx, *open_ctx;
#ifdef HAVE_IPSEC_MB
	IMB_MGR *mgr;
	/* The AVX2 code reads 16 bytes past a key's end: it gets a copy with room, wiped at once. */
	uint8_t key[WS_KEY_BYTES + 16];
#endif
};

/* One call of either implementation; in and out are equal or do not overlap. */
struct request {
	const uint8_t *key;
	const uint8_t *nonce;
	const uint8_t *aad;
	size_t aad_len;
	uint8_t *out;
	const uint8_t *in;
	size_t len; /* of the text without its tag */
	uint8_t *tag; /* seal: written; open: where the right tag (ipsec-mb) or its claim is */
};

static void nonce_of(uint8_t nonce[NONCE_BYTES], uint64_t counter)
{
	uint64_t little = htole64(counter);

	memset(nonce, 0, 4);
	memcpy(nonce + 4, &little, sizeof(little));
}

/* Intel ipsec-mb */

#ifdef HAVE_IPSEC_MB
static struct {
	IMB_MGR *(*alloc)(uint64_t flags);
	void (*free)(IMB_MGR *mgr);
	void (*init_auto)(IMB_MGR *mgr, IMB_ARCH *arch);
	unsigned (*version)(void);
} imb;

/*
 * The handle is kept for the life of the process. Only new contexts come here, from one thread.
 * IMB_MGR and IMB_JOB are read through this header's layout, so the library has to be of the same
 * major (which names the file) and minor version.
 */
static int imb_load(void)
{
	char name[sizeof("libIPSec_MB.so.") + 3];
	void *library;

	if (imb.version)
		return 0;
	snprintf(name, sizeof(name), "libIPSec_MB.so.%u", (uint8_t)(IMB_VERSION_NUM >> 16));
	library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return -ELIBACC;
	*(void **)&imb.alloc = dlsym(library, "alloc_mb_mgr");
	*(void **)&imb.free = dlsym(library, "free_mb_mgr");
	*(void **)&imb.init_auto = dlsym(library, "init_mb_mgr_auto");
	*(void **)&imb.version = dlsym(library, "imb_get_version");
	if (!imb.alloc || !imb.free || !imb.init_auto || !imb.version ||
	    imb.version() >> 8 != IMB_VERSION_NUM >> 8) {
		imb.version = NULL;
		dlclose(library);
		return -ELIBACC;
	}
	return 0;
}

static int imb_open(struct ws_aead *aead)
{
	IMB_ARCH arch = IMB_ARCH_NONE;
	int error = imb_load();

	if (error)
		return error;
	aead->mgr = imb.alloc(0);
	if (!aead->mgr)
		return -ENOMEM;
	imb.init_auto(aead->mgr, &arch);
	/* The library tests itself at init; without SSE4.2 it leaves the manager empty. */
	if (arch == IMB_ARCH_NONE || aead->mgr->imb_errno ||
	    ((aead->mgr->features & IMB_FEATURE_SELF_TEST) &&
	     !(aead->mgr->features & IMB_FEATURE_SELF_TEST_PASS)))
		return -ENOTSUP;
	return 0;
}

/* Writes the text and the right tag; compares nothing. */
static bool imb_run(struct ws_aead *aead, const struct request *request, bool seal)
{
	IMB_JOB *job = aead->mgr->get_next_job(aead->mgr);

	memcpy(aead->key, request->key, WS_KEY_BYTES);
	job->enc_keys = aead->key;
	job->dec_keys = aead->key;
	job->key_len_in_bytes = WS_KEY_BYTES;
	job->src = request->in;
	job->dst = request->out;
	job->cipher_start_src_offset_in_bytes = 0;
	job->msg_len_to_cipher_in_bytes = request->len;
	job->hash_start_src_offset_in_bytes = 0;
	job->msg_len_to_hash_in_bytes = request->len;
	job->iv = request->nonce;
	job->iv_len_in_bytes = NONCE_BYTES;
	job->auth_tag_output = request->tag;
	job->auth_tag_output_len_in_bytes = WS_TAG_BYTES;
	job->u.CHACHA20_POLY1305.aad = request->aad;
	job->u.CHACHA20_POLY1305.aad_len_in_bytes = request->aad_len;
	job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
	job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
	job->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
	job->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
	job = aead->mgr->submit_job_nocheck(aead->mgr);
	OPENSSL_cleanse(aead->key, WS_KEY_BYTES);
	/* This cipher has no multi-buffer form: the job is done on return. */
	return job && job->status == IMB_STATUS_COMPLETED;
}
#endif

/* OpenSSL EVP */

static EVP_CIPHER_CTX *evp_context(bool seal)
{
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

	/* The context holds its own reference to the cipher. */
	if (!cipher || !ctx || !EVP_CipherInit_ex(ctx, cipher, NULL, NULL, NULL, seal)) {
		EVP_CIPHER_CTX_free(ctx);
		ctx = NULL;
	}
	EVP_CIPHER_free(cipher);
	return ctx;
}

/* Seal: writes the tag. Open: false if request->tag is not the right one. */
static bool evp_run(EVP_CIPHER_CTX *ctx, const struct request *request, bool seal)
{
	uint8_t none[WS_TAG_BYTES];
	int written;

	if (!EVP_CipherInit_ex(ctx, NULL, NULL, request->key, request->nonce, -1))
		return false;
	if (!seal && !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, WS_TAG_BYTES, request->tag))
		return false;
	if (request->aad_len &&
	    !EVP_CipherUpdate(ctx, NULL, &written, request->aad, (int)request->aad_len))
		return false;
	if (request->len &&
	    !EVP_CipherUpdate(ctx, request->out, &written, request->in, (int)request->len))
		return false;
	/* Compares the tag in constant time (CRYPTO_memcmp). A stream cipher adds no bytes here. */
	if (!EVP_CipherFinal_ex(ctx, none, &written))
		return false;
	return !seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, WS_TAG_BYTES, request->tag);
}

/* Both behind one face */

static bool seal_request(struct ws_aead *aead, const struct request *request)
{
#ifdef HAVE_IPSEC_MB
	if (aead->mgr)
		return imb_run(aead, request, true);
#endif
	return evp_run(aead->seal_ctx, request, true);
}

static bool open_request(struct ws_aead *aead, struct request *request)
{
#ifdef HAVE_IPSEC_MB
	if (aead->mgr) {
		const uint8_t *claimed = request->tag;
		uint8_t right[WS_TAG_BYTES];

		request->tag = right;
		return imb_run(aead, request, false) &&
		       !CRYPTO_memcmp(right, claimed, WS_TAG_BYTES);
	}
#endif
	return evp_run(aead->open_ctx, request, false);
}

static struct ws_aead *aead_new(uint32_t cipher)
{
	struct ws_aead *aead = calloc(1, sizeof(*aead));
	int error = -ENOTSUP;

	if (!aead) {
		errno = ENOMEM;
		return NULL;
	}
	aead->cipher = cipher;
	if (cipher == WS_CIPHER_OPENSSL) {
		aead->seal_ctx = evp_context(true);
		aead->open_ctx = evp_context(false);
		if (aead->seal_ctx && aead->open_ctx)
			return aead;
	}
	if (cipher == WS_CIPHER_IPSEC_MB) {
#ifdef HAVE_IPSEC_MB
		error = imb_open(aead);
		if (!error)
			return aead;
#else
		error = -ENOSYS;
#endif
	}
	ws_aead_free(aead);
	errno = -error;
	return NULL;
}

struct ws_aead *ws_aead_new(uint32_t cipher)
{
	struct ws_aead *aead;

	if (cipher != WS_CIPHER_AUTO)
		return aead_new(cipher);
	aead = aead_new(WS_CIPHER_IPSEC_MB);
	if (aead && !ws_aead_selftest(aead))
		return aead;
	ws_aead_free(aead);
	return aead_new(WS_CIPHER_OPENSSL);
}

void ws_aead_free(struct ws_aead *aead)
{
	if (!aead)
		return;
	/* OpenSSL cleanses what it frees. */
	EVP_CIPHER_CTX_free(aead->seal_ctx);
	EVP_CIPHER_CTX_free(aead->open_ctx);
#ifdef HAVE_IPSEC_MB
	if (aead->mgr)
		imb.free(aead->mgr);
#endif
	OPENSSL_cleanse(aead, sizeof(*aead));
	free(aead);
}

uint32_t ws_aead_cipher(const struct ws_aead *aead)
{
	return aead->cipher;
}

void ws_aead_seal(struct ws_aead *aead, const uint8_t key[WS_KEY_BYTES], uint64_t counter,
		  uint8_t *dst, const uint8_t *src, size_t len)
{
	uint8_t nonce[NONCE_BYTES];
	struct request request = {
		.key = key, .nonce = nonce, .out = dst, .in = src, .len = len, .tag = dst + len};

	nonce_of(nonce, counter);
	/* Cannot fail in practice; if it does, no plaintext may leave. */
	if (len > MAX_BYTES || !seal_request(aead, &request))
		memset(dst, 0, len + WS_TAG_BYTES);
}

void ws_aead_seal2(struct ws_aead *aead, const uint8_t key[WS_KEY_BYTES], uint64_t counter,
		   uint8_t *dst, const uint8_t *head, size_t head_len, const uint8_t *body,
		   size_t body_len, size_t zero_padding)
{
	uint8_t *at = dst;

	if (head_len && head != at)
		memcpy(at, head, head_len);
	at += head_len;
	if (body_len && body != at)
		memcpy(at, body, body_len);
	at += body_len;
	if (zero_padding)
		memset(at, 0, zero_padding);
	ws_aead_seal(aead, key, counter, dst, dst, head_len + body_len + zero_padding);
}

bool ws_aead_open(struct ws_aead *aead, const uint8_t key[WS_KEY_BYTES], uint64_t counter,
		  uint8_t *dst, const uint8_t *src, size_t len)
{
	uint8_t nonce[NONCE_BYTES];
	uint8_t tag[WS_TAG_BYTES];
	struct request request = {.key = key, .nonce = nonce, .out = dst, .in = src, .tag = tag};

	if (len < WS_TAG_BYTES || len > MAX_BYTES + WS_TAG_BYTES)
		return false;
	request.len = len - WS_TAG_BYTES;
	memcpy(tag, src + request.len, WS_TAG_BYTES);
	nonce_of(nonce, counter);
	return open_request(aead, &request);
}

/*
 * OpenSSL keeps key, keystream and Poly1305 state till the next use overwrites
 * them. Hence a use: under a key of zeros, long enough to run the wide code and
 * with a last block that is not whole, so that each of these is written anew.
 */
void ws_aead_forget(struct ws_aead *aead)
{
	static const uint8_t zero_key[WS_KEY_BYTES];
	uint8_t text[FORGET_BYTES + WS_TAG_BYTES] = {0};

	if (!aead->seal_ctx)
		return; /* ipsec-mb: its copy of the key is wiped after each packet */
	ws_aead_seal(aead, zero_key, 0, text, text, FORGET_BYTES);
	(void)ws_aead_open(aead, zero_key, 0, text, text, sizeof(text));
}

/* The self-test */

static bool vectors_pass(struct ws_aead *aead)
{
	uint8_t out[512];

	for (size_t i = 0; i < sizeof(rfc8439_vectors) / sizeof(rfc8439_vectors[0]); i++) {
		size_t sealed_bytes = rfc8439_vectors[i].sealed_bytes;
		uint8_t tag[WS_TAG_BYTES];
		struct request request = {.key = rfc8439_vectors[i].key,
					  .nonce = rfc8439_vectors[i].nonce,
					  .aad = rfc8439_vectors[i].aad,
					  .aad_len = sizeof(rfc8439_vectors[i].aad),
					  .out = out,
					  .in = (const uint8_t *)rfc8439_vectors[i].plaintext,
					  .len = sealed_bytes - WS_TAG_BYTES,
					  .tag = out + sealed_bytes - WS_TAG_BYTES};

		if (!seal_request(aead, &request) ||
		    memcmp(out, rfc8439_vectors[i].sealed, sealed_bytes))
			return false;
		memcpy(tag, out + request.len, WS_TAG_BYTES);
		request.in = rfc8439_vectors[i].sealed;
		request.tag = tag;
		if (!open_request(aead, &request) ||
		    memcmp(out, rfc8439_vectors[i].plaintext, request.len))
			return false;
	}
	return true;
}

/* In place and out of place, in one and two pieces, back again, and not with a bit flipped. */
static bool length_passes(struct ws_aead *aead, struct ws_aead *reference, const uint8_t *text,
			  size_t len)
{
	const uint8_t *key = text; /* any bytes will do */
	uint8_t sealed[2048 + WS_TAG_BYTES], again[2048 + WS_TAG_BYTES];
	size_t flip = len * 7 % (len + WS_TAG_BYTES), split = len / 3;

	ws_aead_seal(aead, key, len, sealed, text, len);
	ws_aead_seal2(reference, key, len, again, text, split, text + split, len - split, 0);
	if (memcmp(sealed, again, len + WS_TAG_BYTES))
		return false;
	if (!ws_aead_open(aead, key, len, again, sealed, len + WS_TAG_BYTES) ||
	    memcmp(again, text, len))
		return false;
	sealed[flip] ^= 1 << len % 8;
	if (ws_aead_open(aead, key, len, again, sealed, len + WS_TAG_BYTES))
		return false;
	sealed[flip] ^= 1 << len % 8;
	return ws_aead_open(aead, key, len, sealed, sealed, len + WS_TAG_BYTES) &&
	       !memcmp(sealed, text, len);
}

int ws_aead_selftest(struct ws_aead *aead)
{
	struct ws_aead *reference = aead_new(WS_CIPHER_OPENSSL);
	uint8_t text[2048];
	bool pass = vectors_pass(aead);

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 193 + i / 256);
	/* Every remainder of the block sizes, then some of the lengths the wide code is for. */
	for (size_t len = 0; pass && len <= sizeof(text); len += len < 300 ? 1 : 23)
		pass = length_passes(aead, reference ? reference : aead, text, len);
	ws_aead_free(reference);
	return pass ? 0 : -EBADMSG;
}

/* mac1 */

struct ws_mac1 {
	EVP_MAC_CTX *ctx;
	uint8_t key[32];
};

struct ws_mac1 *ws_mac1_new(const uint8_t public_key[32])
{
	static const char label[8] = "mac1----";
	size_t size = WS_MAC_BYTES;
	const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_END};
	struct ws_mac1 *mac1 = calloc(1, sizeof(*mac1));
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
	uint8_t input[sizeof(label) + 32];
	int error = ENOTSUP;

	if (!mac1) {
		error = ENOMEM;
		goto fail;
	}
	memcpy(input, label, sizeof(label));
	memcpy(input + sizeof(label), public_key, 32);
	if (!mac || !EVP_Digest(input, sizeof(input), mac1->key, NULL, EVP_blake2s256(), NULL))
		goto fail;
	mac1->ctx = EVP_MAC_CTX_new(mac); /* holds its own reference to mac */
	if (!mac1->ctx || !EVP_MAC_init(mac1->ctx, mac1->key, sizeof(mac1->key), params))
		goto fail;
	EVP_MAC_free(mac);
	return mac1;
fail:
	EVP_MAC_free(mac);
	ws_mac1_free(mac1);
	errno = error;
	return NULL;
}

void ws_mac1_free(struct ws_mac1 *mac1)
{
	if (!mac1)
		return;
	EVP_MAC_CTX_free(mac1->ctx);
	OPENSSL_cleanse(mac1, sizeof(*mac1));
	free(mac1);
}

bool ws_mac1_check(struct ws_mac1 *mac1, const uint8_t *message, size_t len)
{
	uint8_t right[WS_MAC_BYTES];
	size_t covered, written;

	if (len < 2 * WS_MAC_BYTES)
		return false;
	covered = len - 2 * WS_MAC_BYTES;
	/* A new init starts over; the output size set at first stays. */
	if (!EVP_MAC_init(mac1->ctx, mac1->key, sizeof(mac1->key), NULL) ||
	    !EVP_MAC_update(mac1->ctx, message, covered) ||
	    !EVP_MAC_final(mac1->ctx, right, &written, sizeof(right)) || written != sizeof(right))
		return false;
	return !CRYPTO_memcmp(right, message + covered, WS_MAC_BYTES);
}
