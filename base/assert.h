/* SPDX-License-Identifier: MIT */
/*
 * Assertions: on ourselves only
 *
 * A condition that another process, the network or a file can make false is input and gets an error, never
 * one of these. All but MR_DIAG are compiled into every build: a process of ours that has gone wrong dies
 * at once, and its supervisor starts it again.
 */
#ifndef MR_BASE_ASSERT_H
#define MR_BASE_ASSERT_H

#include <stdint.h>

/* Writes "<file>:<line>: <function>: <what>" to standard error and aborts. */
_Noreturn void mr_assert_failed(const char *what, const char *func, const char *file, int line);

/* Our bug if false. */
#define MR_ASSERT(cond) \
	((cond) ? (void)0 : mr_assert_failed("assertion failed: " #cond, __func__, __FILE__, __LINE__))

/* A place that control never reaches. */
#define MR_UNREACHABLE(why) mr_assert_failed("unreachable: " why, __func__, __FILE__, __LINE__)

/* Expensive checks, debug builds only. */
#ifdef MR_DEBUG
#define MR_DIAG(cond) MR_ASSERT(cond)
#else
#define MR_DIAG(cond) ((void)0)
#endif

/*
 * What travels through a `void *` begins with a magic number, is recovered by this macro and has its magic
 * cleared when it is freed, so that use after free has a name.
 */
#define MR_CAST(type, ptr, magic_value) \
	((type *)mr_cast_checked((ptr), (magic_value), __func__, __FILE__, __LINE__))

static inline void *
mr_cast_checked(void *ptr, uint32_t magic, const char *func, const char *file, int line)
{
	if (ptr == (void *)0 || *(uint32_t *)ptr != magic)
		mr_assert_failed("object has the wrong magic number", func, file, line);
	return ptr;
}

#endif
