/* SPDX-License-Identifier: MIT */
/* Memory that the supervisor makes for others: texts, statistics pages, the objects of a ring. It maps none but the
 * statistics pages. */
#ifndef MR_SUP_MEMFD_H
#define MR_SUP_MEMFD_H

#include <stdint.h>
#include <sys/types.h>

/* An empty memfd of `bytes` bytes, mode 0600, sealed SHRINK | GROW. 0: *out is the caller's. -errno. */
int sup_memfd_new(const char *name, uint64_t bytes, int *out);
/* Gives [offset, offset + bytes) real memory, so that writing there cannot fail later. 0 or -errno. */
int sup_memfd_reserve(int fd, uint64_t offset, uint64_t bytes);
/* A read-only descriptor of the same memory. 0: *out is the caller's. */
int sup_memfd_reopen_ro(int fd, int *out);
/* Nobody can add seals any more. */
int sup_memfd_seal_seals(int fd);
/* After the producer has mapped: nobody can write or map writable any more, and that is what the seals say then.
 * -EPERM: somebody else has sealed it. */
int sup_memfd_seal_future_write(int fd);
/* A text, read-only for everybody. 0: *out is the caller's. */
int sup_memfd_text(const char *name, const char *text, uint64_t bytes, int *out);

#endif
