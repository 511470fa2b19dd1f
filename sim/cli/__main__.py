"""`python -m sim.cli` is `buslab`, and as that it finds nothing in the working directory that it did not look for."""

from sim.machine.import_path import put_working_folder_last

put_working_folder_last()

from sim.cli.main import main  # noqa: E402

main()
