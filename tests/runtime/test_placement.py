"""What an actor takes of a machine, and how many there is room for."""

import pytest

from flare_runtime.cluster.placement import ActorWish, Demand

GIB = 1 << 30
GPU_NODE = {"CPU": 16.0, "GPU": 2.0, "memory": 60.0 * GIB}
CPU_NODE = {"CPU": 10.0, "memory": 20.0 * GIB}


@pytest.mark.parametrize(
    ("wish", "demand", "slots"),
    [
        (ActorWish(), Demand(4, 1, 0), [2, 0]),  # auto: GPUs are there
        (ActorWish("cpu"), Demand(4, 0, 0), [4, 2]),
        (ActorWish("cpu", memory_bytes=8 * GIB), Demand(4, 0, 8 * GIB), [4, 2]),
        (ActorWish("cpu", cpus=1, memory_bytes=8 * GIB), Demand(1, 0, 8 * GIB), [7, 2]),
        (ActorWish("cuda", gpus=0.5, cpus=2), Demand(2, 0.5, 0), [4, 0]),
        (ActorWish("cpu", memory_bytes=99 * GIB), Demand(4, 0, 99 * GIB), [0, 0]),
        (ActorWish("cpu", memory_bytes=99 * GIB, is_estimate=True), Demand(4, 0, 60 * GIB), [1, 0]),
    ],
)
def test_actors_take_what_is_asked_for_or_suits_the_machines(wish, demand, slots):
    nodes = [GPU_NODE, CPU_NODE]
    assert Demand.of(wish, nodes) == demand
    assert [demand.slots(node) for node in nodes] == slots


def test_a_small_machine_gives_an_actor_all_of_its_cores():
    assert Demand.of(ActorWish(), [{"CPU": 2.0}]) == Demand(2, 0, 0)


def test_one_gpu_is_enough_to_be_taken():
    assert Demand.of(ActorWish(), [{"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}]) == Demand(4, 1, 0)


def test_a_demand_is_said_in_the_units_of_the_options():
    assert str(Demand(4, 0.5, 3 * GIB)) == "4 CPU(s), 0.5 GPU(s), 3,072 MiB"
