/* SPDX-License-Identifier: MIT */
/*
 * Last words: did the last supervisor crash, or was it killed?
 *
 * SIGKILL is somebody's decision, or the machine's; SIGSEGV or a failed assertion is a bug of ours, which what is being
 * resumed may have woken. The difference is one byte in DIR/crashed, written by a signal handler.
 */
#ifndef MR_SUP_LAST_WORDS_H
#define MR_SUP_LAST_WORDS_H

/* The signal that the last supervisor in the folder crashed with; 0: it did not. From now on, ours is written. */
int sup_last_words_open(int dir_fd);

#endif
