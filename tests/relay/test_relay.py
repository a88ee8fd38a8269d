#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The relay on a real wire: every row of the trickle protocol, one case a rule.

usage: test_relay.py MILLRACE_RELAY

Goal: a client of either server generation cannot tell the relay from it, apart from the places where those crash.
Method: raw sockets, a relay on a free port for each case. A waiting request is known to wait because the relay
has one thread and answered a later request; nothing sleeps. Prints TAP.
"""
import os
import resource
import signal
import subprocess
import sys
import time
import traceback

sys.dont_write_bytecode = True
from relay_client import Relay, TIMEOUT_S  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
CASES = []


def case(*options):
    def add(function):
        CASES.append((function, options))
        return function
    return add


def check(reply, status, body=None, **headers):
    """Header names with underscores; None: must be absent."""
    assert reply.status == status, reply
    if body is not None:
        assert reply.body == body, reply
    for name, value in headers.items():
        assert reply[name.replace("_", "-")] == (None if value is None else str(value)), f"{name}: {reply}"
    return reply


def publish(relay, path, body, **headers):
    return check(relay.request("POST", path, [(k.replace("_", "-"), v) for k, v in headers.items()], body), 200)


# ---- routes -------------------------------------------------------------------

@case()
def create_is_idempotent_and_fixes_the_mime_type(r):
    check(r.request("POST", "/a", [("Expect-Content", "video/MP2T")]), 200, b"")
    check(r.request("POST", "/a", [("Expect-Content", "text/html")]), 200, b"")
    publish(r, "/a/0", b"x", Content_Type="application/json")
    check(r.request("GET", "/a/0"), 200, b"x", Content_Type="video/MP2T")


@case()
def autocreate_takes_the_mime_type_of_the_first_post(r):
    publish(r, "/a/0", b"x", Content_Type="video/MP2T")
    publish(r, "/a/1", b"y", Content_Type="application/json")
    check(r.request("GET", "/a/1"), 200, b"y", Content_Type="video/MP2T")


@case()
def mime_type_may_be_empty(r):
    check(r.request("POST", "/a"), 200)
    publish(r, "/a/0", b"x")
    check(r.request("GET", "/a/0"), 200, b"x", Content_Type="")


@case("--no-autocreate")
def without_autocreate_a_post_is_refused_before_its_body(r):
    client = r.post("/a/0")
    check(client.reply(), 404, b"Stream not found\n", Connection="close")
    assert client.ended() == "eof"
    check(r.request("GET", "/a/0"), 404)
    check(r.request("POST", "/a"), 200)
    publish(r, "/a/0", b"x")


@case()
def unknown_channels(r):
    for path in ("/a/0", "/a/-1", "/a/next", "/a/abc"):
        check(r.request("GET", path), 404, b"Stream not found\n", Content_Type="text/plain; charset=utf-8",
              X_Content_Type_Options="nosniff")
    check(r.request("DELETE", "/a/0"), 404, b"Stream not found\n")
    check(r.request("DELETE", "/a"), 400, b"Invalid stream\n")


@case()
def next_tells_the_next_seq(r):
    check(r.request("POST", "/a"), 200)
    check(r.request("GET", "/a/next"), 200, b"0", Lp_Trickle_Latest=0, Lp_Trickle_Closed=None)
    publish(r, "/a/6", b"x")
    check(r.request("GET", "/a/next"), 200, b"7", Lp_Trickle_Latest=7)
    check(r.request("HEAD", "/a/next"), 200, b"", Content_Length=1)


@case()
def seqs_as_go_reads_them(r):
    publish(r, "/a/+3", b"x")
    check(r.request("GET", "/a/003"), 200, b"x", Lp_Trickle_Seq=3)
    check(r.request("GET", "/a/%33"), 200, b"x", Lp_Trickle_Seq=3)
    check(r.request("GET", "/a/3?x=/9"), 200, b"x", Lp_Trickle_Seq=3)
    for bad in ("abc", "1x", "+", "-", "--1", "1_0", "0x1", "9" * 30, "-" + "9" * 30, "1%20", "4611686018427387904"):
        for method in ("GET", "POST", "DELETE"):
            check(r.request(method, "/a/" + bad), 400, b"Invalid idx\n")


@case()
def numbers_that_make_go_panic_are_refused(r):
    publish(r, "/a/0", b"x")
    for seq in (-3, -4, -5, -6, -10, -11, -2**62):
        for method in ("GET", "POST", "DELETE"):
            check(r.request(method, f"/a/{seq}"), 400, b"Invalid idx\n")
    check(r.request("POST", "/a/-2"), 400, b"Invalid idx\n")
    check(r.request("DELETE", "/a/-1"), 400, b"Invalid idx\n")
    check(r.request("DELETE", "/a/-2"), 400, b"Invalid idx\n")
    check(r.request("GET", "/a/0"), 200, b"x")


@case()
def a_bad_seq_creates_no_channel(r):
    check(r.request("POST", "/a/x"), 400, Connection="close")
    check(r.request("GET", "/a/next"), 404)


@case("--path", "ai/trickle")
def base_path(r):
    assert r.base == "/ai/trickle/"
    publish(r, "/ai/trickle/a/0", b"x")
    check(r.request("GET", "http://somewhere:1/ai/trickle/a/0"), 200, b"x")
    for path in ("/a/0", "/ai/trickle", "/ai/trickle/", "/ai/trickle/a/", "/ai/trickle/a/0/", "/ai/trickle//0", "*"):
        check(r.request("GET", path), 404)


@case()
def wrong_methods(r):
    check(r.request("PUT", "/a/0"), 405, b"Method Not Allowed\n", Allow="DELETE, GET, HEAD, POST")
    check(r.request("GET", "/a"), 405, Allow="DELETE, POST")
    check(r.request("POST", "/a/next"), 400, b"Invalid idx\n")


@case()
def names_are_percent_decoded(r):
    publish(r, "/a%2Fb%22/0", b"x")
    check(r.request("GET", "/%61%2fb%22/0"), 200, b"x")
    check(r.request("GET", "/a%2/0"), 400)
    check(r.request("GET", "/a%00/0"), 400)
    check(r.request("POST", "/" + "n" * 600), 400)
    check(r.request("POST", "/" + "n" * 5000), 414)


@case()
def delete_segment(r):
    publish(r, "/a/0", b"x")
    check(r.request("DELETE", "/a/0"), 200, b"")
    check(r.request("DELETE", "/a/0"), 200, b"")
    check(r.request("DELETE", "/a/1"), 400, b"Nonexistent segment\n")
    check(r.request("DELETE", "/a/5"), 400, b"Nonexistent segment\n")
    check(r.request("GET", "/a/0"), 200, b"x")


@case()
def delete_channel(r):
    publish(r, "/a/0", b"x")
    check(r.request("DELETE", "/a"), 200, b"")
    check(r.request("GET", "/a/0"), 404)
    check(r.request("DELETE", "/a"), 400, b"Invalid stream\n")
    publish(r, "/a/0", b"again")
    check(r.request("GET", "/a/0"), 200, b"again")


@case()
def head_waits_as_get_does(r):
    publish(r, "/a/0", b"x")
    client = r.connect()
    client.send("HEAD", "/a/1")
    r.sync()
    assert client.silent()
    publish(r, "/a/1", b"y")
    check(client.reply("HEAD"), 200, Lp_Trickle_Seq=1, Transfer_Encoding="chunked")
    client.send("GET", "/a/1")
    check(client.reply(), 200, b"y")


# ---- state --------------------------------------------------------------------

@case()
def next_write_moves_with_the_first_byte(r):
    pub = r.post("/a/0")
    check(r.request("GET", "/a/next"), 200, b"0")
    pub.chunk(b"x")
    r.sync()
    check(r.request("GET", "/a/next"), 200, b"1")
    pub.end()
    check(pub.reply(), 200, Lp_Trickle_Seq=0)
    check(r.request("GET", "/a/next"), 200, b"1")


@case()
def next_write_follows_gaps_and_goes_back(r):
    publish(r, "/a/12", b"x")
    check(r.request("GET", "/a/next"), 200, b"13")
    publish(r, "/a/2", b"y")
    check(r.request("GET", "/a/next"), 200, b"3")
    check(r.request("GET", "/a/12"), 470, Lp_Trickle_Latest=3)
    check(r.request("GET", "/a/2"), 200, b"y", Lp_Trickle_Latest=3)


@case()
def five_finished_segments_are_kept(r):
    for i in range(7):
        publish(r, f"/a/{i}", b"%d" % i)
    for i in range(7):
        reply = r.request("GET", f"/a/{i}")
        check(reply, 470 if i < 2 else 200, b"Entry not found" if i < 2 else b"%d" % i, Lp_Trickle_Latest=7,
              Lp_Trickle_Seq=i)
    assert r.request("GET", "/a/0").phrase == "status code 470"


@case()
def a_parked_post_takes_its_slot(r):
    for i in range(5):
        publish(r, f"/a/{i}", b"%d" % i)
    r.post("/a/5")
    check(r.request("GET", "/a/0"), 470)
    check(r.request("GET", "/a/1"), 200, b"1")


@case()
def a_waiting_reader_takes_a_slot_without_closing_it(r):
    pub = r.post("/a/0")
    pub.chunk(b"x")
    old = r.get("/a/0")
    check(old.head(), 200)
    assert old.data(1) == b"x"
    for i in range(1, 5):
        publish(r, f"/a/{i}", b"%d" % i)
    r.get("/a/5")
    pub.chunk(b"y")
    assert old.data(1) == b"y"
    pub.end()
    check(pub.reply(), 200)
    assert old.rest() == b""
    check(r.request("GET", "/a/0"), 470)


@case()
def a_writer_takes_a_slot_and_closes_it(r):
    pub = r.post("/a/0")
    pub.chunk(b"x")
    old = r.get("/a/0")
    check(old.head(), 200)
    r.post("/a/5")
    assert old.rest() == b"x"
    pub.chunk(b"y")
    pub.end()
    check(pub.reply(), 200, Lp_Trickle_Closed=None)


@case()
def minus_one_waits_for_the_next_segment(r):
    publish(r, "/a/4", b"x")
    client = r.get("/a/-1")
    assert client.silent()
    publish(r, "/a/5", b"y")
    check(client.reply(), 200, b"y", Lp_Trickle_Seq=5, Lp_Trickle_Latest=None)


@case()
def minus_two_reads_the_newest_segment(r):
    check(r.request("POST", "/a"), 200)
    client = r.get("/a/-2")
    assert client.silent()
    publish(r, "/a/0", b"x")
    check(client.reply(), 200, b"x", Lp_Trickle_Seq=0)
    publish(r, "/a/1", b"y")
    check(r.request("GET", "/a/-2"), 200, b"y", Lp_Trickle_Seq=1, Lp_Trickle_Latest=2)


@case()
def minus_two_of_an_evicted_segment_is_named_literally(r):
    publish(r, "/a/0", b"x")
    r.post("/a/5")
    check(r.request("GET", "/a/-2"), 470, b"Entry not found", Lp_Trickle_Seq=-2, Lp_Trickle_Latest=1)


@case()
def window_of_a_fresh_channel(r):
    check(r.request("POST", "/a"), 200)
    zero, one = r.get("/a/0"), r.get("/a/1")
    assert zero.silent() and one.silent()
    check(r.request("GET", "/a/2"), 470, b"Entry not found", Lp_Trickle_Seq=2, Lp_Trickle_Latest=0)
    publish(r, "/a/0", b"x")
    check(zero.reply(), 200, b"x")
    publish(r, "/a/1", b"y")
    check(one.reply(), 200, b"y", Lp_Trickle_Seq=1, Lp_Trickle_Latest=0)
    check(r.request("GET", "/a/3"), 470, Lp_Trickle_Latest=2)


@case()
def a_reader_may_wait_for_a_preconnected_segment_far_ahead(r):
    pub = r.post("/a/9")
    client = r.get("/a/9")
    assert client.silent()
    pub.chunk(b"x")
    check(client.head(), 200, Lp_Trickle_Seq=9, Lp_Trickle_Latest=0)
    assert client.data(1) == b"x"


@case()
def bytes_flow_as_they_come_and_every_reader_starts_at_the_first(r):
    pub = r.post("/a/0")
    readers = []
    sent = b""
    for i in range(20):
        data = bytes([i]) * (1 + 997 * i)
        readers.append((r.connect(), len(sent)))
        readers[-1][0].send("GET", "/a/0")
        r.sync()
        pub.chunk(data)
        sent += data
        for client, missed in readers:
            if missed == len(sent) - len(data):
                check(client.head(), 200)
                assert client.data(len(sent)) == sent
            else:
                assert client.data(len(data)) == data
    pub.end()
    for client, _ in readers:
        assert client.rest() == b""


@case("--idle-timeout", "400ms", "--sweep-every", "50ms")
def idle_channels_are_swept(r):
    check(r.request("POST", "/_kept"), 200)
    check(r.request("POST", "/a"), 200)
    client = r.get("/a/0")
    check(client.reply(), 200, b"", Lp_Trickle_Closed="terminated", Lp_Trickle_Seq=0)
    check(r.request("GET", "/a/next"), 404)
    check(r.request("GET", "/_kept/next"), 200)


# ---- publishing ---------------------------------------------------------------

@case("--continue-every", "40ms")
def a_parked_post_gets_100_continue_again_and_again(r):
    pub = r.post("/a/0")
    for _ in range(7):
        assert pub.head_any().status == 100
    pub.chunk(b"x")
    pub.end()
    check(pub.reply(), 200, Lp_Trickle_Seq=0)
    pub.send("POST", "/a/1", [("Content-Length", 1)])
    assert pub.head_any().status == 100
    pub.raw(b"y")
    check(pub.reply(), 200, Lp_Trickle_Seq=1)


@case()
def expect_continue_is_answered_at_once(r):
    pub = r.post("/a/0", [("Expect", "100-continue")])
    assert pub.head_any().status == 100
    pub.chunk(b"x")
    pub.end()
    assert check(pub.reply(), 200).early == 0
    check(r.request("POST", "/a/1", [("Expect", "magic")]), 417)
    check(r.request("POST", "/a/1", [("Expect", ""), ("Lp-Trickle-Reset", "")], b"y"), 200)


@case()
def a_published_segment_keeps_the_connection(r):
    client = r.connect()
    for i in range(3):
        client.send("POST", f"/a/{i}", [("Transfer-Encoding", "chunked")])
        client.chunk(b"x")
        client.end()
        check(client.reply(), 200, b"", Connection=None, Lp_Trickle_Seq=i, Lp_Trickle_Closed=None)


@case()
def minus_one_publishes_the_next_segment(r):
    publish(r, "/a/4", b"x")
    check(publish(r, "/a/-1", b"y"), 200, Lp_Trickle_Seq=5)
    check(r.request("GET", "/a/next"), 200, b"6")


@case()
def an_empty_post_uses_up_its_seq(r):
    client = r.post("/a/0")
    reader = r.get("/a/0")
    client.end()
    check(client.reply(), 200, b"", Connection="close", Lp_Trickle_Seq=0)
    assert client.ended() == "eof"
    check(reader.reply(), 200, b"", Lp_Trickle_Seq=0, Lp_Trickle_Latest=1, Lp_Trickle_Closed=None, Content_Type=None)
    check(r.request("GET", "/a/0"), 200, b"", Lp_Trickle_Latest=1)
    check(r.request("GET", "/a/next"), 200, b"1")


@case()
def a_parked_post_learns_that_its_segment_is_gone(r):
    for how in (("DELETE", "/a/0", ()), ("POST", "/a/5", ()), ("POST", "/a/3", (("Lp-Trickle-Reset", "1"),))):
        pub = r.post("/a/0")
        other = r.connect()
        other.send(how[0], how[1], list(how[2]) + [("Transfer-Encoding", "chunked")] * (how[0] == "POST"))
        check(pub.reply(), 200, b"", Connection="close", Lp_Trickle_Seq=0, Lp_Trickle_Closed=None)
        assert pub.ended() == "eof"
        check(r.request("DELETE", "/a"), 200)


@case()
def a_parked_post_learns_that_its_channel_is_gone(r):
    pub = r.post("/a/0")
    reader = r.get("/a/0")
    check(r.request("DELETE", "/a"), 200)
    check(pub.reply(), 200, b"", Connection="close", Lp_Trickle_Seq=0, Lp_Trickle_Closed="terminated")
    check(reader.reply(), 200, b"", Lp_Trickle_Seq=0, Lp_Trickle_Closed="terminated", Content_Type=None)


@case("--no-autocreate")
def a_flowing_post_goes_on_after_its_channel_is_gone(r):
    check(r.request("POST", "/a"), 200)
    pub = r.post("/a/0")
    pub.chunk(b"x")
    reader = r.get("/a/0")
    check(r.request("DELETE", "/a"), 200)
    check(reader.reply(), 200, b"x", Lp_Trickle_Closed=None)
    pub.chunk(b"y" * 100000)
    assert pub.silent()
    pub.end()
    check(pub.reply(), 200, b"", Connection=None, Lp_Trickle_Closed=None)
    check(r.request("POST", "/a/1", body=b"z"), 404)


@case()
def reset_closes_older_segments_only(r):
    old, ahead = r.post("/a/7"), r.post("/a/9")
    old.chunk(b"x")
    reader, far = r.get("/a/7"), r.get("/a/9")
    pub = r.post("/a/8", [("Lp-Trickle-Reset", "1")])
    check(reader.reply(), 200, b"x")
    assert far.silent() and pub.silent() and ahead.silent()
    pub.chunk(b"y")
    pub.end()
    check(pub.reply(), 200, Lp_Trickle_Seq=8)


@case()
def a_dead_publisher_leaves_its_segment_open(r):
    pub = r.post("/a/0")
    pub.chunk(b"x")
    reader = r.get("/a/0")
    check(reader.head(), 200)
    assert reader.data(1) == b"x"
    pub.kill()
    r.sync()
    assert reader.silent()
    check(r.request("DELETE", "/a/0"), 200)
    assert reader.rest() == b""


@case()
def a_body_that_breaks_off_gets_500(r):
    for spoil in ("eof", "garbage"):
        pub = r.post(f"/{spoil}/0")
        pub.chunk(b"x")
        if spoil == "eof":
            pub.socket.shutdown(1)
        else:
            pub.raw(b"zz\r\n")
        check(pub.reply(), 500, b"Server error\n", Connection="close")
        reader = r.get(f"/{spoil}/0")
        check(reader.head(), 200)
        assert reader.data(1) == b"x"
        r.sync()
        assert reader.silent()


@case()
def a_second_post_appends(r):
    one, two = r.post("/a/0"), r.post("/a/0")
    reader = r.get("/a/0")
    one.chunk(b"x")
    check(reader.head(), 200)
    assert reader.data(1) == b"x"
    two.chunk(b"y")
    assert reader.data(1) == b"y"
    two.end()
    check(two.reply(), 200)
    assert reader.rest() == b""
    one.end()
    check(one.reply(), 200)
    late = r.post("/a/0")
    check(late.reply(), 200, b"", Connection="close", Lp_Trickle_Closed=None)
    check(r.request("GET", "/a/0"), 200, b"xy")


# ---- the older server ---------------------------------------------------------

@case("--flavor", "old")
def old_has_no_next_no_seq_and_no_reset(r):
    check(publish(r, "/a/0", b"x"), 200, Lp_Trickle_Seq=None)
    check(r.request("GET", "/a/next"), 400, b"Invalid idx\n")
    pub = r.post("/a/1")
    pub.chunk(b"y")
    reader = r.get("/a/1")
    r.post("/a/2", [("Lp-Trickle-Reset", "1")])
    check(reader.head(), 200)
    assert reader.data(1) == b"y"
    r.sync()
    assert reader.silent()


@case("--flavor", "old")
def old_empty_post_keeps_next_write(r):
    client = r.post("/a/0")
    client.end()
    check(client.reply(), 200, Connection="close", Lp_Trickle_Seq=None)
    check(r.request("GET", "/a/0"), 470, b"", Lp_Trickle_Seq=0, Lp_Trickle_Latest=0)
    reader = r.get("/a/1")
    check(r.request("DELETE", "/a"), 200)
    check(reader.reply(), 200, b"", Lp_Trickle_Seq=1, Lp_Trickle_Closed="terminated", Lp_Trickle_Latest=None)


@case("--flavor", "old")
def old_second_post_replaces(r):
    one = r.post("/a/0")
    one.chunk(b"xxx")
    reader = r.get("/a/0")
    check(reader.head(), 200)
    assert reader.data(3) == b"xxx"
    publish(r, "/a/0", b"y")
    assert reader.rest() == b""
    check(r.request("GET", "/a/0"), 200, b"y")
    one.end()
    check(one.reply(), 200)
    check(r.request("GET", "/a/0"), 200, b"y")


@case("--flavor", "old")
def old_minus_one_rewinds(r):
    publish(r, "/a/7", b"x")
    publish(r, "/a/-1", b"y")
    check(r.request("GET", "/a/8"), 200, b"y", Lp_Trickle_Latest=0)


@case("--flavor", "old", "--read-timeout", "100ms", "--write-timeout", "100ms")
def old_time_limits(r):
    pub = r.post("/a/0")
    reader = r.get("/a/0")
    assert reader.ended() == "eof"
    check(pub.reply(), 500, b"Server error\n", Connection="close")


@case("--changefeed")
def changefeed(r):
    check(r.request("GET", "/_changes/0"), 200, b'{"added":["_changes"]}', Content_Type="application/json")
    client = r.get("/_changes/-1")
    check(r.request("POST", "/a%22"), 200)
    check(client.reply(), 200, b'{"added":["a\\""]}', Lp_Trickle_Seq=1)
    check(r.request("DELETE", "/a%22"), 200)
    check(r.request("GET", "/_changes/2"), 200, b'{"removed":["a\\""]}')


# ---- attacks ------------------------------------------------------------------

GARBAGE = (
    (b"\0\1\2\3\r\n\r\n", 400), (b"GET\r\n\r\n", 400), (b"GET /a/0 HTTP/x.y\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400), (b"GET /a/0 HTTP/1.1\r\nno colon\r\n\r\n", 400),
    (b"POST /a/0 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"POST /a/0 HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    (b"POST /a/0 HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /a/0 HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"GET /a/0 HTTP/1.1\r\nX: " + b"x" * 100000 + b"\r\n\r\n", 431),
    (b"POST /a/0 HTTP/1.1\r\nContent-Type: " + b"x" * 1000 + b"\r\n\r\n", 431),
    (b"POST /a/0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 500),
    (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 404),
    (b"GET /a/9 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 470),
)


@case()
def garbage_gets_a_status(r):
    check(r.request("POST", "/a"), 200)
    for data, status in GARBAGE:
        client = r.connect()
        try:
            client.raw(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        reply = client.head()
        assert reply.status == status, f"{data[:80]!r}: {reply}"
        client.close()
    check(r.request("GET", "/a/next"), 200)


@case()
def every_prefix_of_a_conversation_may_end(r):
    whole = (b"POST /a/0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3\r\nabc\r\n0\r\nT: t\r\n\r\n"
             b"GET /a/0 HTTP/1.1\r\n\r\nGET /a/1 HTTP/1.0\r\n\r\n")
    for n in range(len(whole)):
        client = r.connect()
        client.raw(whole[:n])
        client.kill() if n % 2 else client.close()
    r.sync()
    check(r.request("DELETE", "/a"), 200)


@case()
def pipelined_requests_are_answered_in_order(r):
    client = r.connect()
    requests = b"".join(b"POST /a/%d HTTP/1.1\r\nContent-Length: 1\r\n\r\n%dGET /a/%d HTTP/1.1\r\n\r\n" % (i, i, i)
                        for i in range(5))
    client.raw(requests + b"GET /a/5 HTTP/1.1\r\n\r\nGET /a/next HTTP/1.1\r\n\r\n")
    for i in range(5):
        check(client.reply(), 200, b"", Lp_Trickle_Seq=i)
        check(client.reply(), 200, b"%d" % i)
    r.sync()
    assert client.silent()
    publish(r, "/a/5", b"x")
    check(client.reply(), 200, b"x")
    check(client.reply(), 200, b"6")


@case()
def a_request_byte_by_byte(r):
    client = r.connect()
    for c in b"POST /a/0 HTTP/1.1\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n":
        client.raw(bytes([c]))
    check(client.reply(), 200)
    check(r.request("GET", "/a/0"), 200, b"ab", Content_Type="text/x")


@case()
def http_1_0_streams_until_the_end_of_the_connection(r):
    publish(r, "/a/0", b"abc")
    client = r.connect()
    client.raw(b"GET /a/0 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    check(client.head(), 200, Connection="close", Transfer_Encoding=None)
    assert client._exactly(3) == b"abc"
    assert client.ended() == "eof"


@case("--segment-max", "64K")
def a_segment_has_a_limit(r):
    pub = r.post("/a/0")
    pub.chunk(b"x" * 65536)
    reader = r.get("/a/0")
    check(reader.head(), 200)
    pub.chunk(b"y")
    check(pub.reply(), 413, b"Segment too large\n", Connection="close")
    assert len(reader.rest()) == 65536


@case("--memory-max", "8M")
def slow_readers_are_cut_when_memory_is_short(r):
    data = b"x" * 500000
    publish(r, "/a/0", b"s" * 6000000)  # more than the socket buffers take
    slow = r.connect(rcvbuf=4096)
    slow.send("GET", "/a/0")
    r.sync()
    for i in range(1, 10):
        publish(r, f"/a/{i}", data)
        check(r.request("GET", f"/a/{i}"), 200, data)
    try:
        while True:
            slow._more()
    except ConnectionResetError:
        pass
    assert len(slow.buffer) < 6000000
    publish(r, "/b/0", b"x" * 4000000)
    check(r.request("POST", "/c/0", body=b"x" * 2000000), 503, b"Out of memory\n")
    check(r.request("GET", "/a/9"), 200, data)
    check(r.request("DELETE", "/b"), 200)
    publish(r, "/c/1", b"x" * 2000000)


@case("--channels-max", "3")
def channels_have_a_limit(r):
    for name in "abc":
        check(r.request("POST", f"/{name}"), 200)
    check(r.request("POST", "/d"), 503, b"Too many channels\n")
    check(r.request("POST", "/d/0", body=b"x"), 503)
    publish(r, "/a/0", b"x")
    check(r.request("DELETE", "/b"), 200)
    publish(r, "/d/0", b"x")


@case("--connections-max", "10")
def connections_beyond_the_limit_wait(r):
    clients = [r.connect() for _ in range(30)]
    for client in clients:
        client.send("POST", "/a")
    for client in clients:
        check(client.reply(), 200)
        client.close()


@case()
def a_slow_reader_holds_nobody_up(r):
    pub = r.post("/a/0")
    slow = r.connect(rcvbuf=4096)
    slow.send("GET", "/a/0")
    fast = r.connect()
    fast.send("GET", "/a/0")
    data = os.urandom(1 << 20)
    for i in range(8):
        pub.chunk(data)
        if i == 0:
            check(fast.head(), 200)
        assert fast.data(len(data)) == data
    pub.end()
    check(pub.reply(), 200)
    assert fast.rest() == b""
    check(slow.head(), 200)
    assert slow.rest() == data * 8


@case()
def parked_readers_that_leave_are_forgotten(r):
    check(r.request("POST", "/a"), 200)
    r.sync()
    before = r.fd_count()
    for _ in range(20):
        waiting = [r.connect() for _ in range(20)]
        for client in waiting:
            client.send("GET", "/a/0")
        for i, client in enumerate(waiting):
            client.kill() if i % 2 else client.close()
    r.sync()
    deadline = time.monotonic() + TIMEOUT_S
    while r.fd_count() > before and time.monotonic() < deadline:
        r.sync()
    assert r.fd_count() <= before, (before, r.fd_count())


@case()
def a_thousand_channels(r):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    pairs = []
    for i in range(1000):
        pub, sub = r.connect(), r.connect()
        pub.send("POST", f"/c{i}/0", [("Transfer-Encoding", "chunked")])
        pairs.append((pub, sub))
    r.sync()
    for i, (_, sub) in enumerate(pairs):
        sub.send("GET", f"/c{i}/0")
    for i, (pub, _) in enumerate(pairs):
        pub.chunk(b"%d" % i)
        pub.end()
    for i, (pub, sub) in enumerate(pairs):
        check(sub.reply(), 200, b"%d" % i)
        check(pub.reply(), 200)


# ---- the program --------------------------------------------------------------

@case()
def sigterm_answers_everybody_who_waits(r):
    pub, reader = r.post("/a/0"), r.get("/a/0")
    flowing = r.post("/b/0")
    flowing.chunk(b"x")
    watcher = r.get("/b/0")
    r.child.send_signal(signal.SIGINT)
    check(pub.reply(), 200, Lp_Trickle_Closed="terminated")
    check(reader.reply(), 200, Lp_Trickle_Closed="terminated")
    check(watcher.reply(), 200, b"x")
    assert r.wait() == 0


@case()
def command_line(r):
    def run(*args):
        done = subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=TIMEOUT_S)
        return done.returncode, done.stdout, done.stderr
    status, out, _ = run("--help")
    assert status == 0 and "--port" in out and "--flavor" in out
    status, out, _ = run("--version")
    assert status == 0 and out.startswith("millrace-relay ")
    for bad in (["--port", "x"], ["--port", "65536"], ["--port"], ["--flavor", "odd"], ["--nonsense"], ["word"],
                ["--idle-timeout", "0"], ["--idle-timeout", "5"], ["--memory-max", "1"], ["--path", "a b"],
                ["--memory-max", "99999999999G"], ["--idle-timeout", "9999999999h"], ["--connections-max", "0"]):
        status, out, err = run(*bad)
        assert status == 100 and not out and err, (bad, status, out, err)
    status, out, err = run("--port", str(r.port))
    assert status == 111 and "Address already in use" in err, (status, err)
    status, out, err = run("--host", "no.such.host.invalid", "--port", "0")
    assert status == 111 and "no.such.host.invalid" in err, (status, err)


def main():
    wanted = sys.argv[2:]
    cases = [c for c in CASES if not wanted or c[0].__name__ in wanted]
    failed = 0
    print(f"1..{len(cases)}", flush=True)
    for n, (function, options) in enumerate(cases, 1):
        began = time.monotonic()
        relay = None
        try:
            relay = Relay(PROGRAM, *options)
            with relay:
                function(relay)
            verdict = "ok"
        except Exception:  # any failure of a case is that case's result
            failed += 1
            verdict = "not ok"
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")
            if relay is not None:
                print("".join("# relay: " + line + "\n" for line in relay.log.splitlines()[-5:]), end="")
        print(f"{verdict} {n} - {function.__name__} # {1000 * (time.monotonic() - began):.0f} ms", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
