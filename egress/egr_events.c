/* SPDX-License-Identifier: MIT */
/* The events and data channels: JSON in the envelope that the gateway expects, one message a segment. */
#include "egress/egr_events.h"
#include "base/clock.h"
#include "base/log.h"
#include "egress/egr_output.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

#define HEARTBEAT_NS (10 * CLOCK_SEC_NS)
#define KEEPALIVE_NS (25 * CLOCK_SEC_NS)
enum { DATA_LINE_MAX = 65536 - 1 }; /* the gateway's reader takes no longer line, its newline included */

/* `event` is consumed. */
static void
send_event(struct egr_events *e, json_t *event, const char *queue)
{
	json_t *envelope = json_pack("{s:o, s:s}", "event", event, "queue_event_type", queue);
	char *text = envelope != NULL ? json_dumps(envelope, JSON_COMPACT) : NULL;

	if (text != NULL && egr_channel_message(e->events, text, strlen(text)))
		stats_add(e->stats, EGRESS_events_out, 1);
	free(text);
	json_decref(envelope);
}

static double
rate(uint64_t milli)
{
	return (double)milli / 1000;
}

static void
send_heartbeat(struct egr_events *e, int64_t now_ns)
{
	const struct egr_config *c = e->config;
	const struct egr_output *o = e->output;
	json_t *event = json_pack("{s:s, s:I, s:{s:s?, s:s?, s:s?, s:s?, s:s?}, s:{s:i, s:i}, s:{s:f, s:f, s:f, s:f}}",
	    "type", "heartbeat", "timestamp", (json_int_t)clock_wall_ms(),
	    "urls", "subscribe", c->subscribe_url, "publish", c->publish_url, "control", c->control_url,
	    "events", c->events_url, "data", c->data_url,
	    "dimensions", "width", (int)c->width, "height", (int)c->height,
	    "fps", "ingress_video_fps", rate(egr_rate_milli(&o->in_rate, now_ns)),
	    "ingress_audio_fps", rate(egr_rate_milli(&o->in_audio_rate, now_ns)),
	    "egress_video_fps", rate(egr_rate_milli(&o->out_rate, now_ns)),
	    "egress_audio_fps", rate(egr_rate_milli(&o->out_audio_rate, now_ns)));

	if (event != NULL)
		send_event(e, event, "stream_heartbeat");
}

static void
send_plain(struct egr_events *e, const char *type)
{
	json_t *event = json_pack("{s:s, s:I}", "type", type, "timestamp", (json_int_t)clock_wall_ms());

	if (event != NULL)
		send_event(e, event, "ai_stream_events");
}

void
egr_events_init(struct egr_events *e, const struct egr_config *config, struct egr_channel *events,
    struct egr_channel *data, const struct egr_output *output, struct stats_page *stats, int64_t now_ns)
{
	*e = (struct egr_events){ .config = config, .events = events, .data = data, .output = output, .stats = stats,
		.heartbeat_ns = now_ns, .keepalive_ns = now_ns + KEEPALIVE_NS,
		.first_in_told = config->resume_had_output, .first_out_told = config->resume_had_output };
}

void
egr_events_tick(struct egr_events *e, int64_t now_ns)
{
	if (now_ns >= e->heartbeat_ns) {
		send_heartbeat(e, now_ns);
		e->heartbeat_ns = now_ns + HEARTBEAT_NS;
	}
	if (!e->first_in_told && e->output->first_input_ns != 0) {
		e->first_in_told = true;
		send_plain(e, "receive_first_ingest_segment");
	}
	if (!e->first_out_told && e->output->bytes_sent) {
		e->first_out_told = true;
		send_plain(e, "send_first_processed_segment");
	}
	if (now_ns >= e->keepalive_ns) {
		egr_channel_message(e->data, "[]\n", 3);
		e->keepalive_ns = now_ns + KEEPALIVE_NS;
	}
}

int64_t
egr_events_due(const struct egr_events *e)
{
	return e->heartbeat_ns < e->keepalive_ns ? e->heartbeat_ns : e->keepalive_ns;
}

void
egr_events_publish(struct egr_events *e, const char *text, size_t bytes)
{
	/* The supervisor knows why a stream stops, and may have said so itself. */
	if (memmem(text, bytes, "\"stream_stopped\"", 16) != NULL)
		e->stopped_told = true;
	if (egr_channel_message(e->events, text, bytes))
		stats_add(e->stats, EGRESS_events_out, 1);
}

static size_t
longest_line(const char *text, size_t bytes)
{
	size_t longest = 0, from = 0;

	for (size_t i = 0; i <= bytes; i++) {
		if (i < bytes && text[i] != '\n')
			continue;
		longest = i - from > longest ? i - from : longest;
		from = i + 1;
	}
	return longest;
}

void
egr_events_data(struct egr_events *e, const char *text, size_t bytes, int64_t now_ns)
{
	char *line;

	while (bytes > 0 && text[bytes - 1] == '\n')
		bytes--;
	if (bytes == 0)
		return;
	if (longest_line(text, bytes) > DATA_LINE_MAX - 1) {
		log_warn("data", "line-refused", "bytes=%zu why=\"a line must be shorter than 64 KiB\"", bytes);
		return;
	}
	line = malloc(bytes + 1);
	if (line == NULL)
		return;
	memcpy(line, text, bytes);
	line[bytes] = '\n';
	if (egr_channel_message(e->data, line, bytes + 1))
		e->keepalive_ns = now_ns + KEEPALIVE_NS;
	free(line);
}

void
egr_events_stopped(struct egr_events *e)
{
	if (!e->stopped_told)
		send_plain(e, "stream_stopped");
}
