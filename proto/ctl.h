/* SPDX-License-Identifier: MIT */
/*
 * Control messages between the supervisor and its children
 *
 * A child inherits one end of a SOCK_SEQPACKET socketpair as descriptor 3. One datagram is one message: a fixed-size
 * little-endian struct that begins with struct ctl_hdr, at most CTL_BYTES_MAX bytes, with descriptors attached as
 * SCM_RIGHTS where the table below says so, in that order. Texts longer than a message (configuration, parameters)
 * travel in sealed memfds that the supervisor made. All padding and reserved fields are 0 and are checked.
 *
 * The life of a child (C -> S: child to supervisor):
 *
 *     C -> S  HELLO            versions, formats, capacity
 *     S -> C  CONFIG           + stats page
 *     C -> S  READY            the model is loaded; a media child is READY at once
 *     S -> C  SESSION_OPEN     + session text (JSON: a worker gets its parameters, a media child its settings)
 *     C -> S  RING_REQUEST     a producer knows a track's format and size, or they changed
 *     S -> C  RING_OPEN        + P, D, C..., doorbells: to the producer first
 *     C -> S  MAPPED           the ring is mapped, its descriptors are closed
 *     S -> C  RING_OPEN        to each consumer, after the supervisor has sealed what the producer mapped
 *     C -> S  MAPPED
 *     S -> C  RING_LIVE        to the producer: every consumer that is alive has attached; frames may flow
 *     S -> C  PARAMS           + text; answered by PARAMS_RESULT
 *     S -> C  RING_ENDED       to consumers: the producer has left; drain, then answer RING_CLOSED
 *     S -> C  DELETE_CHANNELS  to egress, before SESSION_CLOSE, when a client asked for the end: readers need not wait
 *     S -> C  SESSION_CLOSE    answered by SESSION_CLOSED when nothing of the session is left
 *     S -> C  DRAIN            no more sessions will come; exit with 0 when the last one is closed
 *
 * Versions: `major` must match exactly. A larger `size` than the receiver knows is accepted by children (trailing
 * fields are ignored) and refused by the supervisor. proto/README.md shows every message byte for byte.
 */
#ifndef MR_PROTO_CTL_H
#define MR_PROTO_CTL_H

#include "proto/ring_layout.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CTL_MAJOR = 1, CTL_MINOR = 0 };
enum { CTL_FD = 3 };		/* where a child finds its end */
enum { CTL_BYTES_MAX = 512 };
enum { CTL_FDS_MAX = 12 };
enum { CTL_TEXT_MAX = 440 };	/* bytes of text inside a message */
enum { CTL_PARAMS_BYTES_MAX = 10 * 1024 * 1024 };

enum ctl_type {
	/* child to supervisor */
	CTL_HELLO = 1,
	CTL_READY = 2,		 /* struct ctl_hdr alone */
	CTL_MAPPED = 3,		 /* struct ctl_ring_ref */
	CTL_RING_REQUEST = 4,	 /* struct ctl_ring_request */
	CTL_RING_CLOSED = 5,	 /* struct ctl_ring_ref */
	CTL_PARAMS_RESULT = 6,	 /* struct ctl_params_result */
	CTL_STATUS = 7,		 /* struct ctl_text: what the child is doing, for people ("loading weights 40%") */
	CTL_EVENT = 8,		 /* struct ctl_text: JSON for the events channel */
	CTL_DATA = 9,		 /* struct ctl_text: one line for the data channel */
	CTL_SESSION_CLOSED = 10, /* struct ctl_hdr alone */
	CTL_CHANNEL = 11,	 /* struct ctl_channel: media child: a channel's state changed */
	CTL_CONTROL = 12,	 /* struct ctl_control: ingest: a control document lies in the upload memfd */
	CTL_OVERLAY = 13,	 /* struct ctl_overlay: worker: show or hide the slate */
	CTL_CHILD_LAST = 13,
	/* supervisor to child */
	CTL_CONFIG = 64,	/* struct ctl_config + fd: stats page, read-write */
	CTL_SESSION_OPEN = 65,	/* struct ctl_session_open + fd: session text (+ fd: upload memfd, ingest only) */
	CTL_RING_OPEN = 66,	/* struct ctl_ring_open + fds */
	CTL_RING_LIVE = 67,	/* struct ctl_ring_ref */
	CTL_RING_ENDED = 68,	/* struct ctl_ring_ref */
	CTL_PARAMS = 69,	/* struct ctl_params + fd: text */
	CTL_SESSION_CLOSE = 70, /* struct ctl_hdr alone */
	CTL_DRAIN = 71,		/* struct ctl_hdr alone */
	CTL_PUBLISH = 72,	/* struct ctl_publish + fd: text: egress: send this on a channel */
	CTL_WORKER = 73,	/* struct ctl_worker: egress: the state of the session's worker, for the slate */
	CTL_CONTROL_TAKEN = 74, /* struct ctl_hdr alone: ingest: the upload memfd may be written again */
	CTL_DELETE_CHANNELS = 75, /* struct ctl_hdr alone: egress: its channels are deleted when the session is closed */
	CTL_SUP_LAST = 75,
};

struct ctl_hdr {
	uint16_t type;	  /* enum ctl_type */
	uint8_t major;	  /* CTL_MAJOR */
	uint8_t minor;	  /* CTL_MINOR */
	uint32_t size;	  /* of the whole message, bytes */
	uint32_t session; /* 0: not about a session */
	uint32_t txn;	  /* copied into the answer; 0: no answer wanted */
};

enum ctl_role { CTL_ROLE_WORKER = 1, CTL_ROLE_INGEST = 2, CTL_ROLE_EGRESS = 3 };

enum {
	CTL_HELLO_AUDIO = 1u << 0,    /* the worker wants audio, and answers it */
	CTL_HELLO_DOORBELL = 1u << 1, /* wants doorbells on the rings that it consumes */
	CTL_HELLO_KNOWN = 3u,
};

struct ctl_hello {
	struct ctl_hdr hdr;
	uint16_t ring_abi_major, ring_abi_minor;
	uint32_t role;	      /* enum ctl_role */
	uint32_t flags;	      /* CTL_HELLO_* */
	uint32_t format;      /* enum format_id of video frames, in and out; media children: 0 */
	uint32_t capacity;    /* sessions at once, 1..64 */
	uint32_t hold_count;  /* video frames held at once, 1..RING_HOLDS_MAX */
	uint32_t pid;	      /* for logs; not trusted */
	uint32_t reserved;
	char name[64];	      /* NUL-terminated UTF-8: the worker's own name and version, for people */
};

struct ctl_config {
	struct ctl_hdr hdr;
	uint32_t child_id;	   /* as in logs and the API */
	uint32_t incarnation;
	int64_t frame_timeout_ns;  /* a worker without progress for so long is killed */
	uint32_t stats_bytes;	   /* size of the stats page */
	uint32_t reserved;
};

struct ctl_session_open {
	struct ctl_hdr hdr;
	uint64_t text_bytes;	 /* of the session text in the first fd */
	uint64_t params_version; /* worker: version of the parameters in that text */
	uint64_t upload_bytes;	 /* ingest: size of the upload memfd; else 0 */
	uint32_t width, height;	 /* worker: of the frames that will come; media children: 0 */
	uint32_t recovering;	 /* 1: this child replaces one that died in the session */
	uint32_t reserved;
};

enum ctl_ring_id { /* also the track */
	CTL_RING_IN_VIDEO = 1,
	CTL_RING_IN_AUDIO_WORKER = 2,
	CTL_RING_IN_AUDIO_EGRESS = 3,
	CTL_RING_OUT_VIDEO = 4,
	CTL_RING_OUT_AUDIO = 5,
	CTL_RING_ID_MAX = 5,
};

enum ctl_ring_policy { CTL_POLICY_DROP_OLDEST = 1, CTL_POLICY_BLOCK = 2 };
enum ctl_ring_role { CTL_RING_PRODUCER = 1, CTL_RING_CONSUMER = 2 };
enum { CTL_MEMORY_MEMFD = 1 };

/* A producer asks for a ring. For in.audio one request makes the rings of egress and, if it wants audio, the worker. */
struct ctl_ring_request {
	struct ctl_hdr hdr;
	uint32_t ring_id;	/* enum ctl_ring_id; audio: CTL_RING_IN_AUDIO_EGRESS or CTL_RING_OUT_AUDIO */
	uint32_t format;	/* enum format_id */
	uint32_t width, height; /* video */
	uint32_t sample_rate, channels, block_samples; /* audio; video: channels is 1 when the source has sound too */
	uint32_t rate_num, rate_den;		       /* video: frames a second as far as known; 0/1: unknown */
	uint32_t reserved;
};

/*
 * Descriptors, in this order:
 *   producer: P (rw), D (rw), C[0..consumer_count-1] (ro), doorbell ends for each set bit of doorbell_mask
 *   consumer: P (ro), D (ro), C[consumer_idx] (rw), own doorbell end if its bit is set
 */
struct ctl_ring_open {
	struct ctl_hdr hdr;
	uint16_t ring_abi_major, ring_abi_minor;
	uint32_t ring_id;    /* enum ctl_ring_id */
	uint32_t generation; /* 1.. */
	uint32_t role;	     /* enum ctl_ring_role */
	uint32_t consumer_idx;
	uint32_t consumer_count; /* 1..RING_CONSUMERS_MAX */
	uint32_t policy;	 /* enum ctl_ring_policy */
	uint32_t depth;		 /* consumer: looks at so many newest frames; 0: all */
	uint32_t memory_kind;	 /* CTL_MEMORY_MEMFD */
	uint32_t slot_count;	 /* 3..RING_SLOTS_MAX */
	uint64_t slot_stride;	 /* bytes, multiple of 4096, >= payload_max + RING_TAIL_BYTES */
	uint64_t payload_max;	 /* bytes */
	uint64_t first_seq;	 /* generation << 32 | 1 */
	int64_t block_deadline_ns; /* BLOCK: how long a producer may wait */
	uint32_t format;
	uint32_t width, height;
	uint32_t plane_count;
	uint32_t plane_offset[RING_PLANES_MAX];
	uint32_t plane_stride[RING_PLANES_MAX];
	uint32_t sample_rate, channels, block_samples;
	uint32_t rate_num, rate_den;
	uint32_t hold_count[RING_CONSUMERS_MAX];
	uint32_t doorbell_mask; /* bit i: consumer i has a doorbell */
	uint32_t recovering;	/* consumer: its page may name frames that its predecessor held */
	uint32_t ended;		/* consumer: the producer has already left: drain only */
	uint32_t fd_count;	/* that come with this message */
	uint32_t reserved;
	uint64_t skip_seq[4];	/* consumer: release without delivering; 0: none */
};

struct ctl_ring_ref {
	struct ctl_hdr hdr;
	uint32_t ring_id;
	uint32_t generation;
};

struct ctl_params {
	struct ctl_hdr hdr;
	uint64_t version;    /* grows with each update of a session */
	uint64_t text_bytes; /* of the JSON object in the fd; UTF-8, no NUL */
};

struct ctl_params_result {
	struct ctl_hdr hdr;
	uint64_t version;
	int32_t status; /* 0: in force; -errno: refused, the old ones stay in force */
	uint32_t reserved;
	char text[CTL_TEXT_MAX]; /* why, NUL-terminated */
};

struct ctl_text {
	struct ctl_hdr hdr;
	uint32_t text_bytes; /* without the NUL */
	uint32_t reserved;
	char text[CTL_TEXT_MAX];
};

enum ctl_channel_id {
	CTL_CHANNEL_SUBSCRIBE = 1,
	CTL_CHANNEL_CONTROL = 2,
	CTL_CHANNEL_PUBLISH = 3,
	CTL_CHANNEL_EVENTS = 4,
	CTL_CHANNEL_DATA = 5,
};
enum ctl_channel_state {
	CTL_CHANNEL_CONNECTING = 1, /* nothing seen yet */
	CTL_CHANNEL_WAITING = 2,    /* connected, nothing flows */
	CTL_CHANNEL_FLOWING = 3,
	CTL_CHANNEL_RETRYING = 4,   /* text says why */
	CTL_CHANNEL_ENDED = 5,	    /* closed or gone: the session is over */
	CTL_CHANNEL_BAD_MEDIA = 6,  /* subscribe: bytes come, but nothing that can be decoded; text says what */
};

struct ctl_channel {
	struct ctl_hdr hdr;
	uint32_t channel; /* enum ctl_channel_id */
	uint32_t state;	  /* enum ctl_channel_state */
	char text[CTL_TEXT_MAX];
};

struct ctl_control {
	struct ctl_hdr hdr;
	uint64_t bytes; /* of the document in the upload memfd */
};

struct ctl_publish {
	struct ctl_hdr hdr;
	uint32_t channel;    /* CTL_CHANNEL_EVENTS or CTL_CHANNEL_DATA */
	uint32_t reserved;
	uint64_t text_bytes; /* of the message in the fd */
};

struct ctl_overlay {
	struct ctl_hdr hdr;
	uint32_t on;		 /* 0: back to automatic */
	int32_t progress_percent; /* -1: unknown */
	char text[CTL_TEXT_MAX]; /* message on the slate */
};

struct ctl_worker {
	struct ctl_hdr hdr;
	uint32_t state;		 /* enum sup_worker_state, for the slate's text only */
	int32_t progress_percent; /* -1: unknown */
	uint32_t overlay;	 /* 1: show the slate on every frame */
	uint32_t reserved;
	char text[CTL_TEXT_MAX]; /* reason or message, for the slate */
};

static_assert(sizeof(struct ctl_hdr) == 16, "wire");
static_assert(sizeof(struct ctl_hello) == 112, "wire");
static_assert(sizeof(struct ctl_ring_open) == 224, "wire");
static_assert(sizeof(struct ctl_params_result) == 472 && sizeof(struct ctl_channel) == 464, "wire");
static_assert(sizeof(struct ctl_worker) <= CTL_BYTES_MAX, "wire");

/* The union that a receiver reads into. */
union ctl_msg {
	struct ctl_hdr hdr;
	struct ctl_hello hello;
	struct ctl_config config;
	struct ctl_session_open session_open;
	struct ctl_ring_request ring_request;
	struct ctl_ring_open ring_open;
	struct ctl_ring_ref ring_ref;
	struct ctl_params params;
	struct ctl_params_result params_result;
	struct ctl_text text;
	struct ctl_channel channel;
	struct ctl_control control;
	struct ctl_publish publish;
	struct ctl_overlay overlay;
	struct ctl_worker worker;
	uint8_t bytes[CTL_BYTES_MAX];
};

/* Fills in the header of a message that is otherwise zero: type, version, size from the table. */
void ctl_init(union ctl_msg *msg, enum ctl_type type, uint32_t session);

/* Size of a message of that type; 0: unknown. */
uint32_t ctl_size(uint32_t type);
/* "HELLO" and so on; "?" for an unknown type. */
const char *ctl_type_name(uint32_t type);

/*
 * Sends one message with `fd_count` descriptors (borrowed). Never blocks, never raises SIGPIPE.
 * 0; -EAGAIN: the peer does not read; -EPIPE, -ECONNRESET: it is gone; -errno otherwise.
 */
int ctl_send(int sock, const union ctl_msg *msg, const int *fds, unsigned fd_count);

/*
 * Receives one message without blocking. `fds_max` 0: descriptors are refused by the kernel (what a worker passes
 * never enters the supervisor). Received descriptors are close-on-exec and the caller's.
 * 0: *msg is checked (version, known type for `from_child`, size, NUL-terminated texts, zero padding) and
 *    *fd_count descriptors are in fds.
 * -EAGAIN: nothing there. -ESHUTDOWN: the peer has closed. -EPROTO: a violation; descriptors were closed.
 */
int ctl_recv(int sock, union ctl_msg *msg, bool from_child, int *fds, unsigned fds_max, unsigned *fd_count);

#endif
