/* SPDX-License-Identifier: MIT */
/* Text from outside: a total function, because anything may come. */
#include "supervisor/sup_clean.h"

#include "proto/ctl.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "supervisor/sup_priv.h"

size_t
sup_utf8_at(const unsigned char *s, size_t left)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc2 ? 2 : 0;
	uint32_t code;

	if (n == 0 || n > left || s[0] >= 0xf5)
		return 0;
	if (n == 1)
		return 1;
	code = s[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (s[i] & 0x3f);
	}
	return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}

void
sup_clean(char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes;) {
		const unsigned char *s = (const unsigned char *)text + i;
		size_t n = sup_utf8_at(s, bytes - i);
		bool control = n == 1 && (s[0] < 0x20 || s[0] == 0x7f) && s[0] != '\n' && s[0] != '\t';

		if (n == 0 || control)
			text[i] = '?';
		i += n == 0 ? 1 : n;
	}
}

void
sup_clean_message(union ctl_msg *msg)
{
	switch (msg->hdr.type) {
	case CTL_HELLO:
		sup_clean(msg->hello.name, strlen(msg->hello.name));
		break;
	case CTL_STATUS:
		sup_clean(msg->text.text, strlen(msg->text.text));
		break;
	case CTL_PARAMS_RESULT:
		sup_clean(msg->params_result.text, strlen(msg->params_result.text));
		break;
	case CTL_CHANNEL:
		sup_clean(msg->channel.text, strlen(msg->channel.text));
		break;
	case CTL_OVERLAY:
		sup_clean(msg->overlay.text, strlen(msg->overlay.text));
		break;
	default: /* EVENT and DATA are passed on, and checked where that happens */
		break;
	}
}
