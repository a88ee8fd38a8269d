/* SPDX-License-Identifier: MIT */
/*
 * The command line of `millrace publish`
 *
 * Options may stand anywhere; `-` is an input, not an option. What cannot be understood is said in one line that names
 * the word, and ends the program with 100.
 */
#include "base/clock.h"
#include "tools/publish/pub_options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: millrace publish INPUT URL [OPTION]...\n"
    "Publishes INPUT, anything FFmpeg reads, as the trickle channel URL, without re-encoding.\n"
    "INPUT `-` is standard input, sent on as it comes. A file is played in real time.\n"
    "\n"
    "  --loop                  start again at the end; timestamps go on\n"
    "  --speed realtime|max    pace by the timestamps, or send as fast as it is taken\n"
    "  --segment-time TIME     cut at the first keyframe after so long (2s)\n"
    "  --format NAME           FFmpeg's name of the input format, when probing gets it wrong\n"
    "  --keep                  leave the channel open at the end\n"
    "  --linger TIME           how long readers may still read before the channel is closed (1s)\n"
    "  --tls-verify on|off|FILE  check an https server's certificate (off), or against FILE\n"
    "  -v, --verbose           say what is sent\n"
    "  -h, --help              this text\n"
    "  -V, --version           the version\n";

/* "2s", "1500ms", "2": 0 and *ns, or -EINVAL. */
static int
time_parse(const char *text, int64_t *ns)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || !isfinite(value) || value < 0 || value > 86400e3)
		return -EINVAL;
	if (strcmp(end, "ms") == 0)
		value /= 1000;
	else if (strcmp(end, "s") != 0 && *end != '\0')
		return -EINVAL;
	*ns = (int64_t)(value * 1e9);
	return 0;
}

static int
bad(const char *what, const char *word)
{
	fprintf(stderr, "millrace publish: %s: %s; try `millrace publish --help`\n", word, what);
	return PUB_OPTIONS_BAD;
}

static int
speed_parse(struct pub_options *options, const char *text)
{
	if (strcmp(text, "realtime") == 0)
		options->speed = PUB_SPEED_REALTIME;
	else if (strcmp(text, "max") == 0)
		options->speed = PUB_SPEED_MAX;
	else
		return bad("a speed is `realtime` or `max`", text);
	return 0;
}

static void
tls_parse(struct pub_options *options, const char *text)
{
	options->tls_verify = strcmp(text, "off") != 0;
	options->ca_file = options->tls_verify && strcmp(text, "on") != 0 ? text : NULL;
}

static int
option_apply(struct pub_options *options, int option)
{
	switch (option) {
	case 'l':
		options->loop = true;
		return 0;
	case 's':
		return speed_parse(options, optarg);
	case 't':
		if (time_parse(optarg, &options->segment_ns) != 0 || options->segment_ns == 0)
			return bad("not a time such as 2s or 1500ms", optarg);
		return 0;
	case 'i':
		return time_parse(optarg, &options->linger_ns) == 0 ? 0 : bad("not a time such as 2s", optarg);
	case 'f':
		options->format = optarg;
		return 0;
	case 'k':
		options->keep = true;
		return 0;
	case 'c':
		tls_parse(options, optarg);
		return 0;
	case 'v':
		options->verbose = true;
		return 0;
	case 'h':
		fputs(help, stdout);
		return PUB_OPTIONS_DONE;
	case 'V':
		puts("millrace publish " MR_VERSION);
		return PUB_OPTIONS_DONE;
	default:
		return bad("not an option, or its value is missing", "command line");
	}
}

int
pub_options_parse(struct pub_options *options, int argc, char **argv)
{
	static const struct option names[] = {
		{ "loop", no_argument, NULL, 'l' },
		{ "speed", required_argument, NULL, 's' },
		{ "segment-time", required_argument, NULL, 't' },
		{ "format", required_argument, NULL, 'f' },
		{ "keep", no_argument, NULL, 'k' },
		{ "linger", required_argument, NULL, 'i' },
		{ "tls-verify", required_argument, NULL, 'c' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	int option, r;

	*options = (struct pub_options){ .segment_ns = 2 * CLOCK_SEC_NS, .linger_ns = CLOCK_SEC_NS };
	while ((option = getopt_long(argc, argv, "vhV", names, NULL)) != -1) {
		r = option_apply(options, option);
		if (r != 0)
			return r;
	}
	if (argc - optind != 2)
		return bad("an INPUT and a URL are needed", "command line");
	options->input = argv[optind];
	options->url = argv[optind + 1];
	return 0;
}
