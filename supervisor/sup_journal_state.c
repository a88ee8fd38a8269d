/* SPDX-License-Identifier: MIT */
/*
 * Folding records. They were written by this program and passed their checksum, but perhaps by an older or newer one:
 * what has not the form that is expected is refused here, and what it says is checked again where it is used.
 */
#include "supervisor/sup_journal_state.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "supervisor/sup_priv.h"

bool
sup_jrn_state_init(struct sup_jrn_state *st)
{
	*st = (struct sup_jrn_state){ .sessions = json_object(), .children = json_object() };
	return st->sessions != NULL && st->children != NULL;
}

void
sup_jrn_state_fini(struct sup_jrn_state *st)
{
	json_decref(st->sessions);
	json_decref(st->children);
	st->sessions = st->children = NULL;
}

static bool
on_boot(struct sup_jrn_state *st, const json_t *o)
{
	const char *id = json_string_value(json_object_get(o, "id"));

	if (id == NULL || id[0] == '\0' || strlen(id) >= sizeof(st->boot))
		return false;
	if (strcmp(id, st->boot) != 0)
		json_object_clear(st->children);
	memcpy(st->boot, id, strlen(id) + 1);
	return true;
}

static bool
on_child(struct sup_jrn_state *st, const json_t *o)
{
	json_int_t pid = json_integer_value(json_object_get(o, "pid"));
	json_t *start = json_object_get(o, "start");
	char key[24];

	if (pid <= 1 || pid > INT32_MAX || !json_is_integer(start) || json_integer_value(start) <= 0)
		return false;
	if (json_object_size(st->children) >= SUP_JRN_CHILDREN_MAX)
		json_object_clear(st->children);
	snprintf(key, sizeof(key), "%lld", (long long)pid);
	return json_object_set(st->children, key, start) == 0;
}

bool
sup_jrn_state_apply(void *arg, uint16_t type, const char *payload, size_t bytes)
{
	struct sup_jrn_state *st = arg;
	json_t *o = json_loadb(payload, bytes, JSON_ALLOW_NUL, NULL), *known; /* as sup_json.h holds it */
	json_int_t key = json_integer_value(json_object_get(o, "key"));
	char name[24];
	bool ok = false;

	snprintf(name, sizeof(name), "%lld", (long long)key);
	known = json_object_get(st->sessions, name);
	if (!json_is_object(o))
		goto put_o;
	if (key > 0 && (uint64_t)key > st->last_key)
		st->last_key = (uint64_t)key;
	switch (type) {
	case SUP_JRN_BOOT:
		ok = on_boot(st, o);
		break;
	case SUP_JRN_OPEN:
		ok = key > 0 && json_object_set(st->sessions, name, o) == 0;
		break;
	case SUP_JRN_UPDATE: /* of one that is over or was damaged: nothing is lost */
		ok = key > 0 && (known == NULL || json_object_update(known, o) == 0);
		break;
	case SUP_JRN_CLOSED:
		json_object_del(st->sessions, name);
		ok = key > 0;
		break;
	case SUP_JRN_CHILD:
		ok = on_child(st, o);
		break;
	default:
		break;
	}
put_o:
	json_decref(o);
	return ok;
}
