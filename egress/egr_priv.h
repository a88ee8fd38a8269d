/* SPDX-License-Identifier: MIT */
/*
 * Included last by every .c file of egress/
 *
 * One thread. It waits in trk_loop_turn() only, always with a deadline: nothing that this process does may stop the
 * output, so code that needs one of these words belongs somewhere else.
 */
#ifndef MR_EGR_PRIV_H
#define MR_EGR_PRIV_H

#pragma GCC poison pthread_create system popen sleep usleep fork

/* Exit codes of a child; the supervisor's restart policy reads them. */
enum {
	EGR_EXIT_CLEAN = 0,
	EGR_EXIT_CONFIG = 100,
	EGR_EXIT_TEMPORARY = 111,
	EGR_EXIT_PERMANENT = 125,
};

#endif
