/* SPDX-License-Identifier: MIT */
/*
 * millrace.h: write a millrace worker
 *
 * A worker is a program of yours that turns video frames (and audio) into other ones. It runs as a process of its own,
 * beside the processes that receive, decode, encode and send the stream. It links libmillrace, which needs libc alone.
 *
 * A worker's life
 * ---------------
 *
 *   1. `millrace serve --worker ./my-worker` starts your program. Descriptor 3 is its line to the supervisor.
 *   2. You say which pixel format you want and how many streams you can serve at once; you load your model, for as
 *      long as that takes. mr_status() tells people how far you are. Then you are READY, and wait: a worker is warm
 *      before the first stream needs it.
 *   3. A stream starts: you get its parameters, a JSON object that its client wrote.
 *   4. For each frame you get the decoded picture and a place to write the result to, both in shared memory: nothing is
 *      copied between the processes. Each frame is answered once: with a result, with MR_PASS (send the original) or
 *      with MR_WITHHOLD (I have none). When you are slow you get the newest frames; the others are skipped.
 *   5. Parameters change while the stream runs: you get those that change, and accept or refuse them with a reason.
 *   6. The stream stops. You are READY for the next one.
 *   7. mr_run() returns when the supervisor wants you to leave. Return its value from main().
 *
 *   If you crash, or are killed, the stream goes on: viewers see the original picture until your next incarnation is
 *   READY, and it is given the frame that you held, again. If a callback fails, that frame passes unchanged. If you hang,
 *   you are killed and started again. A worker has no duty to survive.
 *
 * A whole worker
 * --------------
 *
 *     #include <millrace.h>
 *
 *     static int
 *     invert(struct mr_session *s, const struct mr_frame *in, struct mr_output *out, void *user)
 *     {
 *             for (size_t i = 0; i < in->bytes; i++)
 *                     out->data[i] = (uint8_t)(255 - in->data[i]);
 *             return MR_OK;
 *     }
 *
 *     int
 *     main(void)
 *     {
 *             struct mr_worker_config config;
 *             struct mr_worker_callbacks callbacks;
 *
 *             mr_worker_config_init(&config, sizeof(config));
 *             mr_worker_callbacks_init(&callbacks, sizeof(callbacks));
 *             callbacks.video = invert;
 *             return mr_run(&config, &callbacks, NULL);
 *     }
 *
 *     cc -o invert invert.c $(pkg-config --cflags --libs millrace) && millrace serve --worker ./invert
 *
 * Two levels
 * ----------
 *
 * mr_run() calls you back. Those who own their event loop, or gather frames of several streams into one batch, use
 * mr_open(), mr_ready(), mr_take(), mr_claim(), mr_publish(), mr_release() and mr_pollfd() instead; mr_run() is written
 * with exactly these.
 *
 * What this library does to your process
 * --------------------------------------
 *
 *   threads    None are made. Every function belongs to the thread that called mr_open() or mr_run(), unless it says
 *              otherwise. Threads of your own are your own business.
 *   signals    No handler or mask is touched; SIGPIPE cannot arise from this library. mr_take() returns -EINTR when a
 *              handler of yours ran; mr_run() goes on.
 *   fds        Descriptor 3 is used and marked close-on-exec. Others are opened close-on-exec: one epoll instance, and
 *              one socket for each stream and track. Memory files are closed as soon as they are mapped.
 *   memory     Rings are mapped shared: input read-only (writing to a frame's `data` is a segmentation fault), output
 *              read-write. They are left out of core dumps. No allocation is made per frame.
 *   prctl      PR_SET_DUMPABLE is set to 0, so that other processes of your user cannot read your memory; this also
 *              means that no core is dumped and that a debugger needs root. MILLRACE_DUMPABLE=1 in the environment
 *              leaves it alone, and so does a build with a sanitizer.
 *   output     Standard output is not used. A few lines go to standard error, which the supervisor collects in its log.
 *   locale     Not touched and not depended on.
 *   exit       The library never calls exit(). It aborts on its own bugs.
 *
 * Errors and exit codes
 * ---------------------
 *
 * Functions return 0 or more on success and a negative errno value otherwise. Exit codes tell the supervisor what to do;
 * mr_run() returns one, mr_exit_code() makes one: 0 done; 64 not started by a supervisor; 100 bad configuration (not
 * started again); 101 this library or its peer broke the protocol; 111 failed for now, try again; 125 permanent: an
 * operator must act.
 *
 * Structs that you fill in begin with `size`, set by their _init function, and only ever grow at their end. Structs that
 * you are given grow likewise. Fields called `reserved` are 0.
 */
#ifndef MILLRACE_H
#define MILLRACE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MR_API __attribute__((visibility("default")))

/* Version of this header; mr_version() tells that of the library. */
#define MR_VERSION_MAJOR 0
#define MR_VERSION_MINOR 1

struct mr_worker;  /* this process as a worker */
struct mr_session; /* one stream, from start to stop */

/* ---- formats and answers ---------------------------------------------- */

/* Pixel formats. Rows of packed formats are tight (stride = width x bytes a pixel); rows of planar ones are padded to
 * 32 bytes. nv12 and i420 need even sizes. */
enum mr_format {
	MR_FORMAT_RGB24 = 1,   /* packed 8-bit R G B: the default */
	MR_FORMAT_RGBA = 2,    /* packed 8-bit R G B A; A is 255 in input frames */
	MR_FORMAT_BGR24 = 3,   /* packed 8-bit B G R */
	MR_FORMAT_NV12 = 4,    /* Y plane, then U and V interleaved at half size */
	MR_FORMAT_I420 = 5,    /* Y, U and V planes, the latter two at half size */
	MR_FORMAT_RGBF32P = 6, /* R, G and B planes of 32-bit floats, 0.0 to 1.0 */
	MR_FORMAT_F32 = 32,    /* audio: interleaved 32-bit floats, -1.0 to 1.0 */
};

/* What to send for a frame. A video or audio callback returns one of these, or a negative errno value: then the frame
 * passes unchanged, and the failure is counted and reported. */
enum mr_answer {
	MR_OK = 0,	 /* the output frame as it was written */
	MR_PASS = 1,	 /* the input frame, unchanged */
	MR_WITHHOLD = 2, /* nothing: the stream's fallback decides what viewers see */
};

/* Why a frame is passed or withheld; for counters and people. */
enum mr_reason {
	MR_REASON_NONE = 0,
	MR_REASON_ERROR = 1,   /* the model failed on it */
	MR_REASON_BUSY = 2,    /* the model chose to skip it */
	MR_REASON_LOADING = 3, /* the model is not ready for it */
};

/* Longest text of mr_event(), mr_data(), mr_status(), mr_overlay() and mr_fail(), bytes without the NUL. */
#define MR_TEXT_MAX 439

/* Flags of a frame. */
enum {
	MR_FRAME_DISCONTINUITY = 1u << 0, /* the source's timeline jumped before this frame */
	MR_FRAME_REDELIVERED = 1u << 1,	  /* your previous incarnation held it when it died */
};

/* ---- frames ----------------------------------------------------------- */

/*
 * An input frame: one picture, or one block of audio. It belongs to the library; it is valid, and its memory does not
 * change, until mr_release() (callbacks: until the callback returns). At least 64 bytes after `data + bytes` are
 * readable. The memory is mapped read-only.
 */
struct mr_frame {
	size_t size;		     /* of this struct as the library knows it */
	struct mr_session *session;
	uint32_t format;	     /* enum mr_format; MR_FORMAT_F32: audio */
	uint32_t flags;		     /* MR_FRAME_* */
	uint64_t seq;		     /* unique in the session, grows */
	int64_t pts_ns;		     /* presentation time on the session's clock, nanoseconds */
	int64_t duration_ns;	     /* 0: unknown */
	const uint8_t *data;	     /* the whole payload; audio: cast to const float * */
	size_t bytes;		     /* of the payload */
	uint32_t width, height;	     /* video: pixels */
	uint32_t plane_count;	     /* video: 1..4 */
	uint32_t stride[4];	     /* video: bytes from one row to the next */
	const uint8_t *plane[4];     /* video: first row of each plane */
	uint32_t sample_rate;	     /* audio: Hz, 48000 */
	uint32_t channels;	     /* audio: 1 or 2 */
	uint32_t sample_count;	     /* audio: in each channel, 960 (20 ms) */
	uint32_t rate_num, rate_den; /* video: frames a second as far as known; rate_num 0: unknown */
	uint32_t reserved;
};

/*
 * A place for the answer to an input frame. Timestamps travel by themselves. It has the format of the input and its
 * size too, unless mr_output_resize() asked for another one. Its content is undefined at first; what you do not write is
 * sent as it is. Audio: as many samples as the input.
 */
struct mr_output {
	size_t size; /* mr_claim(): set by the caller to sizeof(struct mr_output) */
	struct mr_session *session;
	uint64_t src_seq;	/* seq of the frame that this answers */
	uint8_t *data;		/* the whole payload; audio: cast to float * */
	size_t bytes;		/* of the payload */
	uint32_t format;	/* enum mr_format */
	uint32_t width, height; /* video: pixels */
	uint32_t plane_count;
	uint32_t stride[4];
	uint8_t *plane[4];
	uint32_t sample_rate, channels, sample_count; /* audio */
	uint32_t reserved;
	uint64_t token;		/* the library's: leave it alone */
};

/* What is known of a stream when it starts. */
struct mr_stream {
	size_t size;	     /* of this struct as the library knows it */
	uint32_t session_id; /* number of the session, unique in the life of the supervisor */
	uint32_t format;     /* enum mr_format of video frames */
	uint32_t width, height; /* of the first frames, pixels; may change */
	bool recovering;     /* you replace a worker that died in this stream */
	const char *params;  /* the parameters: a JSON object, UTF-8, NUL-terminated; valid until the callback returns
			      * or mr_take() is called */
	size_t params_bytes; /* without the NUL */
};

/* ---- settings --------------------------------------------------------- */

struct mr_worker_config {
	size_t size;
	const char *name;    /* "my-model 1.2", for people; borrowed during the call; NULL: the program's name */
	uint32_t format;     /* enum mr_format of video frames, in and out; default MR_FORMAT_RGB24 */
	uint32_t capacity;   /* streams at once, 1..64; default 1 */
	uint32_t hold_count; /* video frames of one stream held at once, 1..16; default 1. More only for batches */
	bool audio;	     /* take audio, and answer it; default false. mr_run(): set by the audio callback */
};

/*
 * Fills in the defaults.
 * @param size  sizeof(*config) of the caller, so that old programs run with new libraries.
 * @thread Any. @since 0.1
 */
MR_API void mr_worker_config_init(struct mr_worker_config *config, size_t size);

/*
 * The callbacks; NULL: nothing of that kind is wanted. `user` is what was given to mr_run(). All run in the thread of
 * mr_run(), one at a time, also with several sessions. Frames of one session come in order.
 */
struct mr_worker_callbacks {
	size_t size;
	/*
	 * Load the model; takes as long as it takes. mr_status() shows progress.
	 * 0: READY. MR_LOAD_PERMANENT: trying again cannot help (exit code 125). Another negative value: try again
	 * later (exit code 111). Say why with mr_status().
	 */
	int (*load)(struct mr_worker *worker, void *user);
	/*
	 * A stream starts. 0: its frames follow. Negative: the stream runs unprocessed (every frame passes) until an
	 * update of its parameters comes; then this is called again, with the first parameters and the update in one
	 * object, in which a name may occur twice: the later one counts. Say why with mr_fail().
	 */
	int (*stream_start)(struct mr_session *session, const struct mr_stream *stream, void *user);
	/* One picture: enum mr_answer, or a negative errno value. NULL: pictures pass. */
	int (*video)(struct mr_session *session, const struct mr_frame *in, struct mr_output *out, void *user);
	/* One block of audio, likewise. NULL: this worker has no part in audio. */
	int (*audio)(struct mr_session *session, const struct mr_frame *in, struct mr_output *out, void *user);
	/*
	 * The client changed parameters. The object has only those that change; others stay as they are. (Your next
	 * incarnation would get all of them with its stream_start.) 0: in force from the next frame on. Negative: none
	 * of them is in force; say why with mr_fail(). NULL: every update is accepted and ignored. The text is
	 * NUL-terminated and valid until the callback returns.
	 */
	int (*params)(struct mr_session *session, const char *json, size_t json_bytes, void *user);
	/* The stream is over, also when the supervisor is gone. Called once for each stream that stream_start was
	 * called for, whatever that returned. */
	void (*stream_stop)(struct mr_session *session, void *user);
	/* The counterpart of a successful load, before mr_run() returns. */
	void (*unload)(void *user);
};

/* A load callback's "do not try again". */
#define MR_LOAD_PERMANENT (-100000)

/* Sets `size` and no callbacks. `size`: as in mr_worker_config_init(). @thread Any. @since 0.1 */
MR_API void mr_worker_callbacks_init(struct mr_worker_callbacks *callbacks, size_t size);

/* ---- callbacks level -------------------------------------------------- */

/*
 * Runs a worker until the supervisor lets it go.
 * @param config     Settings; NULL: the defaults. Borrowed.
 * @param callbacks  Borrowed until the call returns.
 * @param user       Passed to every callback.
 * @return The exit code for main(), see above. Everything is released, stream_stop and unload have been called.
 * @thread Becomes the worker's thread. @since 0.1
 */
MR_API int mr_run(const struct mr_worker_config *config, const struct mr_worker_callbacks *callbacks, void *user);

/*
 * Records why a callback fails, and returns `error`:  return mr_fail(s, -EINVAL, "intensity must be 0 to 1");
 * The text reaches the client with the result of the update, and the log. Cut to MR_TEXT_MAX bytes.
 * @thread The worker's. @since 0.1
 */
MR_API int mr_fail(struct mr_session *session, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- loop level ------------------------------------------------------- */

/*
 * Connects to the supervisor and introduces this worker. Load your model after it, then call mr_ready().
 * @param config  Settings; NULL: the defaults. Borrowed.
 * @param worker  Set on success; the caller's until mr_close().
 * @return 0          Connected.
 *         -ENOTCONN  Not started by a supervisor; a message that says so went to standard error.
 *         -EINVAL    A setting is out of range.
 *         -EPROTO    The supervisor speaks another version; a message went to standard error.
 *         -ESHUTDOWN The supervisor is gone.
 *         -ETIMEDOUT It did not answer within 10 s.
 *         -errno     Another failure.
 *         Nothing is held after a failure.
 * @thread The caller becomes the worker's thread. One worker a process. @since 0.1
 */
MR_API int mr_open(const struct mr_worker_config *config, struct mr_worker **worker);

/*
 * The model is loaded: streams may come.
 * @return 0, also when it was said before; -ESHUTDOWN; -errno. The worker stays the caller's.
 * @thread The worker's. @since 0.1
 */
MR_API int mr_ready(struct mr_worker *worker);

enum mr_item_kind {
	MR_ITEM_START = 1,  /* `session` is new; `stream` says what is known of it */
	MR_ITEM_PARAMS = 2, /* an update: those parameters in `params` change, others stay; answer with
			     * mr_params_result() */
	MR_ITEM_STOP = 3,   /* `session` is over: release its frames. It is valid until the next mr_take() that finds
			     * none of them held */
	MR_ITEM_VIDEO = 4,  /* `frame`, held until mr_release() */
	MR_ITEM_AUDIO = 5,
};

struct mr_item {
	size_t size;	  /* set by the caller to sizeof(struct mr_item) */
	uint32_t kind;	  /* enum mr_item_kind */
	uint32_t reserved;
	struct mr_session *session;
	const struct mr_frame *frame;	/* VIDEO, AUDIO; else NULL */
	const struct mr_stream *stream; /* START: valid until the next mr_take(); else NULL */
	const char *params;		/* START, PARAMS: a JSON object, UTF-8, NUL-terminated; valid until the next
					 * mr_take(); else NULL */
	size_t params_bytes;		/* without the NUL */
};

/* mr_take(): no limit. */
#define MR_FOREVER UINT64_MAX

/*
 * The next thing to do: a frame of any session, or news about one. Sessions are served in turn; frames of one session
 * and track come in order.
 * @param item        Filled in on success.
 * @param timeout_ns  Longest wait, nanoseconds; 0: look only; MR_FOREVER: until there is something.
 * @return 0          *item is valid. A frame is held by the caller until mr_release().
 *         -EAGAIN    Nothing within the timeout. Frames of a stream of which hold_count are held already wait.
 *         -EINTR     A signal handler ran; call again.
 *         -EBUSY     An output is claimed: publish or abandon it first.
 *         -EINVAL    item->size is not that of a known version.
 *         -ESHUTDOWN The worker is to leave: the supervisor has drained it or is gone, and all streams have stopped.
 *                    Release what you hold, mr_close(), and exit with 0.
 *         -EPROTO, -ENOMEM, -errno  The worker can only be closed; mr_exit_code() of it is the exit code. All streams
 *                    have been stopped before.
 * @thread The worker's. @since 0.1
 */
MR_API int mr_take(struct mr_worker *worker, struct mr_item *item, uint64_t timeout_ns);

/*
 * A descriptor for poll(): readable when mr_take() may have something. Call mr_take() until it returns -EAGAIN before
 * waiting. The library keeps it: do not read or close it.
 * @thread Any. @since 0.1
 */
MR_API int mr_pollfd(const struct mr_worker *worker);

/*
 * A place for the answer to a frame that is held. One at a time for each session and track; frames of one session and
 * track are answered in the order in which they were taken.
 * @param output  Set output->size first; filled in on success.
 * @return 0        The caller must mr_publish() or mr_abandon() it before the next mr_take().
 *         -EBUSY   One is claimed already for this session and track.
 *         -EAGAIN  No room (audio: also not by its deadline, 20 ms): the answer is lost, which the consumer can bear.
 *         -ESTALE  This frame, or a later one, has been answered, or the session is over.
 *         -EINVAL  The frame is not held, or output->size is not that of a known version.
 * @thread The worker's. @rt For video. @since 0.1
 */
MR_API int mr_claim(struct mr_worker *worker, const struct mr_frame *frame, struct mr_output *output);

/*
 * Sends a claimed output. Its memory is no longer the caller's. The input frame stays held.
 * @return 0, or -EINVAL: it is not claimed. @thread The worker's. @rt @since 0.1
 */
MR_API int mr_publish(struct mr_worker *worker, struct mr_output *output);

/* Gives a claimed output back unsent. @return 0 or -EINVAL. @thread The worker's. @rt @since 0.1 */
MR_API int mr_abandon(struct mr_worker *worker, struct mr_output *output);

/*
 * Answers a held frame without a result.
 * @param answer  MR_PASS or MR_WITHHOLD.
 * @param reason  enum mr_reason.
 * @return 0, or as mr_claim(). The frame stays held. @thread The worker's. @rt For video. @since 0.1
 */
MR_API int mr_answer(struct mr_worker *worker, const struct mr_frame *frame, int answer, int reason);

/*
 * Lets go of a frame: its memory may be overwritten from now on. A frame that was not answered before leaves its viewers
 * waiting until its deadline has passed: answer first.
 * @return 0, or -EINVAL: it is not held. @thread The worker's. @rt @since 0.1
 */
MR_API int mr_release(struct mr_worker *worker, const struct mr_frame *frame);

/*
 * Answers MR_ITEM_PARAMS, or MR_ITEM_START. Without a call before the next mr_take(), new parameters count as accepted.
 * @param status  0: in force. Negative errno value: refused, nothing has changed.
 * @param text    Why, for the client; NULL: none. Cut to MR_TEXT_MAX bytes.
 * @return 0, or -ENOENT: nothing waits for an answer. @thread The worker's. @since 0.1
 */
MR_API int mr_params_result(struct mr_session *session, int status, const char *text);

/*
 * Leaves: everything is unmapped, sessions and frames with it. Frames that are still held will be given to the worker's
 * next incarnation. *worker becomes NULL; NULL is fine.
 * @thread The worker's. @since 0.1
 */
MR_API void mr_close(struct mr_worker **worker);

/* The exit code for main() that says what a failed mr_open() or mr_take() means. @thread Any. @since 0.1 */
MR_API int mr_exit_code(int error);

/* ---- both levels ------------------------------------------------------ */

/* Number of the session, as in logs. @thread The worker's. @since 0.1 */
MR_API uint32_t mr_session_id(const struct mr_session *session);
/* The worker that the session belongs to. @thread The worker's. @since 0.1 */
MR_API struct mr_worker *mr_session_worker(const struct mr_session *session);
/* A pointer of yours that goes with the session; NULL at first, never touched. @thread The worker's. @since 0.1 */
MR_API void mr_session_set_user(struct mr_session *session, void *user);
MR_API void *mr_session_user(const struct mr_session *session);

/*
 * Results will have another size than the input. In stream_start it holds from the first frame on; later, from the frame
 * after the next on at the earliest: frames wait until the new memory is there, usually some milliseconds. A size that
 * the supervisor does not grant within 2 s is given up, with a line in the log, and the old one stays.
 * @param width, height  16..8192 pixels, even for nv12 and i420; 0, 0: as the input, whatever that is.
 * @return 0, or -EINVAL. @thread The worker's. @since 0.1
 */
MR_API int mr_output_resize(struct mr_session *session, uint32_t width, uint32_t height);

/*
 * Publishes an event on the stream's events channel. Never blocks.
 * @param json  A JSON object, at most MR_TEXT_MAX bytes; borrowed.
 * @return 0         Handed to the supervisor.
 *         -EAGAIN   Too many messages (100 a second, 200 at once, of all kinds together): this one is dropped.
 *         -EMSGSIZE Longer than MR_TEXT_MAX.
 *         -EINVAL   Not a JSON object in UTF-8.
 *         -ESHUTDOWN, -errno
 * @thread The worker's. @since 0.1
 */
MR_API int mr_event(struct mr_session *session, const char *json);

/* Publishes a line on the stream's data channel: UTF-8 text. Otherwise as mr_event(). @since 0.1 */
MR_API int mr_data(struct mr_session *session, const char *text);

/*
 * Shows a slate instead of the picture, or goes back to the picture.
 * @param on                false: back to the picture.
 * @param progress_percent  0..100; -1: unknown.
 * @param text              On the slate; NULL: none; cut to MR_TEXT_MAX bytes.
 * @return As mr_event(). @thread The worker's. @since 0.1
 */
MR_API int mr_overlay(struct mr_session *session, bool on, int progress_percent, const char *text);

/*
 * What this worker is doing, for people ("loading weights 40%"); shown in /status. Cut to MR_TEXT_MAX bytes.
 * @return As mr_event(). @thread The worker's. @since 0.1
 */
MR_API int mr_status(struct mr_worker *worker, const char *text);

/* ---- parameters ------------------------------------------------------- */

/*
 * Read one member of a JSON object, for workers that do not want a JSON library. The whole text is checked: strict JSON,
 * UTF-8, nesting up to 64. Of a repeated key the last one counts. The text need not be NUL-terminated.
 * @param json, json_bytes  The object.
 * @param key               Name of a member of the outermost object.
 * @return 0            *value is set.
 *         -ENOENT      There is no such member, or it is null. *value is untouched: set a default before the call.
 *         -EINVAL      It has another type, or the number does not fit. *value is untouched.
 *         -EBADMSG     The text is not a JSON object. *value is untouched.
 * @thread Any. @since 0.1
 */
MR_API int mr_param_number(const char *json, size_t json_bytes, const char *key, double *value);
/* Whole numbers only: 3, 3.0 and 3e2, not 3.5. @since 0.1 */
MR_API int mr_param_integer(const char *json, size_t json_bytes, const char *key, int64_t *value);
MR_API int mr_param_bool(const char *json, size_t json_bytes, const char *key, bool *value);
/*
 * @param value        The unescaped text with a NUL after it.
 * @param value_bytes  Size of `value`, at least 1.
 * @return Also -ENAMETOOLONG: it does not fit; -EINVAL: it contains U+0000. @since 0.1
 */
MR_API int mr_param_string(const char *json, size_t json_bytes, const char *key, char *value, size_t value_bytes);

/* Version of the library, "0.1.0". @thread Any. @since 0.1 */
MR_API const char *mr_version(void);

#ifdef __cplusplus
}
#endif

#endif
