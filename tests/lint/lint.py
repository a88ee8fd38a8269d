#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Rules that a compiler does not check. Prints TAP: one case a rule.

usage: lint.py SOURCE_ROOT [BUILD_ROOT]

Each rule is a function that yields complaints as "file:line: what". The rules about linked libraries need
BUILD_ROOT; in a sanitized build they allow the sanitizers' libraries.
"""
import os
import re
import subprocess
import sys

C_FILES = (".c", ".h", ".cpp")
TEXT_FILES = C_FILES + (".py", ".md", ".build", ".def", ".txt", ".json", ".sh", ".map", ".in")
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


class Source:
    """One file: its text, and for C the same text with comments and strings blanked out, line by line."""

    def __init__(self, path, content):
        self.path = path
        self.bytes = content
        self.text = self.bytes.decode("utf-8", errors="replace")
        self.lines = self.text.split("\n")
        self.is_c = path.endswith(C_FILES)
        self.code = COMMENT_OR_STRING.sub(blank, self.text).split("\n") if self.is_c else self.lines
        self.folder = path.split(os.sep)[0]
        self.name = os.path.basename(path)

    def find(self, pattern):
        """(line number, match) for each match in the code."""
        for i, line in enumerate(self.code, 1):
            for found in pattern.finditer(line):
                yield i, found


def blank(found):
    return re.sub(r"[^\n]", " ", found.group(0))


def read_sources(root):
    sources = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith((".git", "build", "__pycache__")))
        for name in sorted(files):
            path = os.path.join(folder, name)
            if name.endswith(TEXT_FILES) or "." not in name:
                with open(path, "rb") as f:
                    content = f.read()
                if name.endswith(TEXT_FILES) or content.startswith(b"#!"):
                    sources.append(Source(os.path.relpath(path, root), content))
    return sources


# ---- rules about text ---------------------------------------------------------


def licence_line(sources):
    for s in sources:
        if (s.is_c or s.name.endswith(".py") or "." not in s.name) and "SPDX-License-Identifier: MIT" not in "\n".join(s.lines[:3]):
            yield f"{s.path}:1: no SPDX line among the first three"


def essay(sources):
    for s in sources:
        if s.is_c and not any(re.match(r"/[*/]\s*\S|/\*$", line) for line in s.lines[1:5]):
            yield f"{s.path}:2: does not open with a comment that says what it is"


def clean_text(sources):
    for s in sources:
        if s.bytes and not s.bytes.endswith(b"\n"):
            yield f"{s.path}:{len(s.lines)}: no newline at the end"
        if s.bytes.endswith(b"\n\n"):
            yield f"{s.path}:{len(s.lines)}: empty line at the end"
        for i, line in enumerate(s.lines, 1):
            if line != line.rstrip():
                yield f"{s.path}:{i}: white space at the end of the line"
            if re.search("[\u00a0\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff\ufffd]", line):
                yield f"{s.path}:{i}: invisible or undecodable character"
            if s.is_c and re.match(r" +[^ *]", line) and not re.match(r" {4}\S", line) and "\t" not in line:
                yield f"{s.path}:{i}: indented with spaces"


def no_leftovers(sources):
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for s in sources:
        for i, line in enumerate(s.lines, 1):
            if pattern.search(line) and s.name != "lint.py":
                yield f"{s.path}:{i}: unfinished: {line.strip()}"


def no_machine_paths(sources):
    pattern = re.compile(r"(?<![\w.])/(?:home|root|work|Users|mnt)/[\w.]|\.\./shared\b|/tmp/b-")
    for s in sources:
        for i, line in enumerate(s.lines, 1):
            if pattern.search(line) and s.name != "lint.py":
                yield f"{s.path}:{i}: a path of somebody's machine: {line.strip()}"


# ---- rules about code ---------------------------------------------------------

BANNED = {
    "strcpy": "snprintf() or memcpy()", "strcat": "snprintf()", "sprintf": "snprintf()", "vsprintf": "vsnprintf()",
    "gets": "fgets()", "atoi": "strtol() with its checks", "atol": "strtol()", "atof": "strtod()",
    "system": "posix_spawn in supervisor/sup_spawn.c", "popen": "the same", "sleep": "a wait with a reason to end",
    "usleep": "the same", "signal": "sigaction()", "strtok": "strtok_r() or strcspn()", "alloca": "a fixed buffer",
    "tmpnam": "memfd_create()", "mktemp": "mkstemp()", "select": "poll()",
}


def banned_functions(sources):
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
    for s in sources:
        if s.is_c:
            for i, found in s.find(pattern):
                yield f"{s.path}:{i}: {found.group(1)}() is banned, use {BANNED[found.group(1)]}"


def one_place_forks(sources):
    pattern = re.compile(r"(?<![\w.>])(fork|vfork|clone|clone3|posix_spawnp?)\s*\(|\bSYS_clone3?\b")
    for s in sources:
        if s.is_c and s.folder != "tests" and s.path != os.path.join("supervisor", "sup_spawn.c"):
            for i, found in s.find(pattern):
                yield f"{s.path}:{i}: processes are made in supervisor/sup_spawn.c only"


ATOMIC = re.compile(
    r"(?<!\w)(atomic_(?:load|store|exchange|fetch_\w+|compare_exchange_\w+|thread_fence|signal_fence)(?:_explicit)?"
    r"|__atomic_\w+|__sync_\w+)\s*\(")


def atomics_have_reasons(sources):
    """Each atomic operation has a comment on its line, in the three lines above or the one below."""
    for s in sources:
        if not s.is_c or s.folder == "tests":
            continue
        for i, found in s.find(ATOMIC):
            near = s.lines[max(0, i - 4):i + 1]
            if not any("/*" in line or "*/" in line or "//" in line for line in near):
                yield f"{s.path}:{i}: {found.group(1)} without a comment that gives its reason"
        if s.path.startswith(os.path.join("worker-sdk", "examples")):
            continue
        for i, _ in s.find(re.compile(r"\bvolatile\b")):
            if "volatile" in s.code[i - 1] and "sig_atomic_t" not in s.code[i - 1] and "asm" not in s.code[i - 1]:
                yield f"{s.path}:{i}: volatile is not synchronisation"


# Which folders a folder may include from. Tools and tests may look at contracts, not into processes.
INCLUDES = {
    "base": {"base"},
    "proto": {"proto", "base"},
    "worker-sdk": {"worker-sdk", "proto", "base"},
    "supervisor": {"supervisor", "proto", "base"},
    "ingest": {"ingest", "proto", "base"},
    "egress": {"egress", "proto", "base"},
    "tools": {"tools", "proto", "base"},
    "bin": {"base", "proto", "bin"},
    "libexec": {"base", "proto"},
}
FOLDERS = set(INCLUDES) | {"tests"}


def includes_point_one_way(sources):
    pattern = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
    for s in sources:
        if not s.is_c or s.folder not in INCLUDES:
            continue
        for i, line in enumerate(s.lines, 1):
            found = pattern.match(line)
            if not found:
                continue
            target = os.path.normpath(found.group(1)).split(os.sep)[0]
            if target == "..":
                yield f"{s.path}:{i}: include by the path from the top of the tree"
            elif target in FOLDERS and target not in INCLUDES[s.folder]:
                yield f"{s.path}:{i}: {s.folder}/ must not include from {target}/"


# ---- rules about what was built -------------------------------------------------

LIBC = re.compile(r"^(libc\.so\.6|libm\.so\.6|ld-linux-.*|libpthread\.so\.0|linux-vdso.*)$")
SANITIZER = re.compile(r"^lib(asan|ubsan|tsan|gcc_s|stdc\+\+)\.so")
MEDIA = re.compile(r"^lib(av|sw|postproc|x264|opus)")
CURL = re.compile(r"^libcurl")


def needed(path):
    text = subprocess.run(["readelf", "-d", path], check=True, capture_output=True, text=True).stdout
    return [n for n in re.findall(r"\(NEEDED\).*\[(.+)\]", text) if not SANITIZER.match(n)]


def elf_files(build, *folders):
    for folder in folders:
        top = os.path.join(build, folder)
        for name in sorted(os.listdir(top)) if os.path.isdir(top) else []:
            path = os.path.join(top, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as f:
                    if f.read(4) == b"\x7fELF":
                        yield path


def linked_libraries(build):
    """The walls between the processes, read from the dynamic section of what was built."""
    for path in elf_files(build, "bin", "libexec/millrace", "libexec/millrace/workers", "worker-sdk"):
        name = os.path.basename(path)
        for library in needed(path):
            bad = None
            if name in ("millrace-supervisor", "millrace-relay", "millrace") and (
                    MEDIA.match(library) or CURL.match(library)):
                bad = "links no FFmpeg and no libcurl"
            elif name.startswith("libmillrace.so") and not LIBC.match(library):
                bad = "links the C library only"
            elif os.sep + "workers" in path and not LIBC.match(library) and not library.startswith("libmillrace"):
                bad = "links libmillrace and the C library only"
            if bad:
                yield f"{name}: {bad}, but it links {library}"


def supervisor_was_built(build):
    path = os.path.join(build, "libexec/millrace/millrace-supervisor")
    if not os.path.exists(path):
        yield f"{path}: not there, so nothing was checked"


# ---- the rules themselves -------------------------------------------------------

TEMPTATIONS = (
    ("licence_line", "base/x.c", "/* nobody's */\n"),
    ("essay", "base/x.c", "/* SPDX-License-Identifier: MIT */\n\nint x;\n\n\n"),
    ("clean_text", "base/x.c", "int x; \n"),
    ("clean_text", "docs/x.md", "no newline"),
    ("no_leftovers", "base/x.c", "/* FIX" + "ME */\n"),
    ("no_machine_paths", "docs/x.md", "see /ho" + "me/me/notes\n"),
    ("banned_functions", "tools/x.c", "int n = atoi(s);\n"),
    ("one_place_forks", "supervisor/sup_pool.c", "pid_t p = fork();\n"),
    ("atomics_have_reasons", "proto/x.c", "\n\natomic_store(&x, 1);\n\n"),
    ("includes_point_one_way", "proto/x.c", '#include "supervisor/sup_child.h"\n'),
    ("includes_point_one_way", "egress/x.c", '#include "ingest/ing_demux.h"\n'),
)


def rules_bite(_sources):
    """Each rule finds fault with a text that breaks it."""
    for name, path, text in TEMPTATIONS:
        if not list(globals()[name]([Source(path, text.encode())])):
            yield f"tests/lint/lint.py: {name} accepts {text!r}"


SOURCE_RULES = (licence_line, essay, clean_text, no_leftovers, no_machine_paths, banned_functions, one_place_forks,
                atomics_have_reasons, includes_point_one_way, rules_bite)
BUILD_RULES = (linked_libraries, supervisor_was_built)


def main():
    sources = read_sources(sys.argv[1])
    rules = [(rule, sources) for rule in SOURCE_RULES]
    if len(sys.argv) > 2:
        rules += [(rule, sys.argv[2]) for rule in BUILD_RULES]
    print(f"1..{len(rules)}")
    bad = 0
    for n, (rule, argument) in enumerate(rules, 1):
        complaints = list(rule(argument))
        for c in complaints:
            print(f"# {c}")
        bad += bool(complaints)
        print(f"{'not ' if complaints else ''}ok {n} - {rule.__name__}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
