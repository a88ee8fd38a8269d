/* SPDX-License-Identifier: MIT */
/*
 * The layout of millrace.h as programs were compiled with it, literally, one list for each released version
 *
 * abi_c.c (C11) and abi_cpp.cpp (C++17) include the header first and alone, then this. A line that fails here is a
 * program that breaks in the field: put the field back, or append instead.
 */
#ifndef MR_TESTS_ABI_HEADER_H
#define MR_TESTS_ABI_HEADER_H

#include <assert.h>

#define AT(type, field, offset) static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define VALUE(name, value) static_assert((int)(name) == (value), #name)

/* ---- 0.1, x86-64 and arm64 -------------------------------------------- */

static_assert(sizeof(void *) == 8, "64-bit");

AT(mr_frame, size, 0);
AT(mr_frame, session, 8);
AT(mr_frame, format, 16);
AT(mr_frame, flags, 20);
AT(mr_frame, seq, 24);
AT(mr_frame, pts_ns, 32);
AT(mr_frame, duration_ns, 40);
AT(mr_frame, data, 48);
AT(mr_frame, bytes, 56);
AT(mr_frame, width, 64);
AT(mr_frame, height, 68);
AT(mr_frame, plane_count, 72);
AT(mr_frame, stride, 76);
AT(mr_frame, plane, 96);
AT(mr_frame, sample_rate, 128);
AT(mr_frame, channels, 132);
AT(mr_frame, sample_count, 136);
AT(mr_frame, rate_num, 140);
AT(mr_frame, rate_den, 144);

AT(mr_output, size, 0);
AT(mr_output, session, 8);
AT(mr_output, src_seq, 16);
AT(mr_output, data, 24);
AT(mr_output, bytes, 32);
AT(mr_output, format, 40);
AT(mr_output, width, 44);
AT(mr_output, height, 48);
AT(mr_output, plane_count, 52);
AT(mr_output, stride, 56);
AT(mr_output, plane, 72);
AT(mr_output, sample_rate, 104);
AT(mr_output, channels, 108);
AT(mr_output, sample_count, 112);
AT(mr_output, token, 120);
static_assert(sizeof(struct mr_output) >= 128, "mr_output");

AT(mr_stream, size, 0);
AT(mr_stream, session_id, 8);
AT(mr_stream, format, 12);
AT(mr_stream, width, 16);
AT(mr_stream, height, 20);
AT(mr_stream, recovering, 24);
AT(mr_stream, params, 32);
AT(mr_stream, params_bytes, 40);

AT(mr_item, size, 0);
AT(mr_item, kind, 8);
AT(mr_item, session, 16);
AT(mr_item, frame, 24);
AT(mr_item, stream, 32);
AT(mr_item, params, 40);
AT(mr_item, params_bytes, 48);
static_assert(sizeof(struct mr_item) >= 56, "mr_item");

AT(mr_worker_config, size, 0);
AT(mr_worker_config, name, 8);
AT(mr_worker_config, format, 16);
AT(mr_worker_config, capacity, 20);
AT(mr_worker_config, hold_count, 24);
AT(mr_worker_config, audio, 28);

AT(mr_worker_callbacks, size, 0);
AT(mr_worker_callbacks, load, 8);
AT(mr_worker_callbacks, stream_start, 16);
AT(mr_worker_callbacks, video, 24);
AT(mr_worker_callbacks, audio, 32);
AT(mr_worker_callbacks, params, 40);
AT(mr_worker_callbacks, stream_stop, 48);
AT(mr_worker_callbacks, unload, 56);

VALUE(MR_FORMAT_RGB24, 1);
VALUE(MR_FORMAT_RGBA, 2);
VALUE(MR_FORMAT_BGR24, 3);
VALUE(MR_FORMAT_NV12, 4);
VALUE(MR_FORMAT_I420, 5);
VALUE(MR_FORMAT_RGBF32P, 6);
VALUE(MR_FORMAT_F32, 32);
VALUE(MR_OK, 0);
VALUE(MR_PASS, 1);
VALUE(MR_WITHHOLD, 2);
VALUE(MR_REASON_NONE, 0);
VALUE(MR_REASON_ERROR, 1);
VALUE(MR_REASON_BUSY, 2);
VALUE(MR_REASON_LOADING, 3);
VALUE(MR_FRAME_DISCONTINUITY, 1);
VALUE(MR_FRAME_REDELIVERED, 2);
VALUE(MR_ITEM_START, 1);
VALUE(MR_ITEM_PARAMS, 2);
VALUE(MR_ITEM_STOP, 3);
VALUE(MR_ITEM_VIDEO, 4);
VALUE(MR_ITEM_AUDIO, 5);
VALUE(MR_LOAD_PERMANENT, -100000);
VALUE(MR_TEXT_MAX, 439);

#endif
