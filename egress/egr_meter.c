/* SPDX-License-Identifier: MIT */
/* Rates and percentiles: circles of the newest samples. They are evaluated about once a second, so sorting is fine. */
#include "egress/egr_meter.h"

#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

void
egr_rate_add(struct egr_rate *r, int64_t now_ns)
{
	r->at_ns[r->next] = now_ns;
	r->next = (r->next + 1) % EGR_RATE_SAMPLES;
	if (r->count < EGR_RATE_SAMPLES)
		r->count++;
}

uint64_t
egr_rate_milli(const struct egr_rate *r, int64_t now_ns)
{
	int64_t first = 0, last = 0;
	unsigned n = 0;

	for (; n < r->count; n++) {
		int64_t t = r->at_ns[(r->next + EGR_RATE_SAMPLES - 1 - n) % EGR_RATE_SAMPLES];

		if (t < now_ns - EGR_RATE_WINDOW_NS)
			break;
		if (n == 0)
			last = t;
		first = t;
	}
	if (n < 2 || last <= first)
		return 0;
	return (uint64_t)((double)(n - 1) * 1e12 / (double)(last - first) + 0.5);
}

void
egr_spread_add(struct egr_spread *s, uint32_t value)
{
	s->value[s->next] = value;
	s->next = (s->next + 1) % EGR_SPREAD_SAMPLES;
	if (s->count < EGR_SPREAD_SAMPLES)
		s->count++;
}

static int
compare(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

void
egr_spread_get(const struct egr_spread *s, uint32_t *p50, uint32_t *p99)
{
	uint32_t sorted[EGR_SPREAD_SAMPLES];

	*p50 = *p99 = 0;
	if (s->count == 0)
		return;
	memcpy(sorted, s->value, s->count * sizeof(sorted[0]));
	qsort(sorted, s->count, sizeof(sorted[0]), compare);
	*p50 = sorted[s->count / 2];
	*p99 = sorted[s->count * 99 / 100];
}
