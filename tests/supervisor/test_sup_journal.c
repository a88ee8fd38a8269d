/* SPDX-License-Identifier: MIT */
/*
 * Goal: whatever a crash, a disk or another version leaves in the journal, what can be read of it is read, the rest is
 * reported, and reading it again changes nothing. A disk that is full costs a record and no more.
 * Method: real files in a folder of their own, cut at every byte and flipped at every bit.
 */
#include "base/fd.h"
#include "supervisor/sup_journal_file.h"
#include "supervisor/sup_journal_point.h"
#include "supervisor/sup_journal_state.h"
#include "supervisor/sup_sweep.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64];

static void
make_dir(void)
{
	snprintf(dir, sizeof(dir), "/tmp/millrace-journal-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
}

static void
remove_dir(void)
{
	static const char *const names[] = { "journal", "journal.new", "checkpoint" };
	char path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static const struct {
	uint16_t type;
	const char *text;
} records[] = {
	{ SUP_JRN_BOOT, "{\"id\":\"b1\",\"key\":7}" },
	{ SUP_JRN_CHILD, "{\"pid\":4711,\"start\":99}" },
	{ SUP_JRN_OPEN, "{\"key\":8,\"slot\":0,\"stream\":{\"gateway_request_id\":\"MRJ1\"},\"params\":null}" },
	{ SUP_JRN_OPEN, "{\"key\":9,\"slot\":1,\"stream\":{\"gateway_request_id\":\"b\"},\"params\":{\"x\":1}}" },
	{ SUP_JRN_UPDATE, "{\"key\":8,\"params\":{\"strength\":0.5}}" },
	{ SUP_JRN_CLOSED, "{\"key\":9}" },
	{ SUP_JRN_UPDATE, "{\"key\":9,\"params\":{\"late\":true}}" },
	{ SUP_JRN_CHILD, "{\"pid\":4712,\"start\":100}" },
};
enum { RECORDS = sizeof(records) / sizeof(records[0]) };

static void
open_empty(struct sup_jrn_file *f)
{
	struct sup_jrn_file fresh;

	sup_jrn_init(f);
	cr_assert_eq(sup_jrn_open(f, dir), 0);
	cr_assert_eq(sup_jrn_replace_begin(f, &fresh), 0);
	cr_assert_eq(sup_jrn_replace_commit(f, &fresh), 0);
}

/* The bytes of a journal with the first `count` records; the caller frees. */
static char *
bytes_of(unsigned count, size_t *bytes)
{
	struct sup_jrn_file f;
	char path[128], *data;
	int fd;

	open_empty(&f);
	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(sup_jrn_append(&f, records[i].type, records[i].text, strlen(records[i].text)), 0);
	cr_assert_eq(sup_jrn_sync(&f), 0);
	sup_jrn_close(&f);
	snprintf(path, sizeof(path), "%s/journal", dir);
	fd = open(path, O_RDONLY);
	cr_assert_eq(fd_read_whole(fd, 1 << 20, &data, bytes), 0);
	fd_close(&fd);
	return data;
}

static void
fold(const char *data, size_t bytes, struct sup_jrn_state *st, struct sup_jrn_scan *scan)
{
	cr_assert(sup_jrn_state_init(st));
	sup_jrn_scan(data, bytes, sup_jrn_state_apply, st, scan);
}

static bool
same(const struct sup_jrn_state *a, const struct sup_jrn_state *b)
{
	return json_equal(a->sessions, b->sessions) && json_equal(a->children, b->children) && strcmp(a->boot, b->boot) == 0 &&
	    a->last_key == b->last_key;
}

TestSuite(journal, .init = make_dir, .fini = remove_dir, .timeout = 60);

Test(journal, what_records_say_together)
{
	size_t bytes;
	char *data = bytes_of(RECORDS, &bytes);
	struct sup_jrn_state st;
	struct sup_jrn_scan scan;
	json_t *s;

	fold(data, bytes, &st, &scan);
	cr_expect(scan.records == RECORDS && scan.unknown == 0 && scan.damaged_bytes == 0 && scan.torn_bytes == 0);
	cr_expect_eq(json_object_size(st.sessions), 1);
	s = json_object_get(st.sessions, "8");
	cr_expect_eq(json_real_value(json_object_get(json_object_get(s, "params"), "strength")), 0.5);
	cr_expect_eq(json_object_size(st.children), 2);
	cr_expect_eq(st.last_key, 9, "a number is never used again");
	cr_expect_str_eq(st.boot, "b1");
	sup_jrn_state_fini(&st);
	free(data);
}

Test(journal, cut_at_every_byte)
{
	struct sup_jrn_state want[RECORDS + 1], st;
	size_t end[RECORDS + 1], bytes;
	struct sup_jrn_scan scan;
	unsigned whole = 0;
	char *data;

	for (unsigned i = 0; i <= RECORDS; i++) {
		data = bytes_of(i, &end[i]);
		fold(data, end[i], &want[i], &scan);
		free(data);
	}
	data = bytes_of(RECORDS, &bytes);
	for (size_t cut = 0; cut <= bytes; cut++) {
		while (whole < RECORDS && end[whole + 1] <= cut)
			whole++;
		fold(data, cut, &st, &scan);
		cr_expect(same(&st, &want[whole]), "cut at %zu", cut);
		cr_expect_eq(scan.torn_bytes, cut - end[whole], "cut at %zu", cut);
		cr_expect_eq(scan.damaged_bytes, 0);
		sup_jrn_state_fini(&st);
	}
	for (unsigned i = 0; i <= RECORDS; i++)
		sup_jrn_state_fini(&want[i]);
	free(data);
}

Test(journal, flipped_at_every_bit)
{
	size_t bytes;
	char *data = bytes_of(RECORDS, &bytes);

	for (size_t bit = 0; bit < bytes * 8; bit++) {
		struct sup_jrn_state st;
		struct sup_jrn_scan scan;

		data[bit / 8] ^= (char)(1 << bit % 8);
		fold(data, bytes, &st, &scan);
		cr_expect_eq(scan.records, RECORDS - 1, "bit %zu: one record is lost, and the others are not", bit);
		cr_expect(scan.damaged_bytes + scan.torn_bytes > 0, "bit %zu: and that is told", bit);
		sup_jrn_state_fini(&st);
		data[bit / 8] ^= (char)(1 << bit % 8);
	}
	free(data);
}

Test(journal, reading_it_twice_changes_nothing)
{
	size_t bytes;
	char *data = bytes_of(RECORDS, &bytes);
	struct sup_jrn_state once, twice;
	struct sup_jrn_scan scan;

	fold(data, bytes, &once, &scan);
	fold(data, bytes, &twice, &scan);
	sup_jrn_scan(data, bytes, sup_jrn_state_apply, &twice, &scan);
	cr_expect(same(&once, &twice));
	sup_jrn_state_fini(&once);
	sup_jrn_state_fini(&twice);
	free(data);
}

Test(journal, what_is_not_known_is_stepped_over)
{
	static const char *const bad[] = { "", "{", "[]", "7", "{}", "{\"key\":0}", "{\"key\":\"8\"}", "{\"key\":-1}" };
	struct sup_jrn_state st, before;
	struct sup_jrn_scan scan;
	uint32_t crc;
	size_t bytes;
	char *data = bytes_of(RECORDS, &bytes);

	fold(data, bytes, &st, &scan);
	fold(data, bytes, &before, &scan);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		for (uint16_t type = SUP_JRN_OPEN; type <= SUP_JRN_CHILD; type++)
			cr_expect_not(sup_jrn_state_apply(&st, type, bad[i], strlen(bad[i])), "%u %s", type, bad[i]);
	cr_expect_not(sup_jrn_state_apply(&st, 77, "{\"key\":8}", 9));
	cr_expect_not(sup_jrn_state_apply(&st, SUP_JRN_CHILD, "{\"pid\":1,\"start\":5}", 19), "init is nobody's child");
	cr_expect(same(&st, &before));
	/* a record of the next version, whole: skipped and counted */
	data[4]++;
	crc = sup_jrn_crc(sup_jrn_crc(0, data + 4, 8), data + SUP_JRN_HEAD_BYTES, strlen(records[0].text));
	for (int i = 0; i < 4; i++)
		data[12 + i] = (char)(crc >> 8 * i);
	sup_jrn_state_fini(&st);
	fold(data, bytes, &st, &scan);
	cr_expect(scan.records == RECORDS && scan.unknown == 1 && scan.damaged_bytes == 0);
	sup_jrn_state_fini(&st);
	sup_jrn_state_fini(&before);
	free(data);
}

Test(journal, another_boot_forgets_pids)
{
	struct sup_jrn_state st;

	cr_assert(sup_jrn_state_init(&st));
	cr_expect(sup_jrn_state_apply(&st, SUP_JRN_BOOT, "{\"id\":\"b1\"}", 11));
	cr_expect(sup_jrn_state_apply(&st, SUP_JRN_CHILD, "{\"pid\":5,\"start\":6}", 19));
	cr_expect(sup_jrn_state_apply(&st, SUP_JRN_BOOT, "{\"id\":\"b1\"}", 11));
	cr_expect_eq(json_object_size(st.children), 1);
	cr_expect(sup_jrn_state_apply(&st, SUP_JRN_BOOT, "{\"id\":\"b2\"}", 11));
	cr_expect_eq(json_object_size(st.children), 0);
	sup_jrn_state_fini(&st);
}

/* ---- the file --------------------------------------------------------- */

static unsigned
records_in_file(struct sup_jrn_file *f)
{
	struct sup_jrn_state st;
	struct sup_jrn_scan scan;

	cr_assert(sup_jrn_state_init(&st));
	cr_assert_eq(sup_jrn_read(f, sup_jrn_state_apply, &st, &scan), 0);
	cr_expect_eq(scan.damaged_bytes + scan.torn_bytes, 0);
	sup_jrn_state_fini(&st);
	return scan.records;
}

Test(journal, one_supervisor_a_folder)
{
	struct sup_jrn_file a, b;
	struct stat st;

	open_empty(&a);
	cr_expect_eq(fstat(a.fd, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
	sup_jrn_init(&b);
	cr_expect_eq(sup_jrn_open(&b, dir), SUP_JRN_BUSY);
	cr_expect_eq(b.dir_fd, -1);
	sup_jrn_close(&a);
	cr_expect_eq(sup_jrn_open(&b, dir), 0);
	sup_jrn_close(&b);
}

Test(journal, exchange)
{
	struct sup_jrn_file f, fresh;

	open_empty(&f);
	for (unsigned i = 0; i < RECORDS; i++)
		cr_assert_eq(sup_jrn_append(&f, records[i].type, records[i].text, strlen(records[i].text)), 0);
	cr_expect_eq(records_in_file(&f), RECORDS);
	/* one that was not finished changes nothing, and is in nobody's way */
	cr_assert_eq(sup_jrn_replace_begin(&f, &fresh), 0);
	cr_assert_eq(sup_jrn_append(&fresh, SUP_JRN_CLOSED, "{\"key\":8}", 9), 0);
	fd_close(&fresh.fd);
	cr_expect_eq(records_in_file(&f), RECORDS);
	cr_assert_eq(sup_jrn_replace_begin(&f, &fresh), 0);
	cr_assert_eq(sup_jrn_append(&fresh, records[2].type, records[2].text, strlen(records[2].text)), 0);
	cr_assert_eq(sup_jrn_replace_commit(&f, &fresh), 0);
	cr_expect_eq(records_in_file(&f), 1);
	cr_assert_eq(sup_jrn_append(&f, records[4].type, records[4].text, strlen(records[4].text)), 0);
	cr_expect_eq(records_in_file(&f), 2, "the new file is the one that is appended to");
	cr_expect(f.dirty);
	cr_expect_eq(sup_jrn_sync(&f), 0);
	cr_expect(!f.dirty && f.syncs > 0);
	sup_jrn_close(&f);
}

/* A record that does not fit leaves no trace, and the next one that fits is written. */
Test(journal, no_room)
{
	struct rlimit limit, all;
	struct sup_jrn_file f, fresh;
	char big[4096] = "";

	sigaction(SIGXFSZ, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
	open_empty(&f);
	cr_assert_eq(sup_jrn_append(&f, records[2].type, records[2].text, strlen(records[2].text)), 0);
	getrlimit(RLIMIT_FSIZE, &all);
	limit = all;
	limit.rlim_cur = f.bytes + 1000;
	memset(big, ' ', sizeof(big) - 1);
	big[0] = '{';
	big[sizeof(big) - 2] = '}';
	setrlimit(RLIMIT_FSIZE, &limit);
	cr_expect_eq(sup_jrn_append(&f, SUP_JRN_UPDATE, big, strlen(big)), -EFBIG);
	cr_expect_eq(records_in_file(&f), 1, "the half that was written is gone");
	cr_expect_eq(sup_jrn_append(&f, records[4].type, records[4].text, strlen(records[4].text)), 0);
	cr_assert_eq(sup_jrn_replace_begin(&f, &fresh), 0);
	cr_expect_eq(sup_jrn_append(&fresh, SUP_JRN_UPDATE, big, strlen(big)), -EFBIG);
	sup_jrn_replace_abandon(&fresh);
	setrlimit(RLIMIT_FSIZE, &all);
	cr_expect_eq(records_in_file(&f), 2);
	fd_close(&f.fd);
	f.fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	cr_assert_neq(f.fd, -1);
	cr_expect_eq(sup_jrn_append(&f, records[4].type, records[4].text, strlen(records[4].text)), -ENOSPC);
	sup_jrn_close(&f);
}

Test(journal, no_folder)
{
	struct sup_jrn_file f;

	sup_jrn_init(&f);
	cr_expect_lt(sup_jrn_open(&f, "/proc/no/such/folder"), 0);
	cr_expect_eq(sup_jrn_open(&f, "/dev/null"), -ENOTDIR);
	cr_expect_lt(sup_jrn_append(&f, SUP_JRN_BOOT, "{}", 2), 0);
	sup_jrn_close(&f);
}

/* ---- checkpoints ------------------------------------------------------ */

Test(journal, checkpoints)
{
	struct sup_point p = { .key = 5, .count = 1, .out_pts_ns = 100 }, got;
	struct sup_jrn_file f;
	int fd;

	open_empty(&f);
	cr_assert_eq(sup_point_open(f.dir_fd, &fd), 0);
	cr_expect_not(sup_point_read(fd, 0, 5, &got), "an empty file");
	for (; p.count < 10; p.count++, p.out_pts_ns += 100) {
		cr_assert_eq(sup_point_write(fd, 3, &p), 0);
		cr_assert(sup_point_read(fd, 3, 5, &got));
		cr_expect_eq(got.count, p.count);
		cr_expect_eq(got.out_pts_ns, p.out_pts_ns);
	}
	cr_expect_not(sup_point_read(fd, 3, 6, &got), "somebody else's");
	cr_expect_not(sup_point_read(fd, 2, 5, &got));
	cr_expect_not(sup_point_read(fd, SUP_POINT_SLOTS_MAX, 5, &got));
	cr_expect_not(sup_point_read(-1, 3, 5, &got));
	/* the newest half is torn: the one before it counts */
	cr_assert_eq(pwrite(fd, "xx", 2, 3 * SUP_POINT_BYTES + SUP_POINT_HALF_BYTES + 40), 2);
	cr_assert(sup_point_read(fd, 3, 5, &got));
	cr_expect_eq(got.count, 8);
	p.key = 6; /* the place has a new owner */
	p.count = 2;
	cr_assert_eq(sup_point_write(fd, 3, &p), 0);
	cr_assert(sup_point_read(fd, 3, 6, &got));
	cr_expect_eq(got.count, 2);
	fd_close(&fd);
	sup_jrn_close(&f);
}

/* ---- leftovers -------------------------------------------------------- */

static pid_t
leftover(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		for (;;)
			pause();
	}
	cr_assert_gt(pid, 0);
	return pid;
}

static unsigned
sweep_one(pid_t pid, uint64_t start)
{
	json_t *children = json_object();
	char key[24];
	unsigned n;

	snprintf(key, sizeof(key), "%d", (int)pid);
	json_object_set_new(children, key, json_integer((json_int_t)start));
	n = sup_sweep(children);
	json_decref(children);
	return n;
}

Test(journal, leftovers_are_known_by_pid_and_time)
{
	pid_t pid = leftover();
	uint64_t start = sup_sweep_start_time(pid);
	int status;

	cr_assert_gt(start, 0);
	cr_expect_eq(sweep_one(pid, start + 1), 0, "another process with the same pid");
	cr_expect_eq(waitpid(pid, &status, WNOHANG), 0, "and it lives");
	cr_expect_eq(sweep_one(pid, start), 1);
	cr_expect_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	cr_expect_eq(sweep_one(pid, start), 0);
	cr_expect_eq(sup_sweep_start_time(pid), 0);
}
