/* SPDX-License-Identifier: MIT */
/*
 * Leftovers of a predecessor
 *
 * Children die with their supervisor; one that did not (it ran as another user, or the kernel was slow) is known by its
 * pid and the time at which it was started, which no other process of this boot shares with it. Names are never
 * looked at.
 */
#ifndef MR_SUP_SWEEP_H
#define MR_SUP_SWEEP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Clock ticks since boot at which the process was started; 0: there is no such process. */
uint64_t sup_sweep_start_time(pid_t pid);
/* The present boot, as text; "" if the kernel does not say. */
void sup_sweep_boot_id(char *out, size_t bytes);
/* Kills what is left of `children` (decimal pid -> start time) with its process group, and waits up to a second for it
 * to go. Returns how many there were. */
unsigned sup_sweep(const json_t *children);

#endif
