/* SPDX-License-Identifier: MIT */
/* Rates over the last 10 s, and percentiles of the last 256 values. Pure; time is an argument. */
#ifndef MR_EGR_METER_H
#define MR_EGR_METER_H

#include <stdint.h>

enum { EGR_RATE_SAMPLES = 600, EGR_SPREAD_SAMPLES = 256 };
#define EGR_RATE_WINDOW_NS INT64_C(10000000000)

struct egr_rate {
	int64_t at_ns[EGR_RATE_SAMPLES];
	unsigned next, count;
};

void egr_rate_add(struct egr_rate *r, int64_t now_ns);
/* Events a second x 1000: (n - 1) / (last - first) of those in the window; 0 with fewer than two. */
uint64_t egr_rate_milli(const struct egr_rate *r, int64_t now_ns);

struct egr_spread {
	uint32_t value[EGR_SPREAD_SAMPLES];
	unsigned next, count;
};

void egr_spread_add(struct egr_spread *s, uint32_t value);
/* 0 without values. */
void egr_spread_get(const struct egr_spread *s, uint32_t *p50, uint32_t *p99);

#endif
