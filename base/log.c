/* SPDX-License-Identifier: MIT */
/*
 * Logging to standard error
 *
 * A line is built in a buffer on the stack and leaves with one write(), so lines of several threads and of
 * several processes on one pipe do not mix (they are shorter than PIPE_BUF).
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE_MAX = 2048 };

static const char *const level_names[] = { "debug", "info", "warn", "error" };
static const char *process_name = "millrace";
static enum log_level level_min = LOG_LEVEL_INFO;
static bool json_lines;

void
log_open(const char *process)
{
	const char *level = getenv("MILLRACE_LOG_LEVEL");
	const char *format = getenv("MILLRACE_LOG_FORMAT");

	process_name = process;
	for (int i = 0; level != NULL && i < 4; i++)
		if (strcmp(level, level_names[i]) == 0)
			level_min = (enum log_level)i;
	if (format != NULL)
		json_lines = strcmp(format, "json") == 0;
}

void
log_set_json(bool json)
{
	json_lines = json;
}

void
log_set_level(enum log_level level)
{
	level_min = level;
}

const char *
log_quote(char *buf, size_t buf_bytes, const char *text)
{
	size_t n = 0;

	if (buf_bytes < 3)
		return "";
	buf[n++] = '"';
	for (const unsigned char *c = (const unsigned char *)text; *c != '\0' && n + 8 < buf_bytes; c++) {
		if (*c == '"' || *c == '\\') {
			buf[n++] = '\\';
			buf[n++] = (char)*c;
		} else if (*c < 0x20 || *c == 0x7f) {
			n += (size_t)snprintf(buf + n, buf_bytes - n, "\\u%04x", *c);
		} else {
			buf[n++] = (char)*c;
		}
	}
	buf[n++] = '"';
	buf[n] = '\0';
	return buf;
}

static size_t
format_time(char *buf, size_t bytes)
{
	struct timespec t;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &t);
	gmtime_r(&t.tv_sec, &tm);
	n = strftime(buf, bytes, "%Y-%m-%dT%H:%M:%S", &tm);
	return n + (size_t)snprintf(buf + n, bytes - n, ".%03ldZ", t.tv_nsec / 1000000);
}

void
log_event(enum log_level level, const char *topic, const char *event, const char *kv_format, ...)
{
	char line[LOG_LINE_MAX], kv[LOG_LINE_MAX / 2], when[40], quoted[LOG_LINE_MAX / 2 + 512];
	int keep = errno, n;
	va_list args;

	if (level < level_min)
		return;
	va_start(args, kv_format);
	vsnprintf(kv, sizeof(kv), kv_format, args);
	va_end(args);
	format_time(when, sizeof(when));
	if (json_lines)
		n = snprintf(line, sizeof(line),
		    "{\"time\":\"%s\",\"level\":\"%s\",\"process\":\"%s\",\"topic\":\"%s\",\"event\":\"%s\",\"fields\":%s}\n",
		    when, level_names[level], process_name, topic, event, log_quote(quoted, sizeof(quoted), kv));
	else
		n = snprintf(line, sizeof(line), "%s %-5s %s %s %s%s%s\n", when, level_names[level], process_name,
		    topic, event, kv[0] != '\0' ? " " : "", kv);
	if (n >= (int)sizeof(line)) {
		n = (int)sizeof(line) - 1;
		line[n - 1] = '\n';
	}
	/* Nobody can be told when standard error is gone. */
	if (write(STDERR_FILENO, line, (size_t)n) == -1)
		n = 0;
	errno = keep;
}
