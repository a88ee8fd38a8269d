#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a subscription survives what servers and networks do, delivers every byte once, and tells what is missing.
Method: plays against a scripted server; see play.py. Nothing waits for a fixed time unless time is what is tested.
"""
import sys
import threading
import time

from play import main, test, test_deaf, test_tls


@test
def sub_waits_for_a_channel_that_is_not_there_yet(server, start):
    probe = start("sub", grace_ms=20000)
    for _ in range(4):
        server.take("GET", "/-2").reply(404)
    server.take("GET", "/-2").segment(0, b"one", end=True)
    probe.expect("begin 0 gap=0")
    probe.data("one")
    probe.expect("end 0 complete=1")


@test
def sub_gives_an_absent_channel_up_after_its_grace(server, start):
    probe = start("sub", grace_ms=200)
    began = time.monotonic()
    while time.monotonic() - began < 3 and server.requests.qsize() + len(server.seen) < 100:
        try:
            server.take("GET", "/-2", 0.5).reply(404)
        except AssertionError:
            break
    probe.expect("ended absent", "closed")


@test
def sub_404_after_data_is_the_end(server, start):
    probe = start("sub", grace_ms=20000)
    request = server.take("GET", "/-2")
    request.segment(4, b"x")
    probe.expect("begin 4 gap=0", "data x")
    server.take("GET", "/5").reply(404)  # ahead of its time: no verdict yet
    probe.silent(0.2)
    request.end()
    probe.expect("end 4 complete=1")
    server.take("GET", "/5").reply(404)
    probe.expect("ended gone", "closed")


@test
def sub_reissues_a_parked_get_by_aborting(server, start):
    probe = start("sub", park_ms=200)
    for _ in range(3):
        server.take("GET", "/-2").wait_closed()
    server.take("GET", "/-2").segment(8, b"late", end=True)
    probe.expect("begin 8 gap=0", "data late", "end 8 complete=1")


@test
def sub_a_slow_segment_has_no_time_limit(server, start):
    probe = start("sub", park_ms=200, stall_ms=400)
    request = server.take("GET", "/-2")
    request.segment(1, b"a")
    probe.expect("begin 1 gap=0", "data a")
    for _ in range(8):
        time.sleep(0.2)
        request.chunk(b"b")
        probe.expect("data b")
    request.end()
    probe.expect("end 1 complete=1")
    assert server.count("GET", "/1") == 0


@test
def sub_470_that_names_the_same_seq_is_not_a_spin(server, start):
    probe = start("sub", start=3)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 1.5:
        try:
            server.take("GET", "/3", 0.5).reply(470, Lp_Trickle_Latest=3, Lp_Trickle_Seq=3)
            count += 1
        except AssertionError:
            break
    assert 4 <= count <= 17, f"{count} requests in 1.5 s"
    server.take("GET", "/3").segment(3, b"x", end=True)
    probe.expect("begin 3 gap=0", "data x", "end 3 complete=1")


@test
def sub_470_that_runs_away_is_not_a_spin(server, start):
    start("sub", start=0)
    began, seq = time.monotonic(), 0
    while time.monotonic() - began < 1.5:
        try:
            server.take("GET", f"/{seq}", 0.5).reply(470, Lp_Trickle_Latest=seq + 1)
            seq += 1
        except AssertionError:
            break
    assert 4 <= seq <= 22, f"{seq} requests in 1.5 s"


@test
def sub_470_goes_to_latest_and_says_so(server, start):
    probe = start("sub", start=3)
    server.take("GET", "/3").reply(470, b"Entry not found", Lp_Trickle_Latest=9, Lp_Trickle_Seq=3)
    server.take("GET", "/9").segment(9, b"x", end=True)
    probe.expect("begin 9 gap=1", "data x", "end 9 complete=1")


@test
def sub_empty_segments_are_skipped(server, start):
    probe = start("sub", start=3)
    server.take("GET", "/3").reply(200, Lp_Trickle_Seq=3, Lp_Trickle_Latest=4)
    server.take("GET", "/4").segment(4, end=True)
    server.take("GET", "/5").segment(5, b"x", end=True)
    probe.expect("begin 5 gap=0", "data x", "end 5 complete=1")


@test
def sub_empty_segment_of_a_publisher_that_began_again(server, start):
    probe = start("sub", start=30)
    server.take("GET", "/30").reply(200, Lp_Trickle_Seq=30, Lp_Trickle_Latest=1)
    server.take("GET", "/1").segment(1, b"x", end=True)
    probe.expect("begin 1 gap=1", "data x", "end 1 complete=1")


@test
def sub_closed_is_the_end_and_its_body_is_no_media(server, start):
    probe = start("sub")
    server.take("GET", "/-2").reply(200, b"Entry not found", Lp_Trickle_Seq=-2, Lp_Trickle_Closed="terminated")
    probe.expect("ended closed", "closed")


@test
def sub_the_next_get_is_there_while_this_one_is_read(server, start):
    probe = start("sub")
    first = server.take("GET", "/-2")
    first.segment(0, b"a")
    probe.expect("begin 0 gap=0", "data a")
    second = server.take("GET", "/1")
    second.segment(1, b"b")  # begins before the end of the first
    probe.silent(0.2)
    first.chunk(b"A")
    first.end()
    probe.expect("data A", "end 0 complete=1", "begin 1 gap=0", "data b")
    second.end()
    probe.expect("end 1 complete=1")
    assert server.count("GET", "/1") == 1


@test
def sub_goes_on_in_mid_segment_where_it_was(server, start):
    probe = start("sub")
    request = server.take("GET", "/-2")
    request.segment(6, b"abcdef")
    probe.expect("begin 6 gap=0")
    probe.data("abcdef")
    request.reset()
    again = server.take("GET", "/6")
    again.segment(6, b"abc")
    again.chunk(b"defghi")
    again.end()
    probe.data("ghi")
    probe.expect("end 6 complete=1")
    server.take("GET", "/7").segment(7, b"x", end=True)
    probe.expect("begin 7 gap=0", "data x", "end 7 complete=1")


@test
def sub_a_body_without_its_end_is_not_complete(server, start):
    probe = start("sub")
    request = server.take("GET", "/-2")
    request.segment(6, b"abc")
    probe.expect("begin 6 gap=0")
    probe.data("abc")
    request.close()  # a clean FIN, but no last chunk
    server.take("GET", "/6").segment(6, b"abc", end=True)
    probe.expect("end 6 complete=1")


@test
def sub_a_segment_that_is_gone_after_a_break_is_given_up(server, start):
    probe = start("sub")
    request = server.take("GET", "/-2")
    request.segment(6, b"abc")
    probe.expect("begin 6 gap=0")
    probe.data("abc")
    request.reset()
    server.take("GET", "/6").reply(470, Lp_Trickle_Latest=11)
    probe.expect("end 6 complete=0")
    server.take("GET", "/11").segment(11, b"x", end=True)
    probe.expect("begin 11 gap=1", "data x", "end 11 complete=1")


@test
def sub_a_segment_that_got_shorter_is_not_complete(server, start):
    probe = start("sub")
    request = server.take("GET", "/-2")
    request.segment(6, b"abcdef")
    probe.expect("begin 6 gap=0")
    probe.data("abcdef")
    request.reset()
    server.take("GET", "/6").segment(6, b"ab", end=True)
    probe.expect("end 6 complete=0")
    server.take("GET", "/7").segment(7, b"x", end=True)
    probe.expect("begin 7 gap=1", "data x", "end 7 complete=1")


@test
def sub_looks_again_when_a_segment_stalls(server, start):
    probe = start("sub", stall_ms=300)
    request = server.take("GET", "/-2")
    request.segment(2, b"abc")
    probe.expect("begin 2 gap=0")
    probe.data("abc")
    request.wait_closed()
    server.take("GET", "/2").segment(2, b"abcde", end=True)
    probe.data("de")
    probe.expect("end 2 complete=1")


@test
def sub_leaves_a_dead_segment_when_the_next_one_flows(server, start):
    probe = start("sub", stall_ms=300)
    request = server.take("GET", "/-2")
    request.segment(2, b"abc")
    probe.expect("begin 2 gap=0")
    probe.data("abc")
    server.take("GET", "/3").segment(3, b"x", end=True)
    probe.expect("end 2 complete=0", "begin 3 gap=1", "data x", "end 3 complete=1")


@test
def sub_retries_what_is_refused_and_what_is_broken(server, start):
    probe = start("sub", start=5)
    server.take("GET", "/5").reset()
    server.take("GET", "/5").close()
    server.take("GET", "/5").reply(503)
    server.take("GET", "/5").reply(302, Location="http://127.0.0.1:1/")
    server.take("GET", "/5").send(b"SMTP ready\r\n\r\n")
    server.take("GET", "/5").segment(5, b"x", end=True)
    probe.expect("begin 5 gap=0", "data x", "end 5 complete=1")


@test
def sub_backs_off_from_errors(server, start):
    start("sub", start=5)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 1.5:
        try:
            server.take("GET", "/5", 1).reply(500)
            count += 1
        except AssertionError:
            break
    assert 4 <= count <= 8, f"{count} requests in 1.5 s"


@test_deaf
def sub_survives_a_server_that_is_not_up_yet(server, start):
    probe = start("sub")
    probe.expect_state("retrying Connection refused")
    time.sleep(0.3)
    server.listen()
    server.take("GET", "/-2").segment(0, b"x", end=True)
    probe.expect("begin 0 gap=0", "data x", "end 0 complete=1")


@test
def sub_paused_pushes_back(server, start):
    probe = start("sub")
    request = server.take("GET", "/-2")
    request.segment(0, b"a")
    probe.expect("begin 0 gap=0", "data a")
    probe.say("pause")
    probe.silent(0.1)
    sent = [0]

    def feed():
        for _ in range(640):
            request.chunk(b"z" * 65536)
            sent[0] += 65536
        request.end()

    feeder = threading.Thread(target=feed, daemon=True)
    request.connection.settimeout(20)
    feeder.start()
    before = -1
    while sent[0] != before:
        before = sent[0]
        time.sleep(0.4)
    assert sent[0] < 12 << 20, f"{sent[0]} bytes went to a paused reader"
    probe.say("resume")
    got = 0
    while got < 640 * 65536:
        line = probe.next()
        got += len(line) - 5 if line.startswith("data ") else 0
    probe.expect("end 0 complete=1")


@test_tls
def sub_over_tls_that_nobody_vouches_for(server, start):
    probe = start("sub", park_ms=300)
    server.take("GET", "/-2").wait_closed()
    request = server.take("GET", "/-2")
    request.segment(0, b"a")
    probe.expect("begin 0 gap=0", "data a")
    server.take("GET", "/1").segment(1, b"b", end=True)
    request.chunk(b"A")
    request.end()
    probe.expect("data A", "end 0 complete=1", "begin 1 gap=0", "data b", "end 1 complete=1")


@test_tls
def sub_over_tls_is_refused_when_somebody_has_to_vouch(server, start):
    probe = start("sub", tls_verify=1)
    probe.expect_state("retrying .*(certificate|SSL).*")
    assert not server.seen


if __name__ == "__main__":
    sys.exit(main())
