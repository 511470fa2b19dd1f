"""Where `buslab` and `python -m sim.cli` begin: before all other imports, so that nothing in the working directory is found first."""

from sim.machine.import_path import put_working_folder_last

put_working_folder_last()

from sim.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
