/* SPDX-License-Identifier: MIT */
/*
 * Log pipes
 *
 * The text of a child is input: it may be binary, endless, or look like our own lines. It is never a format string and
 * never more than a value: in text mode every line has a prefix that a child cannot write, in JSON mode it is one
 * string. Bytes that are not printable ASCII or valid UTF-8 are escaped.
 */
#include "supervisor/sup_log_pipe.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "supervisor/sup_clean.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

enum { RATE_BYTES = 64 * 1024, BURST_BYTES = 256 * 1024, READ_BYTES = 16 * 1024, READS_A_TURN = 8 };

void
sup_log_pipe_init(struct sup_log_pipe *p, const char *name, bool json)
{
	memset(p, 0, sizeof(*p));
	p->fd = -1;
	p->name = name;
	p->json = json;
}

int
sup_log_pipe_open(struct sup_log_pipe *p, int *child_fd, int64_t now_ns)
{
	int fds[2];

	MR_ASSERT(p->fd == -1);
	/* Only our end is non-blocking: a child's own end is a description of its own. */
	if (pipe2(fds, O_CLOEXEC) == -1)
		return err_origin(-errno);
	fd_set_nonblock(fds[0], true);
	p->fd = fds[0];
	p->line_bytes = 0;
	p->skipping = false;
	p->bytes = 0;
	if (p->refilled_ns == 0)
		p->tokens = BURST_BYTES;
	p->refilled_ns = now_ns;
	*child_fd = fds[1];
	return 0;
}

/* Escapes one line; in JSON the result is the inside of a string. */
static size_t
escape(const char *in, size_t bytes, bool json, char *out, size_t out_bytes)
{
	const unsigned char *s = (const unsigned char *)in;
	size_t n = 0;

	for (size_t i = 0; i < bytes && n + 8 < out_bytes;) {
		size_t len = sup_utf8_at(s + i, bytes - i);

		bool control = (len == 1 && (s[i] < 0x20 || s[i] == 0x7f) && s[i] != '\t') ||
		    (len == 2 && s[i] == 0xc2 && s[i + 1] < 0xa0);

		if (len == 0 || control) {
			n += (size_t)snprintf(out + n, out_bytes - n, json ? "\\u%04x" : "\\x%02x", s[i]);
			i++;
			continue;
		}
		if (json && (s[i] == '"' || s[i] == '\\'))
			out[n++] = '\\';
		if (json && s[i] == '\t') {
			out[n++] = ' ';
			i++;
			continue;
		}
		memcpy(out + n, s + i, len);
		n += len;
		i += len;
	}
	return n;
}

static void
write_line(const struct sup_log_pipe *p, const char *text, size_t bytes)
{
	char out[SUP_LOG_LINE_MAX * 2 + 128];
	size_t n;

	n = (size_t)snprintf(out, sizeof(out), p->json ? "{\"child\":\"%s\",\"line\":\"" : "%s| ", p->name);
	n += escape(text, bytes, p->json, out + n, sizeof(out) - n - 4);
	if (p->json) {
		out[n++] = '"';
		out[n++] = '}';
	}
	out[n++] = '\n';
	/* Nobody can be told when standard error is gone. */
	if (write(STDERR_FILENO, out, n) == -1)
		n = 0;
}

static void
flush_line(struct sup_log_pipe *p)
{
	char note[96];
	size_t cost = p->line_bytes + 32;

	if (p->line_bytes == 0)
		return;
	if (p->tokens < (int64_t)cost) {
		p->suppressed += p->line_bytes;
		p->line_bytes = 0;
		return;
	}
	if (p->suppressed > 0) {
		int n = snprintf(note, sizeof(note), "(suppressed %llu bytes: the limit is 64 KB a second)",
		    (unsigned long long)p->suppressed);

		write_line(p, note, (size_t)n);
		p->suppressed = 0;
	}
	p->tokens -= (int64_t)cost;
	write_line(p, p->line, p->line_bytes);
	p->line_bytes = 0;
}

static void
take_bytes(struct sup_log_pipe *p, const char *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		char c = data[i];

		if (p->tail != NULL)
			p->tail[p->bytes % SUP_LOG_TAIL_BYTES] = c;
		p->bytes++;
		if (c == '\n') {
			flush_line(p);
			p->skipping = false;
		} else if (!p->skipping && c != '\r') {
			p->line[p->line_bytes++] = c;
			if (p->line_bytes == sizeof(p->line)) {
				flush_line(p);
				p->skipping = true;
			}
		}
	}
}

static void
refill(struct sup_log_pipe *p, int64_t now_ns)
{
	int64_t ms = (now_ns - p->refilled_ns) / CLOCK_MS_NS;

	if (ms <= 0)
		return;
	p->refilled_ns += ms * CLOCK_MS_NS;
	if (ms > 10000)
		ms = 10000;
	p->tokens += ms * RATE_BYTES / 1000;
	if (p->tokens > BURST_BYTES)
		p->tokens = BURST_BYTES;
}

bool
sup_log_pipe_read(struct sup_log_pipe *p, int64_t now_ns)
{
	char data[READ_BYTES];

	if (p->tail == NULL)
		p->tail = calloc(1, SUP_LOG_TAIL_BYTES); /* NULL: the crash record has no log, nothing else */
	refill(p, now_ns);
	for (int i = 0; i < READS_A_TURN; i++) {
		ssize_t n = read(p->fd, data, sizeof(data));

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN)
			return true;
		if (n <= 0)
			return false;
		take_bytes(p, data, (size_t)n);
	}
	return true;
}

void
sup_log_pipe_close(struct sup_log_pipe *p)
{
	if (p->fd == -1)
		return;
	flush_line(p);
	fd_close(&p->fd);
}

void
sup_log_pipe_fini(struct sup_log_pipe *p)
{
	sup_log_pipe_close(p);
	free(p->tail);
	p->tail = NULL;
}

size_t
sup_log_pipe_tail(const struct sup_log_pipe *p, char *out, size_t bytes)
{
	size_t have = p->bytes < SUP_LOG_TAIL_BYTES ? (size_t)p->bytes : SUP_LOG_TAIL_BYTES, n = 0;

	MR_ASSERT(bytes > 0);
	if (p->tail == NULL)
		have = 0;
	if (have > bytes - 1)
		have = bytes - 1;
	for (uint64_t at = p->bytes - have; at < p->bytes; at++)
		out[n++] = p->tail[at % SUP_LOG_TAIL_BYTES];
	out[n] = '\0';
	return n;
}
