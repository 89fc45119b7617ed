import numpy as np
import pytest
from graphs import Builder, between, check


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_grid_sample_passes_channels(mode):
    graph = Builder()
    hidden = graph.conv(graph.input((2, 3, 6, 4)), 3, 8, name="producer")
    places = graph.constant(graph.rng.uniform(-1, 1, (2, 4, 5, 2)))
    sampled = graph.node("GridSample", hidden, places, mode=mode)
    check(graph.model(graph.conv(sampled, 8, 4)), free=["producer"], units=8)


def test_places_that_are_computed_stay():
    graph = Builder()
    x = graph.input((2, 3, 6, 4))
    places = graph.node("Transpose", graph.conv(x, 3, 2, name="places"), perm=[0, 2, 3, 1])
    sampled = graph.node("GridSample", graph.conv(x, 3, 8, name="producer"), places)
    proto = graph.model(graph.conv(sampled, 8, 4))
    check(proto, free=["producer"], frozen={"places": "takes places from them"})


@pytest.mark.parametrize("op", ["RoiAlign", "MaxRoiPool"])
def test_regions_pass_channels(op):
    def middle(graph, x):
        corners = [[0.0, 0.0, 3.0, 2.0], [1.0, 0.0, 2.0, 5.0]]
        if op == "RoiAlign":
            regions = [graph.constant(corners), graph.constant([0, 1])]
            return graph.node(op, x, *regions, output_height=3, output_width=3)
        return graph.node(op, x, graph.constant([[0.0, *corners[0]], [1.0, *corners[1]]]), pooled_shape=[3, 3])

    check(between(middle), free=["producer"], units=8)


def test_scale_of_regions_is_a_float():
    def middle(graph, x):
        regions = graph.constant(np.array([[0.0, 0.0, 6.0, 4.0]])), graph.constant([0])
        return graph.node("RoiAlign", x, *regions, output_height=2, output_width=2, spatial_scale=0.5)

    check(between(middle), free=["producer"], units=8)
