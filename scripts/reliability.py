"""Break things on purpose, count what ttstrain survives, and write docs/reliability.md.

    python scripts/reliability.py                       all but two, side by side on two cores: half an hour
    python scripts/reliability.py soak hostile_files    those
    python scripts/reliability.py --list                the parts
    python scripts/reliability.py NAME --minutes 5      one of them, for five minutes
    python scripts/reliability.py --page                write the page again from the results that are kept

The result of each part is kept in scripts/reliability/results, and the page shows the latest of all of them. Exit code
1: something did not survive.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from reliability import page
from reliability.frame import count, find_parts


def count_part(name: str, form: str, minutes: float | None, seed: int) -> page.Result:
    """Count one part, in the process of a pool."""
    started = time.monotonic()
    rows = count(find_parts()[name], form="short" if form == "short" else "full", minutes=minutes, seed=seed)
    return page.make_result(rows, minutes=(time.monotonic() - started) / 60, seed=seed)


def count_all(names: Sequence[str], asked: argparse.Namespace) -> Iterator[tuple[str, page.Result]]:
    """Count parts side by side, the longest first; yield each as it ends."""
    parts = find_parts()
    ordered = sorted(names, key=lambda name: -parts[name].minutes)
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(count_part, name, asked.form, asked.minutes, asked.seed): name for name in ordered}
        for done in as_completed(running):
            yield running[done], done.result()


def main() -> int:
    parts = find_parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="parts to count; without any, those that take half an hour"
    )
    parser.add_argument("--list", action="store_true", help="list the parts and stop")
    parser.add_argument("--page", action="store_true", help="count nothing, write the page and stop")
    parser.add_argument("--form", choices=("short", "full"), default="full", help="`short` is what the tests run")
    parser.add_argument("--minutes", type=float, help="of each part, instead of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="parts at a time")
    parser.add_argument("--no-page", action="store_true", help="print only")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{name:16} {part.title} ({part.minutes:g} min)" for name, part in parts.items()))
        return 0
    if asked.page:
        write_page()
        return 0
    if unknown := [name for name in asked.names if name not in parts]:
        parser.error(f"there is no part {', '.join(unknown)}; the parts: {', '.join(parts)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = False
    for name, result in count_all(asked.names or [name for name, part in parts.items() if not part.by_name], asked):
        failed |= bool(result.failures)
        print(f"\n{parts[name].title} ({result.minutes:g} min)\n{page.table(result.rows)}", flush=True)
        print("\n".join(f"  not survived: {failure}" for failure in result.failures), flush=True)
        for row in result.rows:
            if not row.tried:
                print(f"  not tried, for want of time: {row.fault}", flush=True)
        if not asked.no_page:
            page.write_result(name, result)
            write_page()
    return int(failed)


def write_page() -> None:
    page.PAGE.write_text(page.page(find_parts(), page.read_results()), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
