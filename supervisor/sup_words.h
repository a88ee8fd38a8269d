/* SPDX-License-Identifier: MIT */
/* Splitting a command into words as a shell would, without a shell. */
#ifndef MR_SUP_WORDS_H
#define MR_SUP_WORDS_H

enum { SUP_WORDS_MAX = 64 };

/*
 * Blanks separate words; '...' keeps everything, "..." keeps all but \" and \\, a backslash keeps the next
 * character. Nothing is expanded.
 * 0: *out is a NULL-terminated vector, freed with sup_words_free(). -EINVAL: a quote is not closed, a word is missing,
 * or there are more than SUP_WORDS_MAX.
 */
int sup_words_split(const char *text, char ***out);
void sup_words_free(char ***words);

#endif
