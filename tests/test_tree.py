"""Named arrays in a tree."""

import numpy as np
import pytest

from switchnp import Tree


def test_a_path_and_attributes_reach_the_same_leaf():
    tree = Tree.of({"encoder/blocks/0/wi_df": 1, "encoder/blocks/1/wi_df": 2, "norm_d": 3})

    assert tree.encoder.blocks[1].wi_df == tree["encoder/blocks/1/wi_df"] == 2
    assert tree.norm_d == 3


def test_leaves_come_in_name_order_and_by_number_in_lists():
    paths = [f"blocks/{i}/{name}" for i in range(12) for name in ("wa_d", "wb_d")] + ["norm_d"]
    shuffled = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]

    tree = Tree.of({path: path for path in shuffled})

    assert [path for path, _ in tree.leaves()] == paths


def test_map_keeps_the_shape_of_the_tree():
    tree = Tree.of({"a/0/x_d": 1, "a/1/x_d": 2, "b_d": 3})

    doubled = tree.map(lambda leaf: 2 * leaf)

    assert dict(doubled.leaves()) == {"a/0/x_d": 2, "a/1/x_d": 4, "b_d": 6}


def test_map_goes_through_lists_with_empty_trees():
    tree = Tree(blocks=[Tree(), Tree(x_d=1)]).map(lambda leaf: leaf + 1)

    assert tree.blocks[1].x_d == 2
    assert list(tree.blocks[0]) == []


def test_a_missing_name_says_what_there_is():
    with pytest.raises(AttributeError, match="no 'wq_dhk' in this Tree, which has wi_df, wo_fd"):
        _ = Tree(wi_df=1, wo_fd=2).wq_dhk


def test_a_tree_shows_paths_shapes_and_types():
    shown = repr(Tree(x_td=np.zeros((2, 3), np.float32)))

    assert shown == "x_td  (2, 3)  float32"
