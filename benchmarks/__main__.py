"""
Run the benchmarks whose tables and pictures stand in the docs, and write them there.

    ./run bench                 all, one after the other: some hours with the large run of orders
    ./run bench cost state      these
    ./run bench --list          what there is, and the page of each

A benchmark that fails leaves its page as it was, and the others go on; so does one that needs what this machine has not
(`--list` says what: power_cut has to be root), and is then named as left out. A figure is as good as the quiet around it: run
nothing else meanwhile, and read the diff. One table is not made here: that of docs/explanation/mutation.md, which measures
the tests; `./run mutate` takes hours for it, and `benchmarks/mutation.py` prints it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from published import LEFT_OUT, SECTIONS

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./run bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    given = parser.parse_args()
    unknown = [name for name in given.name if name not in SECTIONS]
    if unknown:
        parser.error(f"no such benchmark: {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    chosen = [SECTIONS[name] for name in given.name] or list(SECTIONS.values())
    if given.list:
        for section in chosen:
            needs = f" (needs {section.needs})" if section.needs else ""
            print(f"{section.name:12}{section.script:18}docs/{section.page}{needs}")
        return 0
    failed, left_out = [], []
    for section in chosen:
        begun = time.monotonic()
        print(f"bench {section.name}: {section.script} {' '.join(section.words)}", flush=True)
        command = [sys.executable, HERE / section.script, *section.words]
        done = subprocess.run(command, cwd=HERE.parent, check=False)  # noqa: S603 - our scripts, this interpreter
        took = time.monotonic() - begun
        if done.returncode == LEFT_OUT:
            left_out.append(section.name)
            outcome = f"LEFT OUT, it needs {section.needs}"
        elif done.returncode:
            failed.append(section.name)
            outcome = f"FAILED (exit {done.returncode})"
        else:
            outcome = "written"
        print(f"bench {section.name}: {outcome}, {took:.0f} s", flush=True)
    told = [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (("failed", failed), ("left out", left_out))
        if names
    ]
    print(f"bench: {'; '.join(told) or 'all written'}; read git diff docs")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
