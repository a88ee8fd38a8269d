/* SPDX-License-Identifier: MIT */
/*
 * Logging: transitions, not traffic
 *
 * One line to standard error:
 *     <time> <level> <process> <topic> <event> key=value key="value with spaces" ...
 * or the same as a JSON object a line. The frame path never logs. A value that comes from outside (a URL,
 * a worker's text) is passed through log_quote() first, so that it stays a value.
 */
#ifndef MR_BASE_LOG_H
#define MR_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* Once, at the start of main(). `process` is borrowed for ever ("ingest", "supervisor"). The level comes from
 * MILLRACE_LOG_LEVEL (debug, info, warn, error; default info), the format from MILLRACE_LOG_FORMAT
 * (text, json; default text). */
void log_open(const char *process);
void log_set_json(bool json);
void log_set_level(enum log_level level);

/* kv_format makes the key=value part; "" for none. Thread-safe: one write() a line. */
void log_event(enum log_level level, const char *topic, const char *event, const char *kv_format, ...)
    __attribute__((format(printf, 4, 5)));

#define log_debug(...) log_event(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_info(...)  log_event(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warn(...)  log_event(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_error(...) log_event(LOG_LEVEL_ERROR, __VA_ARGS__)

/* `text` in double quotes with quotes, backslashes and control bytes escaped, cut to fit. Returns `buf`. */
const char *log_quote(char *buf, size_t buf_bytes, const char *text);

#endif
