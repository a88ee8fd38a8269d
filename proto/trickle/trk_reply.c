/* SPDX-License-Identifier: MIT */
/*
 * What a reply means
 *
 * Two servers are in use and differ in small things: one answers an empty segment with 200, the other with 470; one
 * tells the seq of a POST, the other does not. The rules here hold for both:
 *   - Lp-Trickle-Closed comes before the status, and the status before the body;
 *   - a 470 says where to go on; when that is where we came from, going at once would be a spin;
 *   - a seq that was closed without us is never written to: one server appends to it;
 *   - a seq that we wrote to is never written to again.
 * Every number is a peer's and may be anything: what is negative or absurd counts as absent.
 */
#include "proto/trickle/trk_reply.h"

#include <string.h>
#include <strings.h>

void
trk_reply_init(struct trk_reply *reply)
{
	*reply = (struct trk_reply){ .seq = TRK_SEQ_NONE, .latest = TRK_SEQ_NONE };
}

int64_t
trk_seq_parse(const char *text, size_t count)
{
	int64_t n = 0;
	size_t i = 0, digits;

	while (i < count && (text[i] == ' ' || text[i] == '\t'))
		i++;
	for (digits = 0; i < count && text[i] >= '0' && text[i] <= '9'; i++, digits++) {
		n = n * 10 + (text[i] - '0');
		if (n > TRK_SEQ_MAX)
			return TRK_SEQ_NONE;
	}
	while (i < count && strchr(" \t\r\n", text[i]) != NULL && text[i] != '\0')
		i++;
	return digits > 0 && i == count ? n : TRK_SEQ_NONE;
}

/* "HTTP/1.1 200 OK": the number, or 0. */
static int
status_parse(const char *line, size_t count)
{
	const char *space = memchr(line, ' ', count);
	size_t at = space ? (size_t)(space - line) + 1 : count;
	int status = 0;

	for (size_t i = at; i < at + 3; i++) {
		if (i >= count || line[i] < '0' || line[i] > '9')
			return 0;
		status = status * 10 + (line[i] - '0');
	}
	return status;
}

static bool
field_is(const char *line, size_t count, const char *name)
{
	size_t length = strlen(name);

	return count > length && strncasecmp(line, name, length) == 0 && line[length] == ':';
}

void
trk_reply_line(struct trk_reply *reply, const char *line, size_t count)
{
	static const char seq[] = "Lp-Trickle-Seq", latest[] = "Lp-Trickle-Latest", closed[] = "Lp-Trickle-Closed";

	if (reply->complete)
		return; /* a trailer */
	if (count >= 5 && strncasecmp(line, "HTTP/", 5) == 0) {
		bool informed = reply->informed;

		trk_reply_init(reply);
		reply->status = status_parse(line, count);
		reply->informed = informed || (reply->status >= 100 && reply->status < 200);
	} else if (count == 0 || line[0] == '\r' || line[0] == '\n') {
		reply->complete = reply->status >= 200;
	} else if (field_is(line, count, seq)) {
		reply->seq = trk_seq_parse(line + sizeof(seq), count - sizeof(seq));
	} else if (field_is(line, count, latest)) {
		reply->latest = trk_seq_parse(line + sizeof(latest), count - sizeof(latest));
	} else if (field_is(line, count, closed)) {
		reply->closed = true;
	}
}

/* 470: the channel is there, that seq is not. */
static struct trk_get_step
get_elsewhere(const struct trk_reply *reply, int64_t tried)
{
	struct trk_get_step step = { .act = TRK_GET_GOTO, .seq = reply->latest };

	if (reply->latest == TRK_SEQ_NONE) {
		step.seq = -1; /* the server does not say: the next one, whatever its number */
		step.wait = true;
	} else if (reply->latest == tried) {
		step.wait = true;
	}
	step.gap = tried >= 0 && step.seq != tried;
	return step;
}

struct trk_get_step
trk_reply_get(const struct trk_reply *reply, int64_t tried)
{
	int64_t seq = reply->seq != TRK_SEQ_NONE ? reply->seq : tried;

	if (reply->closed)
		return (struct trk_get_step){ .act = TRK_GET_CLOSED, .seq = tried };
	if (reply->status == 404)
		return (struct trk_get_step){ .act = TRK_GET_ABSENT, .seq = tried };
	if (reply->status == 470)
		return get_elsewhere(reply, tried);
	if (reply->status != 200 || seq < 0)
		return (struct trk_get_step){ .act = TRK_GET_RETRY, .seq = tried };
	return (struct trk_get_step){ .act = TRK_GET_READ, .seq = seq, .gap = tried >= 0 && seq != tried };
}

struct trk_get_step
trk_reply_get_empty(const struct trk_reply *reply, int64_t tried)
{
	int64_t seq = reply->seq != TRK_SEQ_NONE ? reply->seq : tried;
	struct trk_get_step step = { .act = TRK_GET_GOTO, .seq = seq + 1 };

	if (reply->latest != TRK_SEQ_NONE && reply->latest < seq) {
		step.seq = reply->latest; /* the publisher started again from a smaller number */
		step.gap = true;
	}
	return step;
}

enum trk_post_act
trk_reply_post(const struct trk_reply *reply, bool some_sent, bool all_sent)
{
	if (reply->closed)
		return TRK_POST_CLOSED;
	if (reply->status == 404)
		return TRK_POST_ABSENT;
	if (reply->status >= 200 && reply->status < 300) {
		if (all_sent)
			return TRK_POST_DONE;
		return some_sent ? TRK_POST_DROP : TRK_POST_NEXT;
	}
	return some_sent ? TRK_POST_BROKEN : TRK_POST_RETRY;
}
