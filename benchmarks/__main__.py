"""
Run the benchmarks whose tables and pictures stand in the docs, and write them there.

    ./run bench                 all, one after the other: some hours with the large run of orders
    ./run bench cost state      these
    ./run bench --list          what there is, and the page of each

A benchmark that fails leaves its page as it was, and the others go on. A figure is as good as the quiet around it: run
nothing else meanwhile, and read the diff. `benchmarks/mutation.py` and `benchmarks/power_cut.py` print tables, too;
the first needs a run of `./run mutate`, the other needs root, and both are copied by hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from published import SECTIONS

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
            print(f"{section.name:12}{section.script:18}docs/{section.page}")
        return 0
    failed = []
    for section in chosen:
        begun = time.monotonic()
        print(f"bench {section.name}: {section.script} {' '.join(section.words)}", flush=True)
        command = [sys.executable, HERE / section.script, *section.words]
        done = subprocess.run(command, cwd=HERE.parent, check=False)  # noqa: S603 - our scripts, this interpreter
        took = time.monotonic() - begun
        print(
            f"bench {section.name}: {'written' if done.returncode == 0 else f'FAILED (exit {done.returncode})'}, {took:.0f} s",
            flush=True,
        )
        if done.returncode:
            failed.append(section.name)
    print(
        f"bench: {len(failed)} failed: {', '.join(failed)}"
        if failed
        else "bench: all written; read git diff docs"
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
