/* SPDX-License-Identifier: MIT */
/* Statistics pages: mapping. */
#include "proto/stats.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

static_assert(sizeof(struct stats_page) <= STATS_BYTES, "one page");
static_assert((int)INGEST_COUNTER_COUNT <= (int)STATS_WORDS_MAX && (int)EGRESS_COUNTER_COUNT <= (int)STATS_WORDS_MAX,
    "fits");

struct stats_page *
stats_map(int fd, int writable)
{
	int prot = writable ? PROT_READ | PROT_WRITE : PROT_READ;
	struct stat st;
	void *p;

	if (fstat(fd, &st) == -1)
		return NULL;
	if (st.st_size < STATS_BYTES) { /* a shorter one would be SIGBUS */
		errno = EPROTO;
		return NULL;
	}
	p = mmap(NULL, STATS_BYTES, prot, MAP_SHARED, fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

void
stats_unmap(struct stats_page **page)
{
	if (*page != NULL)
		munmap(*page, STATS_BYTES);
	*page = NULL;
}
