"""Where the broker runs: each ground that `--on` names, with its links; `grounds/model` is virtual time."""
