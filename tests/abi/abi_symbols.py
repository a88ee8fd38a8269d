#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The symbols of libmillrace are those of millrace.map, each is declared in millrace.h, and only libc is linked.

usage: abi_symbols.py LIBRARY MAP HEADER

Prints TAP. A sanitizer's libraries and symbols are allowed beside libc.
"""
import re
import subprocess
import sys

ALLOWED = re.compile(r"^(libc\.so|ld-linux|libasan|libubsan|libtsan|libclang_rt|libgcc_s|libm\.so|libpthread|libdl|librt)")
SANITIZED = re.compile(r"^(libasan|libubsan|libtsan|libclang_rt)")


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def exported(library):
    """(name, version) of each defined dynamic symbol, the version's own symbol left out."""
    for line in output("nm", "-D", "--defined-only", library).splitlines():
        kind, name = line.split()[-2:]
        if kind != "A":
            yield tuple(name.split("@@")) if "@@" in name else (name, "")


def mapped(text):
    """(name, version) of each global entry."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    for version, body in re.findall(r"(\w[\w.]*)\s*\{\s*global:(.*?)(?:local:.*?)?\}", text, re.DOTALL):
        for name in re.findall(r"(\w+);", body):
            yield name, version


def main():
    library, map_path, header = sys.argv[1:4]
    code = re.sub(r"/\*.*?\*/", "", read(header), flags=re.DOTALL)
    declared = set(re.findall(r"MR_API[^;]*?\b(mr_\w+)\(", code))
    symbols = set(exported(library))
    entries = set(mapped(read(map_path)))
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", library))
    strict = not any(SANITIZED.match(n) for n in needed)
    foreign = [n for n in needed if not (ALLOWED.match(n) if not strict else n.startswith(("libc.so", "ld-linux")))]
    failed = 0
    cases = (
        ("every_export_is_in_the_map", sorted(symbols - entries)),
        ("every_entry_of_the_map_is_exported", sorted(entries - symbols)),
        ("map_and_header_agree", sorted({n for n, _ in entries} ^ declared)),
        ("only_libc_is_linked", foreign),
    )
    print("1..%d" % len(cases))
    for number, (name, wrong) in enumerate(cases, 1):
        for item in wrong:
            print("# %s" % (item,))
        print("%s %d - %s" % ("not ok" if wrong else "ok", number, name))
        failed += bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
