/* SPDX-License-Identifier: MIT */
/* Text that others wrote, made fit to be a value in a log line or in JSON. */
#ifndef MR_SUP_CLEAN_H
#define MR_SUP_CLEAN_H

#include <stddef.h>

union ctl_msg;

/* Length of the valid UTF-8 sequence at `s`; 0: there is none in the `left` bytes. */
size_t sup_utf8_at(const unsigned char *s, size_t left);
/* Control characters, and bytes that are not UTF-8, become '?'. In place; `bytes` long, NULs included. */
void sup_clean(char *text, size_t bytes);
/* The same for the texts of a child's message, which go into logs and JSON. */
void sup_clean_message(union ctl_msg *msg);

#endif
