"""`python -m datadiet`, the same as the `datadiet` command. The clock starts here, before any heavy import."""

import time

STARTED = time.perf_counter()


def main() -> None:
    """Run the command line."""
    from datadiet.cli import run

    run(started=STARTED)


if __name__ == "__main__":
    main()
