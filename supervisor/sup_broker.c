/* SPDX-License-Identifier: MIT */
/*
 * Rings of a session: who gets what, and when
 *
 * A ring goes to its producer first. When the producer has mapped it, it is sealed, and each consumer that is there
 * gets it; one that comes later, or again, gets it then, with the consumer page that its predecessor left. A producer's
 * death ends its rings: consumers drain them and close them, the next producer gets new ones, one generation up.
 *
 * RING_LIVE tells a producer that it does not publish into the void. For in.video that means egress, and the worker
 * with its way back, so that the first frame already comes out processed. A worker gets LIVE_WAIT_NS for that; after
 * it frames flow and the fallback fills in. Audio and out rings wait for their consumer alone.
 */
#include "supervisor/sup_session.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "supervisor/sup_worker.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>

#include "supervisor/sup_priv.h"

#define LIVE_WAIT_NS	(500 * CLOCK_MS_NS)
#define LEFT_WAIT_NS	CLOCK_SEC_NS
#define RING_EVERY_NS	CLOCK_SEC_NS
enum {
	WORKER_DEPTH = 2, OUT_VIDEO_HOLDS = 3, AUDIO_HOLDS = 4, GENERATIONS_MAX = 2, RINGS_AT_ONCE = 4,
	SEAT_WORKER = SUP_SEAT_IN_WORKER, SEAT_EGRESS = 1, /* of in.video */
};

static const uint64_t skip_none[4] = { 0 };

/* The child of that role, if it has its SESSION_OPEN and lives. */
static struct sup_child *
child_of(const struct sup_session *s, enum ctl_role role)
{
	struct sup_child *c;

	if (role == CTL_ROLE_WORKER)
		return s->worker != NULL && !s->worker_waits ? sup_worker_child(s->worker) : NULL;
	c = (struct sup_child *)(uintptr_t)(role == CTL_ROLE_INGEST ? &s->ingest.child : &s->egress.child);
	return sup_child_alive(c) && (role == CTL_ROLE_INGEST ? s->ingest.session_sent : s->egress.session_sent) ? c : NULL;
}

static struct sup_ring *
find(const struct sup_session *s, uint32_t id, uint32_t generation)
{
	struct sup_ring *ring;

	TAILQ_FOREACH(ring, &s->rings, link)
		if (ring->open.ring_id == id && ring->open.generation == generation)
			return ring;
	return NULL;
}

/* The ring of that id that is not on its way out; NULL. */
static struct sup_ring *
current(const struct sup_session *s, uint32_t id)
{
	struct sup_ring *ring;

	TAILQ_FOREACH_REVERSE(ring, &s->rings, sup_rings, link)
		if (ring->open.ring_id == id && !ring->ended && !ring->replaced)
			return ring;
	return NULL;
}

static bool
is_producer(const struct sup_ring *ring, const struct sup_child *c)
{
	return c != NULL && ring->producer_id == c->id && ring->producer_incarnation == c->incarnation;
}

static void
log_ring(const struct sup_session *s, const struct sup_ring *ring, const char *event)
{
	log_info("ring", event, "session=%s ring=%s generation=%u slots=%u bytes=%llu", s->stream.log_id,
	    sup_ring_name(ring->open.ring_id), ring->open.generation, ring->open.slot_count,
	    (unsigned long long)ring->data_bytes);
}

static void
drop_ring(struct sup_session *s, struct sup_ring *ring)
{
	TAILQ_REMOVE(&s->rings, ring, link);
	sup_ring_free(&ring);
}

/* ---- the end of a ring ------------------------------------------------ */

static bool
seat_done(const struct sup_ring *ring, unsigned i)
{
	const struct sup_seat *seat = &ring->seat[i];

	return seat->stage == SUP_SEAT_CLOSED || (seat->stage == SUP_SEAT_EMPTY && !seat->given);
}

/* Frees an ended ring that nobody drains any more. */
static void
collect(struct sup_session *s, struct sup_ring *ring)
{
	if (!ring->ended)
		return;
	for (unsigned i = 0; i < ring->open.consumer_count; i++)
		if (!seat_done(ring, i))
			return;
	log_ring(s, ring, "closed");
	drop_ring(s, ring);
}

/* The producer has left it for good. */
static void
end_ring(struct sup_session *s, struct sup_ring *ring)
{
	if (ring->ended)
		return;
	ring->ended = true;
	if (ring->stage < SUP_RING_MAPPED) { /* no consumer has seen it */
		drop_ring(s, ring);
		return;
	}
	for (unsigned i = 0; i < ring->open.consumer_count; i++) {
		struct sup_seat *seat = &ring->seat[i];
		struct sup_child *c = child_of(s, seat->role);

		if (c != NULL && (seat->stage == SUP_SEAT_OFFERED || seat->stage == SUP_SEAT_MAPPED))
			sup_ring_tell(ring, CTL_RING_ENDED, c, s->num);
	}
	collect(s, ring);
}

/* At most two generations: the oldest goes by force. */
static void
limit_generations(struct sup_session *s, uint32_t id)
{
	struct sup_ring *ring, *oldest = NULL;
	uint32_t generation;
	unsigned count = 0;

	TAILQ_FOREACH(ring, &s->rings, link)
		if (ring->open.ring_id == id) {
			oldest = oldest != NULL ? oldest : ring;
			count++;
		}
	if (count <= GENERATIONS_MAX)
		return;
	generation = oldest->open.generation;
	end_ring(s, oldest); /* may free it */
	if (find(s, id, generation) == NULL)
		return;
	s->rings_replaced++;
	log_ring(s, oldest, "replaced");
	drop_ring(s, oldest);
}

/* ---- going live ------------------------------------------------------- */

static bool
seat_mapped(const struct sup_ring *ring, unsigned i)
{
	return ring != NULL && ring->seat[i].stage == SUP_SEAT_MAPPED;
}

static bool
worker_is_through(const struct sup_session *s, const struct sup_ring *in)
{
	const struct sup_ring *out = current(s, CTL_RING_OUT_VIDEO);

	return seat_mapped(in, SEAT_WORKER) && out != NULL && out->stage == SUP_RING_LIVE;
}

static bool
may_go_live(struct sup_session *s, struct sup_ring *ring, int64_t now_ns)
{
	unsigned egress = ring->open.ring_id == CTL_RING_IN_VIDEO ? SEAT_EGRESS : 0;

	if (ring->stage != SUP_RING_MAPPED || ring->ended || !seat_mapped(ring, egress))
		return false;
	if (ring->ready_ns == 0)
		ring->ready_ns = now_ns;
	if (ring->open.ring_id != CTL_RING_IN_VIDEO || child_of(s, CTL_ROLE_WORKER) == NULL)
		return true;
	return worker_is_through(s, ring) || now_ns - ring->ready_ns >= LIVE_WAIT_NS;
}

static void
go_live(struct sup_session *s, struct sup_ring *ring, int64_t now_ns)
{
	struct sup_child *c = child_of(s, ring->producer_role);
	struct sup_ring *old;

	if (!is_producer(ring, c))
		return;
	ring->stage = SUP_RING_LIVE;
	sup_ring_tell(ring, CTL_RING_LIVE, c, s->num);
	log_ring(s, ring, "live");
	TAILQ_FOREACH(old, &s->rings, link)
		if (old->open.ring_id == ring->open.ring_id && old->replaced && old->replaced_ns == 0)
			old->replaced_ns = now_ns;
}

/* Out rings first: in.video waits for them. */
static void
settle(struct sup_session *s)
{
	static const uint8_t order[] = { CTL_RING_OUT_VIDEO, CTL_RING_OUT_AUDIO, CTL_RING_IN_AUDIO_WORKER,
		CTL_RING_IN_AUDIO_EGRESS, CTL_RING_IN_VIDEO };
	int64_t now = clock_now_ns();

	for (unsigned k = 0; k < sizeof(order); k++) {
		struct sup_ring *ring = current(s, order[k]);

		if (ring != NULL && may_go_live(s, ring, now))
			go_live(s, ring, now);
	}
}

/* ---- making rings ----------------------------------------------------- */

static void
fill_seats(const struct sup_session *s, struct sup_ring_spec *spec)
{
	const struct sup_config *c = &s->sup->config;

	switch (spec->id) {
	case CTL_RING_IN_VIDEO:
		spec->hold_count[SEAT_WORKER] = s->hold_count;
		spec->hold_count[SEAT_EGRESS] =
		    sup_ring_egress_holds(c->frame_deadline_ms * CLOCK_MS_NS, s->stream.max_framerate);
		spec->depth[SEAT_WORKER] = WORKER_DEPTH;
		spec->doorbell_mask = 1u << SEAT_EGRESS | (s->worker_doorbell ? 1u << SEAT_WORKER : 0);
		break;
	case CTL_RING_OUT_VIDEO:
		spec->hold_count[0] = OUT_VIDEO_HOLDS;
		spec->doorbell_mask = 1;
		break;
	case CTL_RING_IN_AUDIO_WORKER:
		spec->hold_count[0] = AUDIO_HOLDS;
		spec->doorbell_mask = s->worker_doorbell ? 1 : 0;
		break;
	case CTL_RING_IN_AUDIO_EGRESS:
	case CTL_RING_OUT_AUDIO:
		spec->hold_count[0] = AUDIO_HOLDS;
		spec->doorbell_mask = 1;
		break;
	}
}

const char *
sup_broker_refusal(struct sup *sup, const struct sup_stream *stream, const struct ctl_hello *hello)
{
	const struct sup_session s = { .sup = sup, .stream = *stream, .hold_count = hello->hold_count };
	static const uint8_t ids[] = { CTL_RING_IN_VIDEO, CTL_RING_OUT_VIDEO };
	uint64_t left = (uint64_t)sup->config.max_session_bytes;

	for (unsigned i = 0; i < sizeof(ids); i++) {
		struct sup_ring_spec spec = {
			.id = ids[i], .generation = 1, .format = hello->format, .width = stream->width, .height = stream->height,
			.payload_bytes_max = (uint64_t)sup->config.max_frame_bytes, .ring_bytes_max = left,
		};
		enum sup_ring_plan_result plan;
		struct ctl_ring_open open;

		fill_seats(&s, &spec);
		plan = sup_ring_plan(&spec, &open);
		if (plan != SUP_RING_OK)
			return sup_ring_plan_text(plan);
		left -= open.slot_stride * open.slot_count;
	}
	return NULL;
}

static uint64_t
session_bytes(const struct sup_session *s)
{
	struct sup_ring *ring;
	uint64_t sum = 0;

	TAILQ_FOREACH(ring, &s->rings, link)
		sum += ring->data_bytes;
	return sum;
}

/* For people: without this ring nothing flows through it, and no retry is under way. */
static void
note_refusal(struct sup_session *s, enum ctl_ring_id id, const char *why)
{
	s->ring_refused = id;
	snprintf(s->ring_error, sizeof(s->ring_error), "no %s ring: %s", sup_ring_name(id), why);
}

static void
offer_when_reserved(struct sup_session *s, struct sup_ring *ring)
{
	struct sup_child *c = child_of(s, ring->producer_role);
	int r = sup_ring_reserve(ring);

	if (r == SUP_RING_MORE) /* the tick goes on with it */
		return;
	if (r < 0) {
		log_error("ring", "memory", "session=%s ring=%s bytes=%llu error=\"%s\"", s->stream.log_id,
		    sup_ring_name(ring->open.ring_id), (unsigned long long)ring->data_bytes, strerror(-r));
		note_refusal(s, ring->open.ring_id, strerror(-r));
		drop_ring(s, ring);
		return;
	}
	if (is_producer(ring, c))
		sup_ring_offer_producer(ring, c, s->num);
	else
		drop_ring(s, ring);
}

/* A new generation for `producer`, which lives; the present one ends when the producer has left it. */
static void
make_ring(struct sup_session *s, struct sup_child *producer, struct sup_ring_spec *spec)
{
	const struct sup_config *config = &s->sup->config;
	struct sup_ring *ring, *old = current(s, spec->id);
	uint64_t used = session_bytes(s), limit = (uint64_t)config->max_session_bytes;
	enum sup_ring_plan_result plan;
	struct ctl_ring_open open;
	int r;

	spec->generation = s->generation[spec->id] + 1;
	spec->payload_bytes_max = (uint64_t)config->max_frame_bytes;
	spec->ring_bytes_max = limit > used ? limit - used : 0;
	fill_seats(s, spec);
	plan = sup_ring_plan(spec, &open);
	if (plan != SUP_RING_OK) {
		log_error("ring", "refused", "session=%s ring=%s width=%u height=%u why=\"%s\"", s->stream.log_id,
		    sup_ring_name(spec->id), spec->width, spec->height, sup_ring_plan_text(plan));
		note_refusal(s, spec->id, sup_ring_plan_text(plan));
		return;
	}
	r = sup_ring_new(spec, &open, &ring);
	if (r < 0) {
		log_error("ring", "memory", "session=%s ring=%s error=\"%s\"", s->stream.log_id, sup_ring_name(spec->id),
		    strerror(-r));
		note_refusal(s, spec->id, strerror(-r));
		return;
	}
	if (s->ring_refused == spec->id) {
		s->ring_refused = 0;
		s->ring_error[0] = '\0';
	}
	if (old != NULL)
		old->replaced = true;
	s->generation[spec->id] = spec->generation;
	ring->producer_id = producer->id;
	ring->producer_incarnation = producer->incarnation;
	TAILQ_INSERT_TAIL(&s->rings, ring, link);
	log_ring(s, ring, "made");
	limit_generations(s, spec->id);
	offer_when_reserved(s, ring);
}

static void
spec_from_ring(const struct sup_ring *in, enum ctl_ring_id id, struct sup_ring_spec *spec)
{
	*spec = (struct sup_ring_spec){
		.id = id, .format = in->open.format, .width = in->open.width, .height = in->open.height,
		.sample_rate = in->open.sample_rate, .channels = in->open.channels,
		.block_samples = in->open.block_samples, .rate_num = in->open.rate_num, .rate_den = in->open.rate_den,
	};
}

/* The worker's way back, once the way in is there. */
static void
ensure_out(struct sup_session *s, enum ctl_ring_id in_id, enum ctl_ring_id out_id)
{
	struct sup_child *worker = child_of(s, CTL_ROLE_WORKER);
	struct sup_ring *in = current(s, in_id), *out = current(s, out_id);
	struct sup_ring_spec spec;

	if (worker == NULL || in == NULL || in->stage < SUP_RING_MAPPED)
		return;
	if (out != NULL && is_producer(out, worker))
		return;
	spec_from_ring(in, out_id, &spec);
	make_ring(s, worker, &spec);
}

static void
ensure_outs(struct sup_session *s)
{
	ensure_out(s, CTL_RING_IN_VIDEO, CTL_RING_OUT_VIDEO);
	ensure_out(s, CTL_RING_IN_AUDIO_WORKER, CTL_RING_OUT_AUDIO);
}

static void
offer_seat(struct sup_session *s, struct sup_ring *ring, unsigned i)
{
	struct sup_child *c = child_of(s, ring->seat[i].role);
	bool to_worker = ring->open.ring_id == CTL_RING_IN_VIDEO && i == SEAT_WORKER;

	if (c == NULL || ring->stage < SUP_RING_MAPPED || ring->seat[i].stage != SUP_SEAT_EMPTY)
		return;
	sup_ring_offer_consumer(ring, i, c, s->num, to_worker ? s->skip_seq : skip_none);
}

/* ---- what the children say -------------------------------------------- */

static bool
request_ok(const struct sup_session *s, const struct sup_child *child, const struct ctl_ring_request *req)
{
	if (req->ring_id < 1 || req->ring_id > CTL_RING_ID_MAX || req->ring_id == CTL_RING_IN_AUDIO_WORKER ||
	    sup_ring_producer_role(req->ring_id) != child->role)
		return false;
	if (req->ring_id == CTL_RING_OUT_AUDIO && !s->worker_audio)
		return false;
	return req->ring_id == CTL_RING_IN_AUDIO_EGRESS || req->ring_id == CTL_RING_OUT_AUDIO ?
	    req->format == FORMAT_F32 : req->format == (uint32_t)s->format;
}

static bool
same_media(const struct sup_ring *ring, const struct ctl_ring_request *req)
{
	return ring->open.format == req->format && ring->open.width == req->width && ring->open.height == req->height &&
	    ring->open.sample_rate == req->sample_rate && ring->open.channels == req->channels &&
	    ring->open.block_samples == req->block_samples;
}

/* A ring costs time of ours (its memory is reserved): a worker may have a few at once and one a second in the long run. */
static bool
may_ask(struct sup_session *s, int64_t now_ns)
{
	int64_t earned = (now_ns - s->ring_asked_ns) / RING_EVERY_NS;

	if (earned > 0) {
		s->ring_tokens = s->ring_tokens + earned > RINGS_AT_ONCE ? RINGS_AT_ONCE : s->ring_tokens + (int)earned;
		s->ring_asked_ns = now_ns;
	}
	return s->ring_tokens-- > 0;
}

void
sup_broker_request(struct sup_session *s, struct sup_child *child, const struct ctl_ring_request *req)
{
	struct sup_ring_spec spec = {
		.id = req->ring_id, .format = req->format, .width = req->width, .height = req->height,
		.sample_rate = req->sample_rate, .channels = req->channels, .block_samples = req->block_samples,
		.rate_num = req->rate_num, .rate_den = req->rate_den,
	};
	struct sup_ring *ring;

	if (!request_ok(s, child, req)) {
		sup_child_kill(child, SUP_EXIT_VIOLATION, "asked for a ring that it may not have");
		return;
	}
	ring = current(s, req->ring_id);
	/* A worker that asks while our own offer is on its way means that one. */
	if (ring != NULL && child->role == CTL_ROLE_WORKER && is_producer(ring, child) && same_media(ring, req))
		return;
	if (child->role == CTL_ROLE_WORKER && !may_ask(s, clock_now_ns())) {
		sup_child_kill(child, SUP_EXIT_VIOLATION, "asked for rings too often");
		return;
	}
	make_ring(s, child, &spec);
	if (req->ring_id == CTL_RING_IN_AUDIO_EGRESS && s->worker_audio) {
		struct sup_ring_spec audio = spec;

		audio.id = CTL_RING_IN_AUDIO_WORKER;
		memset(audio.hold_count, 0, sizeof(audio.hold_count));
		make_ring(s, child, &audio);
	}
}

static void
producer_mapped(struct sup_session *s, struct sup_ring *ring, struct sup_child *child)
{
	struct sup_ring *old, *next;
	int r;

	if (ring->stage != SUP_RING_OFFERED) {
		sup_child_kill(child, SUP_EXIT_VIOLATION, "mapped a ring twice");
		return;
	}
	if (ring->replaced) { /* a newer one was asked for before this one was mapped */
		end_ring(s, ring);
		return;
	}
	r = sup_ring_seal(ring);
	if (r < 0) {
		sup_child_kill(child, SUP_EXIT_VIOLATION, "sealed memory that is not its own");
		return;
	}
	/* An SDK worker leaves the old out ring when it maps the new one. */
	for (old = TAILQ_FIRST(&s->rings); old != NULL; old = next) {
		next = TAILQ_NEXT(old, link);
		if (old->open.ring_id == ring->open.ring_id && old->open.generation < ring->open.generation &&
		    old->replaced && child->role == CTL_ROLE_WORKER)
			end_ring(s, old);
	}
	if (sup_ring_is_in(ring->open.ring_id))
		ensure_outs(s);
	for (unsigned i = 0; i < ring->open.consumer_count; i++)
		offer_seat(s, ring, i);
}

void
sup_broker_mapped(struct sup_session *s, struct sup_child *child, const struct ctl_ring_ref *ref)
{
	struct sup_ring *ring = find(s, ref->ring_id, ref->generation);

	if (ring == NULL) /* closed by force in the meantime */
		return;
	if (is_producer(ring, child)) {
		producer_mapped(s, ring, child);
	} else {
		for (unsigned i = 0; i < ring->open.consumer_count; i++)
			if (ring->seat[i].role == child->role && ring->seat[i].stage == SUP_SEAT_OFFERED)
				ring->seat[i].stage = SUP_SEAT_MAPPED;
	}
	settle(s);
}

void
sup_broker_closed(struct sup_session *s, struct sup_child *child, const struct ctl_ring_ref *ref)
{
	struct sup_ring *ring = find(s, ref->ring_id, ref->generation);

	if (ring == NULL)
		return;
	if (is_producer(ring, child)) {
		end_ring(s, ring);
		return;
	}
	if (!ring->ended && !ring->replaced && sup_session_running(s)) {
		sup_child_kill(child, SUP_EXIT_VIOLATION, "closed a ring that has not ended");
		return;
	}
	for (unsigned i = 0; i < ring->open.consumer_count; i++)
		if (ring->seat[i].role == child->role && ring->seat[i].stage != SUP_SEAT_EMPTY)
			ring->seat[i].stage = SUP_SEAT_CLOSED;
	collect(s, ring);
}

/* ---- children come and go --------------------------------------------- */

void
sup_broker_attach(struct sup_session *s, enum ctl_role role)
{
	struct sup_ring *ring;

	/* The way back comes first: frames that the last incarnation held are delivered as soon as in.video is mapped. */
	if (role == CTL_ROLE_WORKER)
		ensure_outs(s);
	TAILQ_FOREACH(ring, &s->rings, link)
		for (unsigned i = 0; i < ring->open.consumer_count; i++)
			if (ring->seat[i].role == role)
				offer_seat(s, ring, i);
	settle(s);
}

void
sup_broker_detach(struct sup_session *s, enum ctl_role role)
{
	struct sup_ring *ring, *next;

	for (ring = TAILQ_FIRST(&s->rings); ring != NULL; ring = next) {
		next = TAILQ_NEXT(ring, link);
		for (unsigned i = 0; i < ring->open.consumer_count; i++)
			if (ring->seat[i].role == role && (ring->seat[i].stage != SUP_SEAT_CLOSED || !ring->ended))
				ring->seat[i].stage = SUP_SEAT_EMPTY;
		if (ring->producer_role == role)
			end_ring(s, ring);
		else
			collect(s, ring);
	}
	settle(s);
}

/* ---- time ------------------------------------------------------------- */

void
sup_broker_tick(struct sup_session *s, int64_t now_ns)
{
	struct sup_ring *ring, *next;

	for (ring = TAILQ_FIRST(&s->rings); ring != NULL; ring = next) {
		next = TAILQ_NEXT(ring, link);
		if (ring->stage == SUP_RING_RESERVING)
			offer_when_reserved(s, ring);
		else if (ring->replaced && !ring->ended && ring->replaced_ns != 0 && now_ns - ring->replaced_ns > LEFT_WAIT_NS)
			end_ring(s, ring);
	}
	settle(s);
}

bool
sup_broker_worker_drained(const struct sup_session *s)
{
	struct sup_ring *ring;

	TAILQ_FOREACH(ring, &s->rings, link)
		for (unsigned i = 0; i < ring->open.consumer_count; i++)
			if (ring->seat[i].role == CTL_ROLE_WORKER &&
			    (ring->seat[i].stage == SUP_SEAT_OFFERED || ring->seat[i].stage == SUP_SEAT_MAPPED))
				return false;
	return true;
}

void
sup_broker_fini(struct sup_session *s)
{
	struct sup_ring *ring;

	while ((ring = TAILQ_FIRST(&s->rings)) != NULL)
		drop_ring(s, ring);
}
