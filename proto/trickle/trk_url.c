/* SPDX-License-Identifier: MIT */
/*
 * The URL of a channel
 *
 * Whatever a peer hands us as a channel is parsed once, by libcurl's own parser, so that what is checked here is what
 * will be connected to. The path prefix is arbitrary and a query stays where it was; a fragment means nothing to a
 * server and goes.
 */
#include "base/err.h"
#include "proto/trickle/trk_url.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int
url_split(struct trk_url *url, char *text)
{
	char *query;
	size_t length;

	text[strcspn(text, "#")] = '\0';
	length = strcspn(text, "?");
	query = strdup(text + length);
	text[length] = '\0';
	while (length > 0 && text[length - 1] == '/')
		text[--length] = '\0';
	url->prefix = strdup(text);
	url->suffix = query;
	return url->prefix == NULL || query == NULL ? err_origin(-ENOMEM) : 0;
}

static bool
url_usable(CURLU *u)
{
	char *scheme = NULL, *path = NULL;
	bool usable;

	usable = curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
	    curl_url_get(u, CURLUPART_PATH, &path, 0) == CURLUE_OK &&
	    (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) && path[strspn(path, "/")] != '\0';
	curl_free(scheme);
	curl_free(path);
	return usable;
}

int
trk_url_init(struct trk_url *url, const char *text)
{
	CURLU *u = curl_url();
	char *whole = NULL;
	int r = 0;

	*url = (struct trk_url){ 0 };
	if (u == NULL)
		return err_origin(-ENOMEM);
	if (text == NULL || curl_url_set(u, CURLUPART_URL, text, 0) != CURLUE_OK || !url_usable(u))
		r = err_origin(-EINVAL);
	else if (curl_url_get(u, CURLUPART_URL, &whole, 0) != CURLUE_OK)
		r = err_origin(-ENOMEM);
	else
		r = url_split(url, whole);
	if (r != 0)
		trk_url_fini(url);
	curl_free(whole);
	curl_url_cleanup(u);
	return r;
}

void
trk_url_fini(struct trk_url *url)
{
	free(url->prefix);
	free(url->suffix);
	*url = (struct trk_url){ 0 };
}

char *
trk_url_make(const struct trk_url *url, const char *tail)
{
	char *whole;

	if (asprintf(&whole, "%s%s%s%s", url->prefix, tail ? "/" : "", tail ? tail : "", url->suffix) == -1)
		return NULL;
	return whole;
}

char *
trk_url_make_seq(const struct trk_url *url, int64_t seq)
{
	char tail[32];

	snprintf(tail, sizeof(tail), "%" PRId64, seq);
	return trk_url_make(url, tail);
}
