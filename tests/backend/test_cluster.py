"""What a process of several says about the others; `test_machines` has real processes."""

from keras_imnet64.backend.cluster import JoinedCluster
from keras_imnet64.backend.launchers import Place


def test_a_lost_process_is_told_without_the_repetitions_of_jax():
    cluster = JoinedCluster(Place(2, 0, "a:1"))
    cause = "INTERNAL: " + 4 * "Error dispatching computation: " + "Read error: reset by peer"
    message = cluster.loss(RuntimeError(cause)).message
    assert "(INTERNAL: Error dispatching computation: Read error: reset by peer): the" in message
