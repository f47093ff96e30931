"""Layers by the names of their tensors."""

from __future__ import annotations

from sea_lion.merging.layers import layer_count, layer_of


def test_layers_are_counted_by_the_configuration_or_else_by_names() -> None:
    names = ["transformer.h.0.mlp.c_fc.weight", "transformer.h.11.mlp.c_fc.weight", "transformer.wte.weight"]
    assert [layer_of(name) for name in names] == [0, 11, None]
    assert layer_count({"n_layer": 12}, names) == 12
    assert layer_count({"num_hidden_layers": 20}, names) == 20
    assert layer_count({}, ["odd"]) == 1
