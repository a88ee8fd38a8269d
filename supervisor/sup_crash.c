/* SPDX-License-Identifier: MIT */
/*
 * Crash records
 *
 * What one incarnation was, how it ended, and the last 64 KiB that it wrote. The last ten of each child name are
 * kept, and no more than MAX_RECORDS in all, in memory. The log of a child is a value here and is made valid UTF-8
 * first: it may be anything.
 */
#include "supervisor/sup_crash.h"

#include "base/assert.h"
#include "base/clock.h"
#include "supervisor/sup_clean.h"

#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

enum { MAX_RECORDS = 64, MAX_OF_ONE = 10 };

struct sup_crashes {
	json_t *records; /* oldest first */
	uint64_t total[SUP_EXIT_COUNT];
};

struct sup_crashes *
sup_crashes_new(void)
{
	struct sup_crashes *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->records = json_array();
	return c;
}

void
sup_crashes_free(struct sup_crashes **c)
{
	if (*c == NULL)
		return;
	json_decref((*c)->records);
	free(*c);
	*c = NULL;
}

static json_t *
log_json(const struct sup_child *child)
{
	static char tail[SUP_LOG_TAIL_BYTES + 1]; /* one thread */
	size_t n = sup_log_pipe_tail(&child->log, tail, sizeof(tail));

	sup_clean(tail, n);
	return json_stringn(tail, n);
}

static bool
is_of(const json_t *record, const char *name)
{
	const char *child = json_string_value(json_object_get(record, "child"));

	return child != NULL && strcmp(child, name) == 0;
}

static void
make_room(struct sup_crashes *c, const char *name)
{
	size_t i, oldest = 0, count = 0;
	json_t *record;

	json_array_foreach(c->records, i, record)
		if (is_of(record, name) && count++ == 0)
			oldest = i;
	if (count >= MAX_OF_ONE)
		json_array_remove(c->records, oldest);
	else if (json_array_size(c->records) >= MAX_RECORDS)
		json_array_remove(c->records, 0);
}

void
sup_crash_record(struct sup_crashes *c, const struct sup_child *child, const struct sup_death *d, uint64_t frames,
    const char *session)
{
	json_t *r;

	MR_ASSERT(d->class < SUP_EXIT_COUNT);
	c->total[d->class]++;
	make_room(c, child->name);
	r = json_pack("{s:s, s:i, s:i, s:I, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:s?, s:s, s:o?}",
	    "child", child->name, "child_id", (int)child->id, "incarnation", (int)child->incarnation,
	    "time_ms", (json_int_t)clock_wall_ms(), "class", sup_exit_name(d->class), "text", d->text,
	    "end", d->signaled ? "signal" : "exit", "code", d->code, "uptime_ms", (json_int_t)(d->uptime_ns / CLOCK_MS_NS),
	    "ready_ms", (json_int_t)(d->ready_ns < 0 ? -1 : d->ready_ns / CLOCK_MS_NS), "frames", (json_int_t)frames,
	    "peak_rss_kb", (json_int_t)d->usage.ru_maxrss,
	    "cpu_user_ms", (json_int_t)(d->usage.ru_utime.tv_sec * 1000 + d->usage.ru_utime.tv_usec / 1000),
	    "cpu_system_ms", (json_int_t)(d->usage.ru_stime.tv_sec * 1000 + d->usage.ru_stime.tv_usec / 1000),
	    "session", session, "name", child->has_hello && child->role == CTL_ROLE_WORKER ? child->hello.name : "",
	    "log", log_json(child));
	if (r != NULL)
		json_array_append_new(c->records, r);
}

json_t *
sup_crashes_json(const struct sup_crashes *c)
{
	json_t *out = json_array();

	for (size_t i = json_array_size(c->records); i > 0; i--)
		json_array_append(out, json_array_get(c->records, i - 1));
	return out;
}

uint64_t
sup_crashes_total(const struct sup_crashes *c, enum sup_exit_class class)
{
	MR_ASSERT(class < SUP_EXIT_COUNT);
	return c->total[class];
}
