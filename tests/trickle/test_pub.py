#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a publisher survives what servers and networks do, never sends a seq twice, and sends nothing that a server cannot
bear.
Method: plays against a scripted server; see play.py. Nothing waits for a fixed time unless time is what is tested.
"""
import sys
import time

from play import main, test, test_deaf, test_tls


@test
def pub_parks_and_sends_at_once(server, start):
    probe = start("pub")
    request = server.take("POST", "/0", 1.0)
    assert request.headers["transfer-encoding"] == "chunked" and request.headers["content-type"] == "video/MP2T"
    assert request.raw == b""
    time.sleep(0.2)
    for text in ("first", "second", "third"):
        probe.say("begin" if text == "first" else "stats", "write " + text)
        written = time.monotonic()
        request.wait_body(b"firstsecondthird"[:"firstsecondthird".index(text) + len(text)])
        assert time.monotonic() - written < 0.1, "a write waited for something"
        time.sleep(0.05)
    server.take("POST", "/1", 1.0)  # parked already
    probe.say("end")
    request.wait_body(b"firstsecondthird", ended=True)
    request.reply(200)
    while "done 0 ok=1" not in probe.seen:
        probe.next()


@test
def pub_bears_a_flood_of_100_continue(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    request.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 400)
    time.sleep(0.1)
    request.send(b"HTTP/1.1 103 Early Hints\r\nLp-Trickle-Seq: 77\r\n\r\n" * 100)
    probe.say("begin", "write abc")
    request.wait_body(b"abc")
    request.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)
    probe.say("write def", "end")
    request.wait_body(b"abcdef", ended=True)
    request.reply(200)
    probe.expect("begin 0", "write 0", "write 0", "end 0", "done 0 ok=1")


@test
def pub_absent_after_its_grace(server, start):
    probe = start("pub", grace_ms=200)
    for _ in range(50):
        try:
            server.take("POST", "/0", 1).reply(404, Connection="close")
        except AssertionError:
            break
    probe.expect("ended absent", "closed")


@test
def pub_404_after_it_was_seen_is_the_end(server, start):
    probe = start("pub", grace_ms=20000)
    request = server.take("POST", "/0")
    request.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    time.sleep(0.05)
    request.reply(404, Connection="close")
    probe.expect("ended gone", "closed")


@test
def pub_stops_when_the_channel_is_closed_under_it(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "write abc")
    request.wait_body(b"abc")
    request.reply(200, Lp_Trickle_Closed="terminated")
    request.wait_closed()
    probe.expect("begin 0", "write 0", "ended closed", "closed")
    assert not request.body()[1], "a clean end was sent after the reply"


@test
def pub_moves_on_when_its_parked_seq_is_closed(server, start):
    probe = start("pub")
    server.take("POST", "/0").reply(200, Connection="close")
    request = server.take("POST", "/1")
    probe.say("begin", "write abc", "end")
    request.wait_body(b"abc", ended=True)
    request.reply(200)
    probe.expect("begin 0", "write 0", "end 0", "done 1 ok=1")


@test
def pub_reissues_a_parked_post_by_aborting(server, start):
    probe = start("pub", park_ms=200)
    for _ in range(3):
        request = server.take("POST", "/0")
        request.wait_closed()
        assert request.raw == b"", "the end of an empty body was sent"
    request = server.take("POST", "/0")
    probe.say("begin", "write abc", "end")
    request.wait_body(b"abc", ended=True)
    request.reply(200)
    probe.expect("begin 0", "write 0", "end 0", "done 0 ok=1")


@test_deaf
def pub_keeps_its_bytes_while_nothing_was_sent(server, start):
    probe = start("pub")
    probe.expect_state("retrying Connection refused")
    probe.say("begin", "write abc")
    probe.expect("begin 0", "write 0")
    time.sleep(0.3)
    server.listen()
    request = server.take("POST", "/0")
    request.wait_body(b"abc")
    probe.say("write def", "end")
    request.wait_body(b"abcdef", ended=True)
    request.reply(200)
    probe.expect("write 0", "end 0", "done 0 ok=1")
    assert server.count("POST", "/0") == 1


@test
def pub_deletes_a_broken_segment_and_goes_on(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "write abc")
    request.wait_body(b"abc")
    request.reset()
    probe.expect("begin 0", "write 0", "done 0 ok=0")
    probe.say("write def", "begin", "write ghi", "end")
    probe.expect("write 1", "begin 0", "write 0", "end 0")
    server.take("DELETE", "/0").reply(200)
    request = server.take("POST", "/1")
    request.wait_body(b"ghi", ended=True)
    request.reply(200)
    probe.expect("done 1 ok=1")
    assert server.count("POST", "/0") == 1, "a seq was sent again after bytes of it"


@test
def pub_notices_that_a_parked_post_was_closed(server, start):
    probe = start("pub")
    server.take("POST", "/0").close()  # a clean FIN and no word
    request = server.take("POST", "/0", 1.0)
    request.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.close()
    request = server.take("POST", "/0", 1.0)
    probe.say("begin", "write abc", "end")
    request.wait_body(b"abc", ended=True)
    request.reply(200)
    probe.expect("begin 0", "write 0", "end 0", "done 0 ok=1")


@test
def pub_notices_that_a_post_was_closed_between_two_writes(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "write abc")
    request.wait_body(b"abc")
    request.close()
    probe.expect("begin 0", "write 0", "done 0 ok=0")
    server.take("DELETE", "/0", 1.0).reply(200)


@test
def pub_trusts_a_new_connection_only_when_it_has_stood_for_a_moment(server, start):
    probe = start("pub")
    server.take("POST", "/0").reset()
    probe.expect_state("retrying .*")
    probe.say("begin", "write abc")
    server.take("POST", "/0").reset()  # a proxy that accepts, and then finds nobody behind it
    server.take("POST", "/0").reset()
    request = server.take("POST", "/0")
    request.wait_body(b"abc")
    probe.say("end")
    request.wait_body(b"abc", ended=True)
    request.reply(200)
    probe.expect("begin 0", "write 0", "end 0", "done 0 ok=1")


@test
def pub_repeats_the_delete_until_it_is_answered(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "write abc")
    request.wait_body(b"abc")
    request.reset()
    server.take("DELETE", "/0").reset()
    server.take("DELETE", "/0").reply(503)
    server.take("DELETE", "/0").reply(400, b"Nonexistent segment")
    probe.expect("begin 0", "write 0", "done 0 ok=0")
    probe.say("idle")
    probe.expect("idle")
    assert server.count("DELETE", "/0") == 3


@test
def pub_an_error_in_reply_is_a_broken_segment(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "write abc", "end")
    request.wait_body(b"abc", ended=True)
    request.reply(500)
    probe.expect("begin 0", "write 0", "end 0", "done 0 ok=0")
    server.take("DELETE", "/0").reply(200)


@test
def pub_stops_sending_after_an_early_error(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "write abc")
    request.wait_body(b"abc")
    request.reply(500)
    request.wait_closed()
    probe.expect("begin 0", "write 0", "done 0 ok=0")
    probe.say("write def")
    probe.expect("write 1")
    assert request.body() == (b"abc", False)


@test
def pub_a_segment_flows_while_the_one_before_is_unanswered(server, start):
    probe = start("pub")
    first = server.take("POST", "/0")
    probe.say("begin", "write abc", "begin", "write def")
    first.wait_body(b"abc", ended=True)
    second = server.take("POST", "/1")
    second.wait_body(b"def")
    first.reply(200)
    probe.expect("begin 0", "write 0", "begin 0", "write 0", "done 0 ok=1")


@test
def pub_segments_written_before_the_connection_go_in_order(server, start):
    probe = start("pub")
    probe.say(*[f"{verb} {n}" if verb == "write" else verb for n in range(5) for verb in ("begin", "write")], "end")
    for n in range(5):
        request = server.take("POST", f"/{n}")
        request.wait_body(b"%d" % n, ended=True)
        request.reply(200)
    for n in range(5):
        probe.expect(*(["begin 0", "write 0"] if n < 5 else []))
    probe.expect("end 0", *[f"done {n} ok=1" for n in range(5)])


@test
def pub_resumes_where_next_says(server, start):
    probe = start("pub", resume=1)
    server.take("GET", "/next").reply(200, b"12", Lp_Trickle_Latest=12)
    first = server.take("POST", "/12")
    assert "lp-trickle-reset" in first.headers
    probe.say("begin", "write abc")
    first.wait_body(b"abc")
    assert "lp-trickle-reset" not in server.take("POST", "/13").headers, "Reset closes the segment before"
    probe.say("end")
    first.wait_body(b"abc", ended=True)
    first.reply(200)
    probe.expect("begin 0", "write 0", "end 0", "done 12 ok=1")


@test
def pub_resumes_from_a_470_of_an_older_server(server, start):
    start("pub", resume=1)
    server.take("GET", "/next").reply(503)
    server.take("GET", "/next").reply(400, b"Invalid idx")
    server.take("GET", "/1000000000000").reply(470, Lp_Trickle_Latest=7)
    assert "lp-trickle-reset" in server.take("POST", "/7").headers


@test
def pub_resumes_at_0_when_there_is_no_channel(server, start):
    start("pub", resume=1, create=1)
    create = server.take("POST", "")
    assert create.headers["expect-content"] == "video/MP2T" and create.headers["content-length"] == "0"
    create.reply(404)
    server.take("GET", "/next").reply(404)
    server.take("GET", "/1000000000000").reply(404)
    server.take("POST", "/0")


@test
def pub_resuming_a_channel_that_is_closing_is_the_end(server, start):
    probe = start("pub", resume=1)
    server.take("GET", "/next").reply(200, b"3", Lp_Trickle_Latest=3, Lp_Trickle_Closed="terminated")
    probe.expect("ended closed", "closed")


@test_deaf
def pub_a_full_queue_drops_the_oldest_first(server, start):
    probe = start("pub", queue=1000)
    probe.say("begin", "fill 600", "begin", "fill 600", "begin", "fill 300", "stats", "fill 900", "stats", "begin",
              "write new", "end")
    probe.expect("begin 0", "fill 0", "begin 0", "fill 0", "begin 0", "fill 0", "stats seq=1 queued=900 .* dropped=1")
    probe.expect("fill 1", r"stats seq=-?\d+ queued=\d+ .* dropped=[23]", "begin 0", "write 0", "end 0")
    server.listen()
    seq = 0
    while True:
        request = server.take("POST", f"/{seq}")
        deadline = time.monotonic() + 5
        while not request.body()[1] and time.monotonic() < deadline:
            time.sleep(0.01)
        request.reply(200)
        if request.body() == (b"new", True):
            break
        seq += 1
        assert seq < 4


@test
def pub_a_message_is_sent_again_under_another_number(server, start):
    probe = start("pub", preconnect=0)
    probe.say("message hello")
    request = server.take("POST", "/0")
    request.wait_body(b"hello")
    request.reset()
    server.take("DELETE", "/0").reply(200)
    request = server.take("POST", "/1")
    request.wait_body(b"hello", ended=True)
    request.reply(200)
    probe.expect("message 0", "done 1 ok=1")


@test
def pub_deletes_the_channel_after_everything_else(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "write abc")
    parked = server.take("POST", "/1")
    probe.say("delete", "idle")
    request.wait_body(b"abc", ended=True)
    time.sleep(0.1)
    assert server.count("DELETE", "") == 0
    request.reply(200)
    server.take("DELETE", "").reply(200)
    probe.expect("begin 0", "write 0", "delete 0", "done 0 ok=1", "idle")
    parked.wait_closed()
    assert parked.raw == b""


@test
def pub_closing_aborts(server, start):
    probe = start("pub")
    first = server.take("POST", "/0")
    probe.say("begin", "write abc")
    first.wait_body(b"abc")
    parked = server.take("POST", "/1")
    probe.say("quit")
    first.wait_closed()
    parked.wait_closed()
    assert not first.body()[1] and parked.raw == b""


@test
def pub_sends_much_through_one_turn(server, start):
    probe = start("pub")
    request = server.take("POST", "/0")
    probe.say("begin", "fill 3000000", "end")
    request.wait_body(b"x" * 3000000, ended=True)
    request.reply(200)
    probe.expect("begin 0", "fill 0", "end 0", "done 0 ok=1")


@test_tls
def pub_over_tls_parks_and_sends_at_once(server, start):
    probe = start("pub")
    request = server.take("POST", "/0", 1.0)
    time.sleep(0.2)
    assert request.raw == b""
    probe.say("begin", "write abc")
    request.wait_body(b"abc", seconds=0.3)
    parked = server.take("POST", "/1")
    probe.say("fill 300000", "end")
    request.wait_body(b"abc" + b"x" * 300000, ended=True)
    request.reply(200)
    probe.expect("begin 0", "write 0", "fill 0", "end 0", "done 0 ok=1")
    probe.say("quit")
    parked.wait_closed()
    assert parked.raw == b""


if __name__ == "__main__":
    sys.exit(main())
