"""Tests that are too long for each change: `make deep` runs them, and a quicker one of the same kind stays.

An entry is how the node id of a test begins, so one without brackets means every case of it. `tests/house/test_too_long.py` sees to it that
each still names a test, and that no test stands here whole with nothing left beside it in its file.
"""

from __future__ import annotations

import pytest

COLLECTED = pytest.StashKey[tuple[str, ...]]()  # the node ids of all that a session collected

TOO_LONG = (
    # the model: what one seed or one case shows stays
    "tests/end_to_end/test_given_out.py::test_nothing_is_written_outside_the_folder_that_was_given[notebooks",
    "tests/end_to_end/test_given_out.py::test_nothing_is_written_outside_the_folder_that_was_given[matrix",
    "tests/end_to_end/test_given_out.py::test_nothing_is_written_outside_the_folder_that_was_given[claims",
    "tests/end_to_end/test_given_out.py::test_nor_by_the_commands_that_read_or_measure[capacity]",
    "tests/end_to_end/test_given_out.py::test_nor_by_the_commands_that_read_or_measure[check]",
    "tests/end_to_end/test_given_out.py::test_a_notebook_s_runs_and_sweeps_lie_beside_it",
    "tests/experiments/batching/test_frontier.py::test_the_model_s_runs_agree_with_theory",
    "tests/experiments/claims/test_changed_buses.py::test_a_bus_that_notices_its_lost_subscription_late_calls_itself_connected",
    "tests/experiments/claims/test_changed_buses.py::test_a_bus_that_raises_makes_fire_and_forget_false",
    "tests/experiments/claims/test_changed_buses.py::test_a_server_that_lists_what_waits_makes_channels_show_the_backlog",
    "tests/experiments/claims/test_claims.py::test_a_run_of_a_changed_bus_decides_the_claim_the_other_way[5]",
    "tests/experiments/claims/test_claims.py::test_another_bus_changes_the_verdict_and_a_broker_that_is_not_there_is_unknown",
    "tests/experiments/claims/test_claims.py::test_where_one_pod_raises_the_recipes_part",
    "tests/experiments/claims/test_claims.py::test_which_clients_come_back_decides_both_claims_on_it[automatic-False",
    "tests/experiments/claims/test_claims.py::test_which_clients_come_back_decides_both_claims_on_it[restart",
    "tests/grounds/model/test_model_runs.py::test_a_long_run_asks_the_broker_some_thousands_of_times_at_most",
    "tests/measure/meaning/test_meaning.py::test_a_run_on_the_model_measures_what_was_said[everyday-warm_up_s=1 slo={} bus.transport=st",
    "tests/pods/test_kubelet.py::test_a_pod_that_thaws_goes_on_with_all_that_waited[pace1",
    "tests/pods/test_kubelet.py::test_a_pod_that_thaws_goes_on_with_all_that_waited[pace2",
    # real servers: the model has each of these, and another case on a real server stays
    "tests/cli/test_main.py::test_a_generator_that_cannot_keep_up_gives_exit_2",
    "tests/end_to_end/test_drawn_scenarios.py::test_so_it_is_on_a_real_server[given_to_a_pod_that_died_with_the_broker]",
    "tests/end_to_end/test_given_out.py::test_nothing_is_written_outside_the_folder_that_was_given[audit",
    "tests/end_to_end/test_lesser_servers.py::test_a_run_goes_on_without_them_and_notes_it[lacking2]",
    "tests/end_to_end/test_lesser_servers.py::test_a_run_goes_on_without_them_and_notes_it[lacking4]",
    "tests/end_to_end/test_lesser_servers.py::test_a_run_goes_on_without_them_and_notes_it[lacking5]",
    "tests/end_to_end/test_own_bus.py::test_both_drivers_and_pods_in_processes_of_their_own_play_it[locust without an envelope]",
    "tests/end_to_end/test_own_bus.py::test_both_drivers_and_pods_in_processes_of_their_own_play_it[locust in plain JSON]",
    "tests/end_to_end/test_run_cluster.py::test_nothing_is_lost_on_a_whole_cluster_and_every_node_is_sampled[locust-sharded]",
    "tests/end_to_end/test_run_cluster.py::test_nothing_is_lost_on_a_whole_cluster_and_every_node_is_sampled[pods-pubsub]",
    "tests/end_to_end/test_run_cluster.py::test_the_same_scenario_and_seed_are_the_same_on_every_ground[cluster:1]",
    "tests/end_to_end/test_run_cluster.py::test_the_same_scenario_and_seed_are_the_same_on_every_ground[container",
    "tests/end_to_end/test_run_cluster.py::test_when_a_master_dies_every_loss_has_a_cause_and_all_is_heard_afterwards[sharded]",
    "tests/end_to_end/test_secrets.py::test_a_notebook_that_is_given_a_url_shows_no_secret",
    "tests/end_to_end/test_secrets.py::test_a_sweep_keeps_no_secret_and_goes_on",
    "tests/end_to_end/test_users_folder.py::test_a_run_is_valid_whatever_the_user_s_folder_holds[Locust's own command]",
    "tests/end_to_end/test_users_folder.py::test_a_run_is_valid_whatever_the_user_s_folder_holds[pods in the run's process]",
    "tests/experiments/matrix/test_run.py::test_on_a_real_server_every_loss_of_a_cell_has_a_cause",
    "tests/faults/test_faults.py::test_a_clock_behind_makes_locks_that_are_over_before_they_begin[pod-invalid-embedded]",
    "tests/faults/test_faults.py::test_a_wrong_clock_breaks_a_limit_on_ages_that_a_right_one_keeps[embedded]",
    "tests/faults/test_faults.py::test_new_pods_are_there_before_old_ones_go_on_a_real_server[local]",
    "tests/grounds/test_container_images.py::test_the_image_that_runs_is_the_one_that_is_recorded[registry.example.test/hub/]",
    "tests/grounds/test_control.py::test_a_start_comes_after_the_end_before_it_that_nobody_waits_for[frozen-stop-cluster]",
    "tests/grounds/test_control.py::test_a_start_comes_after_the_end_before_it_that_nobody_waits_for[running-kill-cluster]",
    "tests/grounds/test_control.py::test_a_start_comes_after_the_end_before_it_that_nobody_waits_for[running-stop-cluster]",
    "tests/house/test_docs.py::test_the_commands_of_a_page_work_as_pasted[docs/how-to/capacity.md]",
    "tests/house/test_docs.py::test_the_commands_of_a_page_work_as_pasted[docs/how-to/faults.md]",
    "tests/house/test_docs.py::test_the_commands_of_a_page_work_as_pasted[docs/how-to/own-code.md]",
    "tests/house/test_docs.py::test_the_commands_of_a_page_work_as_pasted[docs/how-to/run.md]",
    "tests/house/test_docs.py::test_the_commands_of_a_page_work_as_pasted[docs/how-to/scenarios.md]",
    "tests/house/test_docs.py::test_the_commands_of_a_page_work_as_pasted[docs/how-to/sweep.md]",
    "tests/locustfiles/test_own_users.py::test_locust_s_own_command_starts_them_too[processes]",
    "tests/locustfiles/test_own_users.py::test_what_cannot_be_measured_ends_the_run_with_what_was_wrong[import]",
    "tests/locustfiles/test_own_users.py::test_what_cannot_be_measured_ends_the_run_with_what_was_wrong[service]",
    "tests/locustfiles/test_own_users.py::test_what_cannot_be_measured_ends_the_run_with_what_was_wrong[syntax]",
    "tests/locustfiles/test_own_users.py::test_what_cannot_be_measured_ends_the_run_with_what_was_wrong[typo]",
    "tests/measure/meaning/test_meaning.py::test_a_real_server_counts_the_connections_that_were_said",
    "tests/pods/test_kubelet.py::test_a_pod_that_sleeps_through_an_outage_learns_of_it_when_it_thaws[false-embedded]",
    "tests/run/test_fit.py::test_a_low_soft_limit_is_no_limit",
    "tests/run/test_sampler.py::test_so_it_is_on_a_server_that_does_not_count_cuts",
    "tests/scenario/test_start.py::test_the_notebook_runs_and_says_what_was_lost",
)
