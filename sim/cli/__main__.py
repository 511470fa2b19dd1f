"""Where `buslab` and `python -m sim.cli` begin: before all other imports, so that nothing in the working directory is found first."""

from sim.machine.import_path import put_working_folder_last

put_working_folder_last()


def main() -> None:
    """Run the command; what ends it while it is still imported ends with 2 or 128 + signal, as Python's own 1 would mean an invalid run."""
    import contextlib
    import os
    import sys

    try:
        from sim.cli.main import main as command
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("BUSLAB_DEBUG", "").strip() not in ("", "0"):  # nothing of ours can be imported
            import traceback

            traceback.print_exc()
        interrupted = isinstance(error, KeyboardInterrupt)
        said = "interrupted" if interrupted else f"cannot start: {error}; install it again, or set BUSLAB_DEBUG=1 for the traceback"
        with contextlib.suppress(OSError):
            os.write(2, f"buslab: {said}\n".encode(errors="backslashreplace"))
        sys.exit(130 if interrupted else 2)
    command()


if __name__ == "__main__":
    main()
