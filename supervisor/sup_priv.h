/* SPDX-License-Identifier: MIT */
/*
 * Included last by every .c file of supervisor/
 *
 * One thread, no media, no waiting: code that needs one of these words belongs in ingest/, egress/ or a worker.
 */
#ifndef MR_SUP_PRIV_H
#define MR_SUP_PRIV_H

#pragma GCC poison pthread_create avcodec_open2 avformat_open_input curl_easy_init curl_multi_init
#pragma GCC poison system popen sleep usleep

#endif
