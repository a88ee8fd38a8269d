/* SPDX-License-Identifier: MIT */
/*
 * Words of a command line
 *
 * The operator writes `--worker "my-worker --model 'big one'"`. A shell would also expand variables and globs and
 * run substitutions; none of that is wanted for a setting that may come from a file or the environment, so this is
 * the quoting alone.
 */
#include "supervisor/sup_words.h"

#include "base/err.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Copies one word from *text to `out`, which is large enough. false: a quote is not closed. */
static bool
take_word(const char **text, char *out)
{
	const char *p = *text;
	char quote = '\0';

	for (; *p != '\0' && (quote != '\0' || !is_blank(*p)); p++) {
		if (quote == '\0' && (*p == '\'' || *p == '"')) {
			quote = *p;
		} else if (quote != '\0' && *p == quote) {
			quote = '\0';
		} else if (*p == '\\' && quote != '\'') {
			if (p[1] == '\0')
				return false;
			if (quote == '"' && p[1] != '"' && p[1] != '\\')
				*out++ = *p;
			*out++ = *++p;
		} else {
			*out++ = *p;
		}
	}
	*out = '\0';
	*text = p;
	return quote == '\0';
}

int
sup_words_split(const char *text, char ***out)
{
	char **words = calloc(SUP_WORDS_MAX + 1, sizeof(*words));
	unsigned n = 0;
	int r = -EINVAL;

	if (words == NULL)
		return err_origin(-ENOMEM);
	while (is_blank(*text))
		text++;
	while (*text != '\0') {
		if (n == SUP_WORDS_MAX)
			goto free_words;
		words[n] = malloc(strlen(text) + 1);
		if (words[n] == NULL) {
			r = err_origin(-ENOMEM);
			goto free_words;
		}
		if (!take_word(&text, words[n++]))
			goto free_words;
		while (is_blank(*text))
			text++;
	}
	if (n == 0)
		goto free_words;
	*out = words;
	return 0;
free_words:
	sup_words_free(&words);
	return r;
}

void
sup_words_free(char ***words)
{
	for (char **w = *words; w != NULL && *w != NULL; w++)
		free(*w);
	free(*words);
	*words = NULL;
}
